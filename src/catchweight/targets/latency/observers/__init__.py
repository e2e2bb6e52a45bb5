"""Runtimes that can be watched kernel by kernel; a new one is one class and one line."""

from __future__ import annotations

from .base import NOWHERE, Kernels, Observer
from .eager import EagerObserver
from .onnx_runtime import OnnxRuntimeObserver

OBSERVERS: dict[str, Observer] = {
    "onnxruntime:cpu": OnnxRuntimeObserver(),
    **dict.fromkeys(
        ("torch:cpu", "torch:cpu:bf16", "torch:cuda", "torch:cuda:fp16", "torch:cuda:bf16"), EagerObserver()
    ),
}
"""By the target's text."""

__all__ = ["NOWHERE", "OBSERVERS", "Kernels", "Observer"]
