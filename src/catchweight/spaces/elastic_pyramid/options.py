"""What is open in the space, and between which sizes."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...nets.elastic import Published
from ...nets.layers import round_channels

FINEST = 2
"""The finest level is fixed: stride 4, where the logits are."""
COARSEST_MAP = 5
"""Level of the backbone's last map; coarser ones are pooled."""


@dataclass(frozen=True)
class Options:
    """Shares are of the published size, rounded to multiples of 8 channels, so that runtimes are fast.

    Args:
        depths: at most so many depths of each stage, the deepest.
        widths: shares of what the stem and each stage give; 1 among them.
        expand: shares of the inner channels of a stage's bottlenecks; 1 among them.
        coarsest: coarsest levels of the BiFPN, 5 to 9.
        neck: shares of the channels of the ESeg with this backbone.
        repeats: fewest and most BiFPN layers in a row, where 0 is an FPN; by default 1 and as many as that ESeg has.
            One supernet ranks necks badly that share little, so FPNs are better searched alone, with (0, 0).

    Raises:
        UsageError: a list is empty, or a share or level is out of range.
    """

    depths: int = 3
    widths: tuple[float, ...] = (0.5, 0.75, 1.0)
    expand: tuple[float, ...] = (0.5, 2 / 3, 1.0)
    coarsest: tuple[int, ...] = (5, 6, 7, 8, 9)
    neck: tuple[float, ...] = (0.5, 2 / 3, 1.0, 4 / 3)
    repeats: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.depths < 1:
            raise UsageError(f"depths is the number of depths of a stage, 1 or more, but got {self.depths}")
        for name in ("widths", "expand"):
            shares = getattr(self, name)
            if 1 not in shares or min(shares) <= 0 or max(shares) > 1:
                raise UsageError(f"{name} are shares of the published size above 0 with 1 among them, but got {shares}")
        if not self.neck or min(self.neck) <= 0:
            raise UsageError(f"neck has positive shares of the published width, one or more, but got {self.neck}")
        if not self.coarsest or min(self.coarsest) < COARSEST_MAP or max(self.coarsest) > 9:
            raise UsageError(f"coarsest levels lie between 5 and 9, but got {self.coarsest}")
        if self.repeats is not None and not 0 <= self.repeats[0] <= self.repeats[1]:
            raise UsageError(f"repeats are the fewest and the most layers, 0 or more, but got {self.repeats}")

    def least_depth(self, blocks: int) -> int:
        """The first block of a stage always stays."""
        return max(1, blocks - self.depths + 1)

    def channels(self, published: int) -> tuple[int, ...]:
        """Widths of the stem or a stage, the published one the largest."""
        narrow = (round_channels(published * share) for share in self.widths)
        return (*sorted({width for width in narrow if width < published}), published)

    def expansions(self, known: Published, stage: int) -> tuple[float, ...]:
        """Expansion ratios of a stage under which all its blocks differ, so that none is there twice."""
        groups = [g for g in known.sizes if g.startswith(f"stage{stage}.") and g.endswith(".inner")]
        found: list[float] = []
        for share in sorted(set(self.expand), reverse=True):
            ratio = round(share * known.shape.expand[stage], 2)
            if all(known.inner(g, ratio) < known.inner(g, other) for g in groups for other in found[-1:]):
                found.append(ratio)
        return tuple(reversed(found))

    def necks(self, published: int) -> tuple[int, ...]:
        """Widths of the BiFPN."""
        return tuple(sorted({round_channels(published * share) for share in self.neck}))


__all__ = ["COARSEST_MAP", "FINEST", "Options"]
