"""OpenVINO on the processor (optional package ``openvino``)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CatchweightError
from ..tracing.graph import check_onnx
from .file_target import FileTarget, not_an_image, run_shape

_PRECISIONS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


class OpenVinoSession:
    """A compiled file and one request, whose input and outputs are allocated once."""

    device = "cpu"

    def __init__(
        self, path: Path, threads: int, batch: int, size: tuple[int, int] | None, precision: str = "fp32"
    ) -> None:
        import openvino

        check_onnx(path)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself OpenVINO computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
        }
        try:
            model = openvino.Core().read_model(str(path))
            shape = run_shape(path, _input_dims(model, path), batch, size)
            model.reshape(list(shape))
            self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:  # all that OpenVINO raises
            reason = [line for line in str(error).splitlines() if line.strip()][-1:]
            raise CatchweightError(f"{path}: OpenVINO cannot load it ({''.join(reason)})") from error
        self.runtime = f"openvino {_version()} cpu"
        self.threads, self.batch = threads, shape[0]
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._image = openvino.Tensor(image, shared_memory=True)
        self._request.set_input_tensor(self._image)

    def run(self) -> None:
        self._request.infer(share_outputs=True)

    def logits(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The first output for these images (B, 3, H, W) float32, of the shape that the session was opened with."""
        np.copyto(self._image.data, images)
        self.run()
        return self.outputs()

    def outputs(self) -> np.ndarray[Any, Any]:
        """The first output of the last run."""
        return np.array(self._request.get_output_tensor(0).data)

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


class OpenVinoCpu(FileTarget):
    """Exports through ``to_onnx``, read and compiled by OpenVINO, for latency.

    ``int8`` reads the file that ONNX Runtime's static quantisation wrote (good for latency only, see
    :func:`.quantized.quantize_for_latency`; with real ranges it is :func:`catchweight.compress.quantize.quantize`'s);
    ``bf16`` is computed in bfloat16 on float32 weights and input.
    """

    name = "openvino:cpu"
    precisions = ("fp32", "int8", "bf16")

    @staticmethod
    def missing() -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return 'package openvino is not installed: pip install "catchweight[openvino]"'
        return None

    def version(self) -> str:
        return f"openvino {_version()}"

    def open(self, path: Path, size: tuple[int, int] | None) -> OpenVinoSession:
        return OpenVinoSession(path, self.threads, self.batch, size, self.precision)


def _version() -> str:
    return importlib.metadata.version("openvino")


def _input_dims(model: Any, path: Path) -> list[int | None]:
    inputs = model.inputs
    shape = inputs[0].partial_shape if len(inputs) == 1 else None
    if shape is None or shape.rank.is_dynamic or len(shape) != 4 or inputs[0].element_type.to_string() != "f32":
        raise not_an_image(path, ", ".join(f"{entry.any_name} {entry.element_type}" for entry in inputs))
    return [dim.get_length() if dim.is_static else None for dim in shape]
