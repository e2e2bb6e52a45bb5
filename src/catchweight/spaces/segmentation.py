"""Spaces of segmentation networks: every member has a name and can be saved and built again by it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from ..errors import UsageError, unknown
from ..nets import build_network
from ..nets.segmentation import IMAGENET_MEAN, IMAGENET_STD, NetSpec, SegmentationNet
from .choices import Choice
from .decisions import Decisions
from .space import Space, Weights

Size = tuple[int, int]


class SegmentationSpace(SegmentationNet, Space):
    """A supernet with the surface of a segmentation network; its members are networks that ``build_network`` names.

    A subclass writes ``logits`` and ``feature_info`` as any segmentation network does, :meth:`network_name` and
    :meth:`member_state`. The size of the input is a choice too, ``"size"``: whoever feeds the network resizes.

    Args:
        spec: its name is that of the space; ``aux`` heads are for training and may be left out.
        sizes: input sizes (H, W) in pixels that a member may be made for.
        mean, std: of the RGB channels, each in 0..1.

    Raises:
        UsageError: no size, one twice, or one below 64 pixels.
    """

    inherits: ClassVar[bool] = True
    """Whether members take their weights from the supernet; if not, they are trained from random ones."""

    def __init__(
        self,
        spec: NetSpec,
        sizes: Sequence[Size],
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(spec, mean=mean, std=std)
        small = [size for size in sizes if min(size) < 64]
        if small:
            raise UsageError(f"input size {small[0][0]}x{small[0][1]} is below 64 pixels, the least a network takes")
        ordered = sorted(((int(h), int(w)) for h, w in sizes), key=lambda size: (math.prod(size), size))
        self.input_size: Choice[Size] = Choice(ordered, name="size")
        self.input_size.kind = "size"
        self._named: dict[str, Choice[Any]] = {}
        self._decisions: Decisions | None = None

    def named_choices(self) -> dict[str, Choice[Any]]:
        """As :meth:`.Space.named_choices`; remembered, since no choice comes or goes once the supernet is built."""
        if not self._named:
            self._named = super().named_choices()
        return self._named

    def decisions(self) -> Decisions:
        """As :meth:`.Space.decisions`; remembered."""
        if self._decisions is None:
            self._decisions = super().decisions()
        return self._decisions

    def distinct(self) -> Decisions:
        """What a search draws from: :meth:`decisions`; where several of their architectures may stand for one network,
        such that give every network once."""
        return self.decisions()

    @abstractmethod
    def network_name(self, arch: Mapping[str, Any]) -> str:
        """The name under which ``build_network`` makes this member."""

    @abstractmethod
    def member_state(self, arch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The member's weights and buffers, by their names in the network of :meth:`network_name`."""

    def subnet(self, arch: Mapping[str, Any], weights: Weights = "inherited") -> SegmentationNet:
        """The plain network of an architecture, as ``build_network`` makes it; see :meth:`.Space.subnet`.

        ``"fresh"`` weights are those of ``build_network`` with random ones.

        Raises:
            UsageError: a choice is missing or unknown, or has no such option; unknown ``weights``.
        """
        if weights not in get_args(Weights):
            raise unknown("weights", weights, get_args(Weights))
        arch = self.canonical(arch)
        name, classes = self.network_name(arch), self.spec.classes
        if weights == "none":
            with torch.device("meta"):
                return build_network(name, classes, aux=self.spec.aux)
        net = build_network(name, classes, aux=self.spec.aux)
        if weights == "inherited":
            net.load_state_dict({name: tensor.detach().clone() for name, tensor in self.member_state(arch).items()})
            net.pretrained = self.pretrained
            net.train(self.training)
        return net


def input_size(arch: Mapping[str, Any]) -> Size:
    """(H, W) in pixels of the input that a member is made for."""
    height, width = arch["size"]
    return int(height), int(width)


def sizes_within(base: Size, scales: Sequence[float]) -> tuple[Size, ...]:
    """``base`` (H, W) times each scale, largest first; each side at least 64 pixels, no size twice.

    >>> sizes_within((180, 240), (1.0, 0.5, 0.25))
    ((180, 240), (90, 120), (64, 64))
    """
    ordered = sorted(scales, reverse=True)
    return tuple(dict.fromkeys((max(64, round(base[0] * s)), max(64, round(base[1] * s))) for s in ordered))


__all__ = ["SegmentationSpace", "Size", "input_size", "sizes_within"]
