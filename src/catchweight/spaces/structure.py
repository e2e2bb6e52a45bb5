"""Open structure: which operator, how many blocks, at which size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .choices import Choice, Resolution
from .elastic import Condition, Convert, Elastic


def scored(x: Tensor, *choices: object) -> Tensor:
    """``x`` times the straight-through scores (see :attr:`.Choice.score`) of those arguments that are choices."""
    for choice in choices:
        score = choice.score if isinstance(choice, Choice) else None
        if score is not None:
            x = x * score.to(x.dtype)
    return x


def mixed(outputs: Sequence[Tensor], mixture: Tensor) -> Tensor:
    """Sum of tensors of one shape, weighted (n,)."""
    weighted = [weight * output for weight, output in zip(mixture.to(outputs[0].dtype), outputs, strict=True)]
    return sum(weighted[1:], start=weighted[0])


class OneOf(Elastic):
    """One of several modules that take and give the same shapes: ``OneOf(plain=..., zoomed=...)``.

    Relaxed, it gives the weighted sum of all outputs (DARTS, Liu et al., ICLR 2019).

    Args:
        ops: the modules by name.
        name, tie: see :class:`.Choice`.

    Raises:
        UsageError: a module cannot have that name.
    """

    def __init__(self, *, name: str | None = None, tie: OneOf | None = None, **ops: nn.Module) -> None:
        super().__init__()
        self.op: Choice[str] = Choice(tuple(ops), name, tie.op if tie else None)
        self.op.kind = "op"
        for label, module in ops.items():
            if hasattr(self, label):
                raise UsageError(f'an op of OneOf cannot be called "{label}", which every module already has')
            self.add_module(label, module)
        if tie is None:
            self.op.fix(0)

    def conditions(self) -> dict[str, Condition]:
        return {label: (self.op, frozenset([index])) for index, label in enumerate(self.op.options)}

    def forward(self, *inputs: Tensor) -> Tensor:
        mixture = self.op.mixture
        if mixture is None:
            chosen: Tensor = self.get_submodule(self.op.value)(*inputs)
            return scored(chosen, self.op)
        return mixed([self.get_submodule(label)(*inputs) for label in self.op.options], mixture)

    def to_plain(self, convert: Convert) -> nn.Module:
        return convert(self.get_submodule(self.op.value))


class Depth(Elastic):
    """The first few of a row of blocks; plain form ``nn.Sequential``.

    Relaxed, it gives the weighted sum of what the admissible depths give, which must be of one shape.

    Args:
        blocks: one after the other.
        least: fewest blocks, 0 to ``len(blocks)``.
        name, tie: see :class:`.Choice`.

    Raises:
        UsageError: ``least`` is out of range.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], least: int = 1, name: str | None = None, tie: Depth | None = None
    ) -> None:
        super().__init__()
        if not 0 <= least <= len(blocks):
            raise UsageError(f"Depth of {len(blocks)} blocks needs least from 0 to {len(blocks)}, but got {least}")
        self.depth: Choice[int] = Choice(range(least, len(blocks) + 1), name, tie.depth if tie else None)
        self.depth.kind = "depth"
        for number, block in enumerate(blocks):
            self.add_module(str(number), block)

    @property
    def blocks(self) -> list[nn.Module]:
        """All of them, used or not."""
        return [module for module in self._modules.values() if module is not None]

    def conditions(self) -> dict[str, Condition]:
        depths = list(enumerate(self.depth.options))
        return {
            str(number): (self.depth, frozenset(index for index, depth in depths if depth > number))
            for number in range(len(self.blocks))
        }

    def forward(self, x: Tensor) -> Tensor:
        found = {0: x}
        for number in range(self.depth.value):
            found[number + 1] = x = self.get_submodule(str(number))(x)
        mixture = self.depth.mixture
        if mixture is None:
            return scored(x, self.depth)
        return mixed([found[depth] for depth in self.depth.options], mixture)

    def to_plain(self, convert: Convert) -> nn.Module:
        return nn.Sequential(*map(convert, self.blocks[: self.depth.value]))


class Rescale(Elastic):
    """Bilinear resize by a chosen share of each side, (B, C, H, W) -> (B, C, floor(sH), floor(sW)).

    Mixed resolutions are brought to the largest and summed: what a small one loses is lost there too, but the
    layers behind see one size. Plain form ``nn.Upsample``, or ``nn.Identity`` at 1.
    """

    def __init__(self, resolution: Resolution) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        mixture = self.resolution.mixture
        if mixture is None:
            return scored(_rescaled(x, self.resolution.value), self.resolution)
        maps = [_rescaled(x, scale) for scale in self.resolution.options]
        size = maps[-1].shape[-2:]
        return mixed([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps], mixture)

    def to_plain(self, convert: Convert) -> nn.Module:
        scale = float(self.resolution.value)
        return nn.Identity() if scale == 1 else nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)


def _rescaled(x: Tensor, scale: Any) -> Tensor:
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=float(scale), mode="bilinear", align_corners=False)


__all__ = ["Depth", "OneOf", "Rescale", "mixed", "scored"]
