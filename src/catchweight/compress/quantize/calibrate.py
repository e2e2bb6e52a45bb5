"""Ranges of activations, seen on real images; one image is in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, TensorsData, create_calibrator

from ...errors import unknown
from ...targets.onnxruntime_target import open_session
from .graph import quiet

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value of each activation tensor that its quantised form must hold."""


@dataclass(frozen=True)
class Method:
    """A way to choose ranges: what it is called by ONNX Runtime and its options there."""

    says: str
    kind: CalibrationMethod
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {
    "minmax": Method("the extremes seen", CalibrationMethod.MinMax, {}),
    "percentile": Method(
        "all but 0.01 % of the values, half at each end",
        CalibrationMethod.Percentile,
        {"percentile": 99.99, "symmetric": False},
    ),
    "entropy": Method(
        "the range that loses the least information (KL divergence of histograms)",
        CalibrationMethod.Entropy,
        {"num_bins": 512, "symmetric": False},
    ),
}


class _Feed(CalibrationDataReader):
    """One batch, then nothing: ONNX Runtime's calibrators keep every activation of what one reader gives."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def calibrate(model: onnx.ModelProto, images: Iterable[np.ndarray], method: str, ops: Sequence[str]) -> Ranges:
    """Ranges of every tensor that operators of the types ``ops`` read or write.

    Args:
        model: a prepared float graph.
        images: normalised batches (B, 3, H, W) float32; each is run once and dropped.
        method: one of ``METHODS``.

    Raises:
        UsageError: unknown method.
        CatchweightError: ONNX Runtime cannot run or calibrate the graph.
    """
    if method not in METHODS:
        raise unknown("calibration", method, METHODS)
    chosen, name = METHODS[method], model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder, quiet("the network"):
        source = Path(folder) / "float.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            list(ops),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=chosen.kind,
            extra_options=dict(chosen.options),
        )
        for image in images:
            calibrator.collect_data(_Feed({name: image}))
        found = calibrator.compute_data()
    return {tensor: (float(data.range_value[0]), float(data.range_value[1])) for tensor, data in found.items()}


def tensors_data(ranges: Ranges) -> TensorsData:
    """The ranges as ONNX Runtime's quantiser takes them."""
    as_arrays = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, as_arrays)


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
        mean = f"catchweight_mean_{place}"
        copy.graph.node.append(helper.make_node("ReduceMean", [tensor, axes.name], [mean], mean, keepdims=0))
        copy.graph.output.append(helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    session = open_session(copy.SerializeToString(), threads=1)
    entry, totals, count = session.get_inputs()[0].name, [0.0] * len(tensors), 0
    for image in images:
        means = session.run(None, {entry: image})
        totals = [total + mean.astype(np.float64) for total, mean in zip(totals, means, strict=True)]
        count += 1
    return {tensor: np.asarray(total) / count for tensor, total in zip(tensors, totals, strict=True)}
