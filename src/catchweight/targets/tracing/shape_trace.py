"""The operators of a convolutional network in milliseconds: its own code runs on shapes instead of tensors.

``torch.export`` takes seconds, too long for a search that asks for a thousand architectures. Here a :class:`Shape` goes
through the network's ``forward``; every function of torch that meets it writes down the operator that ``torch.export``
would, and returns another shape. Only what segmentation networks are made of is known; all else is an error, and tests
hold both traces against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ...errors import CatchweightError
from .graph import evaluating
from .trace import IMAGE, Op, Trace, Value

_FLOAT = 4  # bytes


class Shape:
    """Stands for a float tensor (B, C, H, W): a shape, and the operator that gave it."""

    def __init__(self, recorder: _Recorder, shape: tuple[int, ...], name: str) -> None:
        self.recorder, self.name = recorder, name
        self.shape = torch.Size(shape)
        self.ndim = len(shape)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            raise CatchweightError(f"the shapes of torch's {getattr(func, '__name__', func)} are not known here")
        return rule(*args, **(kwargs or {}))

    def dim(self) -> int:
        return self.ndim

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def __add__(self, other: Shape) -> Shape:
        return _pointwise("add", self, other)

    def __mul__(self, other: Any) -> Shape:
        return _pointwise("mul", self, other)

    __rmul__ = __mul__

    def mean(self, dim: Sequence[int], keepdim: bool = False) -> Shape:
        assert keepdim
        lengths = [1 if axis in [d % self.ndim for d in dim] else n for axis, n in enumerate(self.shape)]
        return self.recorder.op("mean", (self,), tuple(lengths), dim=list(dim), keepdim=True)

    def sigmoid(self) -> Shape:
        return _pointwise("sigmoid", self)

    sigmoid_ = sigmoid


class _Recorder:
    """Operators so far, and the module that is running."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        self.ops: list[Op] = []
        self.running: list[tuple[str, str]] = [("", "")]
        self._paths = paths

    def op(
        self, kind: str, inputs: Sequence[Shape], out: tuple[int, ...], weight: Tensor | None = None, **arguments: Any
    ) -> Shape:
        path, module_type = self.running[-1]
        name = f"{kind}_{len(self.ops)}"
        weights = {} if weight is None else {f"{path}.weight": Value(tuple(weight.shape), _FLOAT)}
        names, shapes = tuple(x.name for x in inputs), tuple(tuple(x.shape) for x in inputs)
        kernel = () if weight is None else tuple(weight.shape[2:])
        self.ops.append(
            Op(name, kind, path, module_type, names, shapes, Value(out, _FLOAT), weights, arguments, kernel)
        )
        return Shape(self, out, name)

    def enter(self, module: nn.Module, args: Any) -> None:
        self.running.append((self._paths[id(module)], type(module).__name__))

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self.running.pop()


def shape_trace(net: nn.Module, size: tuple[int, int], batch: int = 1) -> Trace:
    """What :func:`.trace` gives, without a program; of each operator only the arguments that :mod:`.blocks` reads.

    Raises:
        CatchweightError: the network uses an operator that is not known here.
    """
    recorder = _Recorder({id(module): path for path, module in net.named_modules()})
    image = Shape(recorder, (batch, 3, *size), IMAGE)
    with evaluating(net), torch.no_grad(), _following(recorder):
        try:
            out = net(image)
        except (AttributeError, TypeError, ValueError) as error:  # a method or argument that a Shape has not
            raise CatchweightError(f"an operator of {type(net).__name__} is not known here: {error}") from error
    outputs = (out,) if isinstance(out, Shape) else tuple(out)
    value = Value(tuple(image.shape), _FLOAT)
    return Trace(tuple(recorder.ops), value, tuple(x.name for x in outputs), cast(Any, None))


@contextmanager
def _following(recorder: _Recorder) -> Iterator[None]:
    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(recorder.enter),
            register_module_forward_hook(recorder.leave),
        ):
            stack.callback(handle.remove)
        yield


def _pointwise(kind: str, *operands: Any) -> Shape:
    """Sizes of 1 stretch; weights and numbers among the operands have at most one dimension a channel."""
    shapes = [x for x in operands if isinstance(x, Shape)]
    out = torch.broadcast_shapes(*(x.shape for x in shapes)) if len(shapes) > 1 else shapes[0].shape
    return shapes[0].recorder.op(kind, shapes, tuple(out))


def _activation(kind: str) -> Callable[..., Shape]:
    return lambda x, *_args, **_kwargs: _pointwise(kind, x)


def _conv2d(
    x: Shape, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Shape:
    sides = _sides(x.shape[-2:], weight.shape[-2:], stride, padding, dilation)
    arguments = {"stride": stride, "dilation": dilation, "groups": groups}
    return x.recorder.op("conv2d", (x,), (x.shape[0], weight.shape[0], *sides), weight, **arguments)


def _max_pool2d(
    x: Shape, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *_: Any, **__: Any
) -> Shape:
    stride = kernel_size if stride is None else stride
    sides = _sides(x.shape[-2:], _pair(kernel_size), stride, padding, dilation)
    arguments: dict[str, Any] = {
        "kernel_size": _pair(kernel_size),
        "stride": _pair(stride),
        "dilation": _pair(dilation),
    }
    return x.recorder.op("max_pool2d", (x,), (*x.shape[:2], *sides), **arguments)


def _sides(sides: Sequence[int], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> tuple[int, ...]:
    windows = zip(sides, kernel, _pair(stride), _pair(padding), _pair(dilation), strict=True)
    return tuple((n + 2 * pad - far * (side - 1) - 1) // step + 1 for n, side, step, pad, far in windows)


def _batch_norm(x: Shape, *_args: Any, **_kwargs: Any) -> Shape:
    return _pointwise("batch_norm", x)


def _pad(x: Shape, pad: Sequence[int], *_args: Any, **_kwargs: Any) -> Shape:
    left, right, top, bottom = pad
    return x.recorder.op("pad", (x,), (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right))


def _interpolate(x: Shape, size: Sequence[int], mode: str = "nearest", **_: Any) -> Shape:
    return x.recorder.op(f"upsample_{mode}2d", (x,), (*x.shape[:2], *size))


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


_RULES: dict[Any, Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.pad: _pad,
    F.interpolate: _interpolate,
    F.max_pool2d: _max_pool2d,
    Tensor.mul: lambda a, b: _pointwise("mul", a, b),
    Tensor.__mul__: lambda a, b: _pointwise("mul", a, b),
    Tensor.add: lambda a, b: _pointwise("add", a, b),
    F.relu: _activation("relu"),
    F.relu6: _activation("hardtanh"),
    F.hardtanh: _activation("hardtanh"),
    F.silu: _activation("silu"),
    F.hardswish: _activation("hardswish"),
    F.hardsigmoid: _activation("hardsigmoid"),
    torch.sigmoid: _activation("sigmoid"),
}

__all__ = ["Shape", "shape_trace"]
