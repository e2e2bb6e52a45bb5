"""Random relatives of the published networks: what a profile learns a device from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..nets import build_network
from ..targets.latency.profile import Subject

TIMM_BACKBONES = (
    "resnet18", "resnet50", "resnext50_32x4d", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "efficientnet_b0", "regnetx_004", "regnety_004", "convnext_atto",
)  # fmt: skip
"""Backbones that a profile adds to the project's own families, so that their operators are known too."""


@dataclass(frozen=True)
class Variant:
    """One network by name, width and input size (H, W)."""

    name: str
    width: float
    size: tuple[int, int]
    classes: int = 19

    @property
    def label(self) -> str:
        return f"{self.name} x{self.width:g} K{self.classes}"

    def subject(self) -> Subject:
        """What :func:`catchweight.targets.latency.profile.profile` takes."""
        return Subject(self.label, self.size, self.builder())

    def builder(self) -> Callable[[], nn.Module]:
        return partial(build_network, self.name, self.classes, width=self.width)


def random_variants(count: int, seed: int = 0, backbones: Sequence[str] = TIMM_BACKBONES) -> list[Variant]:
    """ESeg, ESeg-Lite and FFNet variants at random widths, depths, levels and sizes, and timm pyramids.

    Of ten, four are ESeg-Lites, one an ESeg, three FFNets and two pyramids over ``backbones``, in random order.
    """
    rng = random.Random(seed)
    makers = [_eseg_lite] * 4 + [_eseg] + [_ffnet] * 3 + [partial(_pyramid, backbones=backbones)] * 2
    found: list[Variant] = []
    while len(found) < count:
        turn = [maker(rng) for maker in makers]
        rng.shuffle(turn)
        found += turn
    return found[:count]


def _eseg_lite(rng: random.Random) -> Variant:
    return Variant(f"eseg_lite_{rng.choice('ssml')}:{_bifpn(rng)}", 1.0, _size(rng, 1.0), rng.choice((11, 19)))


def _eseg(rng: random.Random) -> Variant:
    return Variant(f"eseg_{rng.choice('ssm')}:{_bifpn(rng)}", 1.0, _size(rng, 0.6), rng.choice((11, 19)))


def _bifpn(rng: random.Random) -> str:
    return f"levels=2-{rng.randint(5, 9)},width={8 * rng.randint(3, 14)},repeats={rng.randint(1, 5)}"


def _ffnet(rng: random.Random) -> Variant:
    backbone = rng.choice(("22s", "18", "30s", "34"))
    head = rng.choice(("bcc_mobile", "bbb_mobile") if backbone.endswith("s") else ("daac", "abb"))
    known = {"18": ("daac",), "34": ("daac", "abb")}
    head = rng.choice(known[backbone]) if backbone in known else head
    blocks = "-".join(str(rng.randint(1, 4)) for _ in range(4))
    width = rng.choice((0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0))
    return Variant(f"ffnet_{backbone}_{head}:blocks={blocks}", width, _size(rng, 1.0), rng.choice((11, 19)))


def _pyramid(rng: random.Random, backbones: Sequence[str]) -> Variant:
    neck = rng.choice(("fpn", "fpn", "bifpn"))
    return Variant(f"timm/{rng.choice(list(backbones))}+{neck}", rng.choice((0.5, 1.0)), _size(rng, 0.7))


def _size(rng: random.Random, scale: float) -> tuple[int, int]:
    """4:3, from 96x128 to 384x512 at scale 1; not only multiples of what networks like."""
    height = round(rng.uniform(96, max(128.0, 384 * scale)))
    return height, round(height * 4 / 3)
