"""What every segmentation network is: one surface for training, export, measuring and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Weights = str | Path
"""Where the backbone's weights come from: "none", "auto", "offline", "hub" or the path of a file."""


class FeatureInfo(NamedTuple):
    """One feature map: where it comes from, its channels, and input pixels per map pixel."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class NetSpec:
    """All that is needed to build a network again; its weights are the rest.

    Args:
        name: as given to ``build_network``, e.g. ``eseg_lite_s`` or ``timm/resnet18+fpn:width=96``.
        classes: number of classes K.
        width: multiplies the channels of neck and head (of everything in nets without a named backbone).
        aux: auxiliary heads for training; they are never part of ``forward`` or of an exported file.
        pruned: shapes of the parameters and buffers that pruning made smaller, by name; see ``shrink``.
    """

    name: str
    classes: int
    width: float = 1.0
    aux: bool = False
    pruned: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UsageError(f"network {self.name}: classes must be 1 or more, but got {self.classes}")
        if not 0 < self.width <= 8:
            raise UsageError(f"network {self.name}: width must lie in (0, 8], but got {self.width}")

    def to_json(self) -> dict[str, Any]:
        """``pruned`` is left out of a network that is not."""
        values = {key: value for key, value in asdict(self).items() if key != "pruned"}
        shapes = {name: list(shape) for name, shape in self.pruned}
        return {**values, "pruned": shapes} if shapes else values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NetSpec:
        """Raises TypeError or KeyError when ``value`` is not what ``to_json`` gives."""
        return cls(
            name=str(value["name"]),
            classes=int(value["classes"]),
            width=float(value["width"]),
            aux=bool(value["aux"]),
            pruned=tuple((str(k), tuple(int(n) for n in shape)) for k, shape in value.get("pruned", {}).items()),
        )


class SegmentationNet(nn.Module, ABC):
    """Images in, one logit map per class out. A subclass writes ``logits`` and ``feature_info``.

    The trainer calls ``normalise`` on uint8 batches, then ``train_logits``; export and evaluation call
    ``forward`` on the normalised batch. Any H, W >= 64 works, odd sizes included.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: NetSpec,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.pretrained = False
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32))

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K, h, w) at the head's own stride."""

    @property
    @abstractmethod
    def feature_info(self) -> list[FeatureInfo]:
        """The encoder's feature maps, finest first."""

    @property
    def feature_places(self) -> list[str]:
        """Where the maps of ``feature_info`` come out: a module, and the item of its output, e.g. ``backbone[2]``."""
        return [f"backbone[{number}]" for number in range(len(self.feature_info))]

    def saved_state(self) -> Mapping[str, Tensor]:
        """Weights and buffers of the network that ``spec`` names: all there are, unless this one holds others too."""
        return self.state_dict()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K, H, W)."""
        return F.interpolate(self.logits(x), size=x.shape[-2:], mode="bilinear", align_corners=False)

    def train_logits(self, x: Tensor) -> list[Tensor]:
        """Low-resolution logits for the loss: the main ones first, then those of auxiliary heads."""
        return [self.logits(x)]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W) -> float32 of the same shape: (image / 255 - mean) / std."""
        mean, std = self.mean.float().view(3, 1, 1), self.std.float().view(3, 1, 1)
        return (images.to(torch.float32) / 255 - mean) / std

    def pretrained_parameters(self) -> set[str]:
        """Names of the parameters that came pretrained, for a smaller learning rate; may be empty."""
        if not self.pretrained:
            return set()
        return {name for name, _ in self.named_parameters() if name.startswith("backbone.")}


@dataclass(frozen=True)
class Family:
    """A family of networks, one entry in the table of ``build.py``.

    Args:
        names: each public name with one line about it (paper, year).
        build: makes the network of a spec whose name (up to a ``:`` that opens options) is in ``names``
            or starts with ``prefix``.
        prefix: open families (``timm/<any backbone>``) claim every name that starts so.
    """

    names: Mapping[str, str]
    build: Callable[[NetSpec, Weights], SegmentationNet]
    prefix: str | None = None

    def claims(self, name: str) -> bool:
        base = name.split(":", 1)[0]
        return base in self.names or (self.prefix is not None and base.startswith(self.prefix))
