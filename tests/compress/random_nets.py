"""Random small networks of what pruning tools stumble over: skips, concats, chunks, splits, odd convs, resizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Skip(nn.Module):
    """Residual block; a projection on the shortcut in every other one."""

    def __init__(self, channels: int, project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(channels, channels, 1) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Concat(nn.Module):
    """Two or three branches of unlike widths side by side, the input among them at times."""

    def __init__(self, channels: int, widths: list[int], keep: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, k, padding=k // 2), nn.BatchNorm2d(width), nn.SiLU())
            for width, k in zip(widths, (1, 3, 3), strict=False)
        )
        self.keep = keep
        self.out = nn.Conv2d(sum(widths) + keep * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        return self.out(torch.cat([*maps, x] if self.keep else maps, dim=1))


class Gate(nn.Module):
    """Chunks: one half gates the other; the gating half is read a second time in every other one."""

    def __init__(self, channels: int, twice: bool) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels))
        self.out = nn.Conv2d(channels, channels, 1)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.wide(x).chunk(2, dim=1)
        y = value * gate.sigmoid()
        return self.out(y + gate if self.twice else y)


class Split(nn.Module):
    """A split at numbers that stand in the code: these channels must be left alone."""

    def __init__(self, channels: int, first: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.sizes = [first, channels - first]
        self.one = nn.Conv2d(first, channels, 1)
        self.other = nn.Conv2d(channels - first, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.wide(x), self.sizes, dim=1)
        return self.one(a) + self.other(b)


class Grouped(nn.Module):
    """A grouped or depthwise convolution between two 1x1, the depthwise one with a multiplier at times."""

    def __init__(self, channels: int, groups: int, multiplier: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6(),
            nn.Conv2d(channels, channels * multiplier, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(channels * multiplier), nn.Hardswish(),
            nn.Conv2d(channels * multiplier, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Attend(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018), then a layer scale or a group norm."""

    def __init__(self, channels: int, scale: bool) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 0.5)) if scale else None
        self.norm = nn.Identity() if scale else nn.GroupNorm(4, channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        y = self.norm(y)
        return self.out(y if self.gamma is None else y * self.gamma)


class Zoom(nn.Module):
    """Half the size, a convolution, and back: pooled or resized, by factor or to a size."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2) if kind == "transposed" else None
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.avg_pool2d(x, 2) if self.kind == "nearest" else F.max_pool2d(x, 2))
        if self.up is not None:
            return x + F.interpolate(self.up(y), size=x.shape[-2:])
        if self.kind == "nearest":
            return x + F.interpolate(y, size=x.shape[-2:])
        return x + F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


BLOCKS: tuple[Callable[[int, np.random.Generator], nn.Module], ...] = (
    lambda c, rng: Skip(c, bool(rng.integers(2))),
    lambda c, rng: Concat(c, [int(n) for n in rng.integers(4, 20, rng.integers(2, 4))], bool(rng.integers(2))),
    lambda c, rng: Gate(c, bool(rng.integers(2))),
    lambda c, rng: Split(c, int(rng.integers(2, c - 2))),
    lambda c, rng: Grouped(c, *((4, 1), (c, 1), (c, 2), (c // 2, 1))[rng.integers(4)]),
    lambda c, rng: Attend(c, bool(rng.integers(2))),
    lambda c, rng: Zoom(c, ("nearest", "bilinear", "transposed")[rng.integers(3)]),
)


class RandomNet(nn.Module):
    """A stem, three to six random blocks, now and then a change of width, and a head for pixels or for images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        channels = int(rng.choice([16, 24, 32]))
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        layers: list[nn.Module] = []
        for _ in range(rng.integers(3, 7)):
            if rng.random() < 0.3:
                wider = int(rng.choice([16, 24, 32, 40]))
                layers += [nn.Conv2d(channels, wider, 3, 1 + int(rng.integers(2)), 1), nn.BatchNorm2d(wider), nn.ReLU()]
                channels = wider
            layers.append(BLOCKS[rng.integers(len(BLOCKS))](channels, rng))
        self.body = nn.Sequential(*layers)
        self.pixels = bool(rng.integers(2))
        self.head = nn.Conv2d(channels, 5, 1) if self.pixels else nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        if self.pixels:
            return F.interpolate(self.head(y), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))
