"""The simplest space: whole published networks, at several widths and input sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..errors import UsageError
from ..front import Arch
from ..nets import build_network
from ..nets.segmentation import SegmentationNet

NETWORKS = (
    "eseg_lite_m",
    "eseg_lite_s",
    "timm/tf_efficientnet_lite0+fpn",
    "ffnet_22s_bcc_mobile",
)
"""Default networks: three with a pretrained backbone, from strong to fast, and one plain convolutional."""

LONGEST = 64
"""Characters of a network's name in a label."""


@dataclass(frozen=True)
class WholeNetworks:
    """All networks by all widths by all input sizes.

    Args:
        base: input size (H, W) of scale 1, in pixels.
        networks: names that ``build_network`` knows.
        widths: multipliers of the channels that are not pretrained.
        scales: input size as a share of ``base``; each side at least 64 pixels.
    """

    base: tuple[int, int]
    networks: tuple[str, ...] = NETWORKS
    widths: tuple[float, ...] = (1.0, 0.5)
    scales: tuple[float, ...] = (1.0, 0.8, 0.6, 0.45)

    def __post_init__(self) -> None:
        for name, values in (("widths", self.widths), ("scales", self.scales), ("networks", self.networks)):
            if not values:
                raise UsageError(f"search.{name} is empty: name at least one")
        if min(self.base) < 64:
            raise UsageError(f"input size {self.base[0]}x{self.base[1]} is below 64 pixels, the least a network takes")

    def ladders(self) -> Iterator[list[Arch]]:
        """For each network and width, its architectures from the largest input to the smallest.

        Within a ladder both cost and, as a rule, score fall; a search may stop descending early.
        """
        for network in self.networks:
            for width in sorted(self.widths, reverse=True):
                yield [Arch(network=network, width=width, size=list(size)) for size in self._sizes()]

    def _sizes(self) -> list[tuple[int, int]]:
        sizes = [
            (max(64, round(self.base[0] * scale)), max(64, round(self.base[1] * scale)))
            for scale in sorted(self.scales, reverse=True)
        ]
        return list(dict.fromkeys(sizes))

    def network(self, arch: Arch, classes: int, *, weights: str = "none", aux: bool = False) -> SegmentationNet:
        """The plain network that ``arch`` stands for, input ``(B, 3, H, W)``, logits ``(B, classes, H, W)``."""
        return build_network(arch["network"], classes, width=arch["width"], weights=weights, aux=aux)


def size_of(arch: Arch) -> tuple[int, int]:
    """Input size (H, W) in pixels."""
    height, width = arch["size"]
    return int(height), int(width)


def label(arch: Arch) -> str:
    """A short name, also safe as a folder: ``eseg_lite_s-w0.5-180x240``; a supernet's member has a hash for a name.

    What was done to the trained network (``compressed``) follows behind: ``+prune+int8``.
    """
    done = arch.get("compressed")
    if done is not None:
        return "+".join([label(Arch(**{k: v for k, v in arch.items() if k != "compressed"})), *done])
    height, width = size_of(arch)
    if "network" not in arch:
        same = Arch(**arch.to_json())  # equal ones show alike: with lists, where they may hold tuples
        return f"member-{hashlib.sha256(repr(same).encode()).hexdigest()[:8]}-{height}x{width}"
    name = "".join(c if c.isalnum() or c in "._-+" else "_" for c in arch["network"].removeprefix("timm/"))
    if len(name) > LONGEST:  # a file's name has a limit
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(arch['network'].encode()).hexdigest()[:8]}"
    return f"{name}-w{arch['width']:g}-{height}x{width}"


def known(networks: tuple[str, ...]) -> tuple[str, ...]:
    """The names themselves if all can be built, else the error that names the nearest."""
    with torch.device("meta"):  # the shape of things is enough: no weight is allocated or drawn
        for name in networks:
            build_network(name, 2)
    return networks


__all__ = ["NETWORKS", "WholeNetworks", "known", "label", "size_of"]
