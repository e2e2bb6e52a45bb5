"""The sizes of an EfficientNet-like backbone that a member of the family may have other than published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...errors import UsageError
from ..layers import round_channels
from .layout import Layout, stage_of

STEM = "stem"


@dataclass(frozen=True)
class Shape:
    """Sizes of one backbone; a stage is what timm calls ``blocks.<i>``.

    Args:
        stem: channels of the first convolution.
        depths: blocks of each stage: the first ones of those published.
        widths: channels that each stage gives.
        expand: ratio of the channels inside each stage's inverted bottlenecks to their *published* input, so that it
            does not depend on ``widths``; where the blocks of a stage differ in it, that of the most expanding, the
            others in proportion; 1 for a stage without bottlenecks.
    """

    stem: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    expand: tuple[float, ...]


@dataclass(frozen=True)
class Published:
    """A backbone as published: all others are parts of it.

    Args:
        backbone: timm's name.
        layout: its channel groups.
    """

    backbone: str
    layout: Layout

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Channels of every group."""
        return self.layout.sizes

    @cached_property
    def shape(self) -> Shape:
        widths = tuple(self.sizes[group] for group in self.layout.stages)
        return Shape(self.sizes[STEM], self.layout.depths, widths, self._expansions)

    @cached_property
    def _expansions(self) -> tuple[float, ...]:
        found = [1.0] * len(self.layout.stages)
        for layer in self.layout.layers:
            if layer.reads in (STEM, *self.layout.stages) and layer.gives.endswith(".inner"):
                stage = stage_of(layer.gives)
                found[stage] = max(found[stage], round(self.sizes[layer.gives] / self.sizes[layer.reads], 2))
        return tuple(found)

    def inner(self, group: str, expand: float) -> int:
        """Channels of a group inside a bottleneck if its stage expands so much: a multiple of 8, or as published."""
        published = self.sizes[group]
        share = expand / self._expansions[stage_of(group)]
        return published if share >= 1 else min(published, round_channels(published * share))

    def channels(self, shape: Shape) -> dict[str, int]:
        """Width of every channel group in a backbone of these sizes.

        Raises:
            UsageError: a list of the wrong length, or a size that is not between 1 and the published one.
        """
        self._check(shape)
        found = {**self.sizes, STEM: shape.stem, **dict(zip(self.layout.stages, shape.widths, strict=True))}
        inside = [group for group in found if group.endswith(".inner")]
        return found | {group: self.inner(group, shape.expand[stage_of(group)]) for group in inside}

    def _check(self, shape: Shape) -> None:
        self._check_within("stem", (shape.stem,), (self.shape.stem,))
        self._check_within("depths", shape.depths, self.shape.depths)
        self._check_within("widths", shape.widths, self.shape.widths)
        self._check_within("expand", shape.expand, self.shape.expand)
        tied = {STEM: shape.stem}
        for stage, (group, width) in enumerate(zip(self.layout.stages, shape.widths, strict=True)):
            if tied.setdefault(group, width) != width:
                before = "the stem" if group == STEM else f"stage {stage - 1}"
                raise UsageError(
                    f"stage {stage} of {self.backbone} adds what {before} gives to its own output: both need one "
                    f"width, but got {tied[group]} and {width}"
                )

    def _check_within(self, option: str, values: Sequence[float], largest: Sequence[float]) -> None:
        published = "-".join(f"{value:g}" for value in largest)
        if len(values) != len(largest):
            raise UsageError(
                f"{option} of {self.backbone} has {len(largest)} entries (published: {published}), "
                f"but got {len(values)}"
            )
        for value, most in zip(values, largest, strict=True):
            if not 1 <= value <= most:
                raise UsageError(
                    f"{option} of {self.backbone} lies between 1 and the published {published}, but got {value:g}"
                )


__all__ = ["STEM", "Published", "Shape"]
