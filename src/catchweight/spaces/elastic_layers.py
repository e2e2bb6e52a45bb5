"""Convolutions whose width and kernel may be open, and blocks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, unknown
from ..nets.layers import activation
from .choices import Kernel, Width
from .elastic import Convert, Elastic
from .structure import scored

Channels = int | Width
Norm = Literal["shared", "switchable", "none"]
_Module = TypeVar("_Module", bound=nn.Module)


def largest(choice: int | Width | Kernel) -> int:
    return choice if isinstance(choice, int) else choice.options[-1]


def present(choice: int | Width | Kernel) -> int:
    return choice if isinstance(choice, int) else choice.value


class ElasticConv(Elastic):
    """k x k convolution, batch norm, activation; each size an int or a choice. (B, Cin, H, W) -> (B, Cout, H', W').

    Narrow and small options are slices of the one weight: leading channels, centre of the kernel. Padding keeps the
    size at stride 1. Plain form: ``nn.Sequential`` of ``nn.Conv2d``, ``nn.BatchNorm2d`` and the activation, without
    those that are ``"none"``; a convolution alone is not wrapped. Without a norm the convolution has a bias.

    Args:
        channels_in: width of the input; a sequence of widths if the input is a concatenation, whose parts are sliced
            each for itself.
        channels_out: width of the output.
        kernel: odd side.
        groups: of the convolution; more than 1 needs fixed widths (for a group a channel: ElasticDepthwise).
        norm: ``"shared"``, one batch norm whose statistics are to be recalibrated for a member; ``"switchable"``,
            one for each width (slimmable networks, Yu et al., ICLR 2019); ``"none"``.
        act: a name that :func:`catchweight.nets.layers.activation` knows.

    Raises:
        UsageError: unknown norm or activation, groups of open widths, an even kernel.
    """

    depthwise = False

    def __init__(
        self,
        channels_in: Channels | Sequence[Channels],
        channels_out: Channels,
        kernel: int | Kernel = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        norm: Norm = "shared",
        act: str = "relu",
    ) -> None:
        super().__init__()
        self.channels_in = (channels_in,) if isinstance(channels_in, (int, Width)) else tuple(channels_in)
        self.channels_out = channels_out
        self.kernel = kernel
        self.stride, self.dilation = stride, dilation
        _check(self.channels_in, channels_out, kernel, 1 if self.depthwise else groups, norm)
        side = largest(kernel)
        self.conv = nn.Conv2d(
            sum(map(largest, self.channels_in)), largest(channels_out), side, stride,
            dilation=dilation, groups=groups, bias=norm == "none",
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in _norm_widths(channels_out, norm))
        self.act = activation(act)
        small = kernel.options[:-1] if isinstance(kernel, Kernel) and kernel.transform else ()
        self.transforms = nn.ModuleDict({str(option): _identity(option**2) for option in small})

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._weight(), self._bias()
        padding = self._padding(weight.shape[-1])
        groups = weight.shape[0] if self.depthwise else self.conv.groups
        y = F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)
        return scored(self._activated(y), self.channels_out, self.kernel)

    def to_plain(self, convert: Convert) -> nn.Module:
        weight, bias = self._weight(), self._bias()
        groups = weight.shape[0] if self.depthwise else self.conv.groups
        conv = nn.Conv2d(
            weight.shape[1] * groups, weight.shape[0], weight.shape[-1], self.stride,
            self._padding(weight.shape[-1]), self.dilation, groups, bias=bias is not None, device="meta",
        )  # fmt: skip
        layers: list[nn.Module] = [_with(conv, self.conv, weight=weight, bias=bias)]
        if len(self.norms):
            layers.append(_sliced_norm(self._norm(), weight.shape[0]))
        if not isinstance(self.act, nn.Identity):
            layers.append(convert(self.act))
        return nn.Sequential(*layers) if len(layers) > 1 else layers[0]

    def _padding(self, side: int) -> int:
        return self.dilation * (side // 2)

    def _bias(self) -> Tensor | None:
        return None if self.conv.bias is None else self.conv.bias[: present(self.channels_out)]

    def _weight(self) -> Tensor:
        weight = self.conv.weight[: present(self.channels_out)]
        if not self.depthwise and any(isinstance(part, Width) for part in self.channels_in):
            weight = _taken(weight, self.channels_in)
        return weight if isinstance(self.kernel, int) else self._centre(weight, self.kernel)

    def _centre(self, weight: Tensor, kernel: Kernel) -> Tensor:
        """The chosen kernel, or the weighted sum of all, the small ones padded with zeros."""
        mixture = kernel.mixture
        if mixture is None:
            return self._cropped(weight, kernel.value, kernel)
        found = torch.zeros_like(weight)
        for probability, side in zip(mixture.to(weight.dtype), kernel.options, strict=True):
            margin = (kernel.options[-1] - side) // 2
            found = found + probability * F.pad(self._cropped(weight, side, kernel), [margin] * 4)
        return found

    def _cropped(self, weight: Tensor, side: int, kernel: Kernel) -> Tensor:
        for option in reversed(kernel.options):  # each size comes from the next larger one, as in Once-for-All
            margin = (weight.shape[-1] - option) // 2
            weight = weight[..., margin : margin + option, margin : margin + option]
            if str(option) in self.transforms:
                weight = self.transforms[str(option)](weight.flatten(2)).view_as(weight)
            if option == side:
                break
        return weight

    def _norm(self, index: int | None = None) -> nn.BatchNorm2d:
        """The norm of a width; by default of the present one."""
        if index is None:
            index = self.channels_out.index if isinstance(self.channels_out, Width) else 0
        norm = self.norms[index if len(self.norms) > 1 else 0]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def _activated(self, y: Tensor) -> Tensor:
        """Norm and activation; of a mixed width, the weighted sum over its options, padded with zero channels."""
        mixture = self.channels_out.mixture if isinstance(self.channels_out, Width) else None
        if mixture is None:
            return self._activate(y, self._norm() if len(self.norms) else None)
        assert isinstance(self.channels_out, Width)
        if len(self.norms) < 2:
            mask = self.channels_out.mask()
            assert mask is not None
            return self._activate(y, self._norm() if len(self.norms) else None) * mask.to(y.dtype)[:, None, None]
        found = torch.zeros_like(y)
        for index, width in enumerate(self.channels_out.options):
            part = self._activate(y[:, :width], self._norm(index)) * mixture[index].to(y.dtype)
            found = found + F.pad(part, [0, 0, 0, 0, 0, y.shape[1] - width])
        return found

    def _activate(self, y: Tensor, norm: nn.BatchNorm2d | None) -> Tensor:
        result: Tensor = self.act(y if norm is None else _normalised(y, norm))
        return result


class ElasticDepthwise(ElasticConv):
    """Depthwise convolution, batch norm, activation: (B, C, H, W) -> (B, C, H', W'). Arguments as ElasticConv's."""

    depthwise = True

    def __init__(
        self,
        channels: Channels,
        kernel: int | Kernel = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        norm: Norm = "shared",
        act: str = "relu",
    ) -> None:
        super().__init__(
            channels, channels, kernel, stride, groups=largest(channels), dilation=dilation, norm=norm, act=act
        )


class Residual(nn.Module):
    """``act(body(x) + shortcut(x))``; the shapes of both must agree."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: str = "relu") -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.body(x) + self.shortcut(x))
        return result


def basic_block(
    channels_in: Channels,
    channels_out: Channels,
    kernel: int | Kernel = 3,
    stride: int = 1,
    *,
    hidden: Channels | None = None,
    norm: Norm = "shared",
) -> Residual:
    """Two convolutions and a shortcut (ResNet, He et al., CVPR 2016), a 1x1 convolution where the shape changes.

    Args:
        hidden: width between the two; ``channels_out`` by default.
    """
    inside = channels_out if hidden is None else hidden
    body = nn.Sequential(
        ElasticConv(channels_in, inside, kernel, stride, norm=norm),
        ElasticConv(inside, channels_out, kernel, norm=norm, act="none"),
    )
    same = channels_in is channels_out or (isinstance(channels_in, int) and channels_in == channels_out)
    if same and stride == 1:
        return Residual(body)
    return Residual(body, ElasticConv(channels_in, channels_out, 1, stride, norm=norm, act="none"))


class Zoomed(nn.Module):
    """Zoomed convolution (FasterSeg, Chen et al., ICLR 2020): at half the size, resized back. Keeps (B, C, H, W).

    Bilinear resize to half (corners aligned), convolution, norm, resize back, ReLU.
    """

    def __init__(self, channels: Channels, kernel: int | Kernel = 3, norm: Norm = "shared") -> None:
        super().__init__()
        self.conv = ElasticConv(channels, channels, kernel, norm=norm, act="none")
        self.act = activation("relu")

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        half = [max(1, side // 2) for side in size]
        small = self.conv(F.interpolate(x, size=half, mode="bilinear", align_corners=True))
        result: Tensor = self.act(F.interpolate(small, size=size, mode="bilinear", align_corners=True))
        return result


def _check(
    channels_in: tuple[Channels, ...], channels_out: Channels, kernel: int | Kernel, groups: int, norm: str
) -> None:
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    if groups > 1 and any(isinstance(part, Width) for part in (*channels_in, channels_out)):
        raise UsageError(f"a convolution of {groups} groups needs fixed widths; ElasticDepthwise has open ones")
    if isinstance(kernel, int) and kernel % 2 == 0:
        raise UsageError(f"kernels are odd, so that padding can keep the size, but got {kernel}")


def _norm_widths(channels: Channels, norm: Norm) -> tuple[int, ...]:
    if norm == "none":
        return ()
    return channels.options if norm == "switchable" and isinstance(channels, Width) else (largest(channels),)


def _identity(size: int) -> nn.Linear:
    linear = nn.Linear(size, size, bias=False)
    nn.init.eye_(linear.weight)
    return linear


def _taken(weight: Tensor, parts: tuple[Channels, ...]) -> Tensor:
    """Leading input channels of every part of a concatenation."""
    if len(parts) == 1:
        return weight[:, : present(parts[0])]
    pieces = weight.split([largest(part) for part in parts], dim=1)
    return torch.cat([piece[:, : present(part)] for piece, part in zip(pieces, parts, strict=True)], dim=1)


def _normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm by the leading channels of ``norm``, whose statistics move in training."""
    width = x.shape[1]
    if width == norm.num_features:
        full: Tensor = norm(x)
        return full
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    if norm.training:
        norm.num_batches_tracked.add_(1)
    return F.batch_norm(
        x, norm.running_mean[:width], norm.running_var[:width], norm.weight[:width], norm.bias[:width],
        norm.training, _momentum(norm), norm.eps,
    )  # fmt: skip


def _momentum(norm: nn.BatchNorm2d) -> float:
    """``None`` is the plain mean over all batches since the last reset."""
    if norm.momentum is not None:
        return norm.momentum
    assert norm.num_batches_tracked is not None
    return 1.0 / max(1, int(norm.num_batches_tracked))


def _sliced_norm(norm: nn.BatchNorm2d, width: int) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(width, norm.eps, norm.momentum, device="meta")
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    _with(plain, norm, weight=norm.weight[:width], bias=norm.bias[:width])
    plain.running_mean = norm.running_mean[:width].clone()
    plain.running_var = norm.running_var[:width].clone()
    plain.num_batches_tracked = norm.num_batches_tracked.clone()
    return plain


def _with(plain: _Module, like: nn.Module, **weights: Tensor | None) -> _Module:
    """Give a module copies of these parameters, to be trained if those of ``like`` are."""
    for name, weight in weights.items():
        if weight is not None:
            trained = getattr(like, name).requires_grad
            setattr(plain, name, nn.Parameter(weight.detach().clone(), requires_grad=trained))
    return plain.train(like.training)


__all__ = ["Channels", "ElasticConv", "ElasticDepthwise", "Norm", "Residual", "Zoomed", "basic_block"]
