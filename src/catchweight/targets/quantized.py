"""An int8 file for measuring latency before anything is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from ..errors import CatchweightError
from ..files import written_aside
from .graph import fixed_input, load_graph

_IMAGES = 4


class _RandomImages(CalibrationDataReader):
    """Seeded normal noise, as wide as normalised photos."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self._images = iter([{name: rng.standard_normal(shape, dtype=np.float32)} for _ in range(_IMAGES)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._images, None)


def quantize_for_latency(path: Path, out: Path, batch: int = 1, size: tuple[int, int] | None = None) -> Path:
    """Static int8 quantisation of an ONNX file: weights per channel, activations uint8, QDQ format.

    Ranges are calibrated on random images, so the file is as fast as a properly quantised one but its predictions
    are worth nothing; calibration on real images belongs to compression.

    Raises:
        CatchweightError: the file cannot be read or quantised.
    """
    fixed_batch, fixed_size = fixed_input(path)
    height, width = fixed_size or size or (224, 224)
    name = load_graph(path).graph.input[0].name
    images = _RandomImages(name, (fixed_batch or batch, 3, height, width))
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its advice to preprocess is for graphs that are not folded yet
    try:
        with written_aside(out) as temporary:
            quantize_static(
                str(path),
                str(temporary),
                images,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # onnx and onnxruntime raise their own untyped families
        raise CatchweightError(f"{path} cannot be quantised: {str(error).splitlines()[0]}") from error
    finally:
        logging.root.setLevel(level)
    return out


def is_quantized(path: Path) -> bool:
    """Whether a file's graph already holds quantised tensors; the errors of :func:`.graph.load_graph`."""
    return any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in load_graph(path).graph.node)
