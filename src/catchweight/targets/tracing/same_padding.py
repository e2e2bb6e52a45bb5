"""TensorFlow's "same" padding in graphs of free size.

timm computes the padding from the input's size. Symbolically that is a nest of ceilings and maxima that grows with
every layer: torch.export needs minutes for it, and the file computes it at each run. ONNX has the same rule as an
attribute of the convolution (``auto_pad = SAME_UPPER``), so while a network is traced with free size its
``Conv2dSame`` layers call an operator that becomes just that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript import opset20
from timm.layers import Conv2dSame
from torch import Tensor, nn

torch.library.define(
    "catchweight::conv2d_same",
    "(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] dilation, int groups) -> Tensor",
)


@torch.library.register_fake("catchweight::conv2d_same")
def _shape(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    size = [(length + step - 1) // step for length, step in zip(x.shape[-2:], stride, strict=True)]
    return x.new_empty(x.shape[0], weight.shape[0], *size)


def _to_onnx(x: Any, weight: Any, bias: Any, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Any:
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return opset20.Conv(*inputs, auto_pad="SAME_UPPER", strides=list(stride), dilations=list(dilation), group=groups)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.catchweight.conv2d_same.default: _to_onnx,
}
"""What ``torch.onnx.export`` needs to know of the operator."""


@contextmanager
def symbolic_same_padding(net: nn.Module) -> Iterator[None]:
    """Inside, every ``Conv2dSame`` of ``net`` can be traced with free size (and only traced)."""
    layers = [module for module in net.modules() if type(module) is Conv2dSame]
    for layer in layers:
        layer.forward = _traced(layer)  # type: ignore[method-assign] # of this one object, until the trace ends
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _traced(layer: Conv2dSame) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        convolve = torch.ops.catchweight.conv2d_same
        traced: Tensor = convolve(x, layer.weight, layer.bias, list(layer.stride), list(layer.dilation), layer.groups)
        return traced

    return forward
