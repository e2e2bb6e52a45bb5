"""What is measured on calibration images: ranges of activations, and means of their channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationMethod

from ...errors import unknown
from ...targets.runtimes import quantized
from ...targets.runtimes.onnxruntime_target import open_session
from ...targets.runtimes.quantized import Ranges


@dataclass(frozen=True)
class Method:
    """A way to choose ranges: what it is called by ONNX Runtime and its options there."""

    says: str
    kind: CalibrationMethod
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {
    "minmax": Method("the extremes seen", CalibrationMethod.MinMax, {}),
    "percentile": Method(
        "all but 0.01 % of the values, half of it at each end",
        CalibrationMethod.Percentile,
        {"percentile": 99.99, "symmetric": False},
    ),
    "entropy": Method(
        "the range that loses the least information (KL divergence of histograms)",
        CalibrationMethod.Entropy,
        {"num_bins": 512, "symmetric": False},
    ),
}


def calibrate(model: onnx.ModelProto, images: Iterable[np.ndarray], method: str) -> Ranges:
    """Ranges by one of ``METHODS``: see :func:`...targets.runtimes.quantized.calibrate`.

    Raises:
        UsageError: unknown method.
        CatchweightError: ONNX Runtime cannot run or calibrate the graph.
    """
    if method not in METHODS:
        raise unknown("calibration", method, METHODS)
    return quantized.calibrate(model, images, METHODS[method].kind, METHODS[method].options)


def channel_means(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean of each named tensor (B, C, H, W) over images and pixels: (C,) float64 each."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    axes = helper.make_tensor("catchweight_axes", onnx.TensorProto.INT64, [3], [0, 2, 3])
    copy.graph.initializer.append(axes)
    for place, tensor in enumerate(tensors):
        mean = f"catchweight_mean_{place}"  # reduced inside the graph, so that only means leave the runtime
        copy.graph.node.append(helper.make_node("ReduceMean", [tensor, axes.name], [mean], mean, keepdims=0))
        copy.graph.output.append(helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    session = open_session(copy.SerializeToString(), threads=1)
    entry, count = session.get_inputs()[0].name, 0
    totals = [np.zeros(()) for _ in tensors]
    for image in images:
        means = session.run(None, {entry: image})
        totals = [total + mean.astype(np.float64) for total, mean in zip(totals, means, strict=True)]
        count += 1
    return {tensor: total / count for tensor, total in zip(tensors, totals, strict=True)}
