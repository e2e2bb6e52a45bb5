"""Backbone, neck, head: the network that most published segmenters are an instance of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from torch import Tensor, nn

from ..errors import UsageError, unknown
from .backbones import TimmBackbone, load_weights
from .heads import AuxiliaryHead, LinearHead, WeightedHead
from .layers import round_channels
from .necks import FPN, BiFPN
from .segmentation import Family, FeatureInfo, NetSpec, SegmentationNet, Weights

COARSEST_BACKBONE_LEVEL = 5  # stride 32: classification networks end there


@dataclass(frozen=True)
class Decoder:
    """A neck with its head, and the options that may follow a network's name.

    Args:
        neck: "fpn" (with the linear head) or "bifpn" (with ESeg's weighted head).
        min_level: finest level; level l has stride 2**l.
        max_level: coarsest level, at most 9; those above 5 are pooled from the backbone's last map.
        width: channels of neck and head.
        repeats: BiFPN layers; 0 is an FPN under ESeg's head. An FPN by name has none.
        act: activation of neck and head.
        resize: "nearest" or "bilinear" between levels.
    """

    neck: str = "fpn"
    min_level: int = 2
    max_level: int = 5
    width: int = 64
    repeats: int = 1
    act: str = "relu"
    resize: str = "nearest"

    def __post_init__(self) -> None:
        if self.neck not in ("fpn", "bifpn"):
            raise unknown("neck", self.neck, ("fpn", "bifpn"))
        if self.neck == "fpn" and self.repeats != 1:
            raise UsageError("an FPN has no repeats; leave the option out, or take +bifpn")
        if not 1 <= self.min_level < self.max_level <= 9:
            raise UsageError(f"levels must satisfy 1 <= first < last <= 9, but got {self.min_level}-{self.max_level}")
        if self.min_level > COARSEST_BACKBONE_LEVEL:
            raise UsageError(f"the first level must be 5 or less, but got {self.min_level}")
        if self.width < 1 or self.repeats < 0:
            raise UsageError(f"width must be 1 or more and repeats 0 or more: {self.width}, {self.repeats}")

    @property
    def levels(self) -> int:
        return self.max_level - self.min_level + 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps that come from the backbone itself."""
        return tuple(2**level for level in range(self.min_level, min(self.max_level, 5) + 1))


class EncoderDecoder(SegmentationNet):
    """A timm backbone, a pyramid neck and a linear head; auxiliary heads on the backbone's inner maps.

    ``spec.width`` scales neck, head and auxiliary heads; the backbone stays as published.
    """

    def __init__(self, spec: NetSpec, backbone: TimmBackbone, decoder: Decoder) -> None:
        mean, std = backbone.mean_std
        super().__init__(spec, mean=mean, std=std)
        width = round_channels(decoder.width * spec.width)
        self.decoder = decoder
        self.backbone = backbone
        self.neck = _neck(decoder, backbone.info, width)
        head = WeightedHead if decoder.neck == "bifpn" else LinearHead
        self.head = head(width, decoder.levels, spec.classes)
        # The finest map is too shallow to classify; the coarser ones are supervised.
        inner = backbone.info[1:] if spec.aux else []
        self.aux_heads = nn.ModuleList(AuxiliaryHead(f.channels, width, spec.classes, act=decoder.act) for f in inner)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        return self.backbone.info

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(x)))

    def train_logits(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone(x)
        main = self.head(self.neck(maps))
        return [main, *(head(m) for head, m in zip(self.aux_heads, maps[1:], strict=False))]


def _neck(decoder: Decoder, features: list[FeatureInfo], width: int) -> nn.Module:
    levels, act, resize = decoder.levels, decoder.act, decoder.resize
    if decoder.neck == "fpn":
        return FPN(features, width=width, levels=levels, act=act, resize=resize)
    return BiFPN(features, width=width, levels=levels, repeats=decoder.repeats, act=act, resize=resize)


NECKS: dict[str, Decoder] = {
    "fpn": Decoder("fpn"),
    "bifpn": Decoder("bifpn", max_level=7, repeats=3),
}
"""What a bare ``+fpn`` or ``+bifpn`` means."""


def build(spec: NetSpec, backbone: str, decoder: Decoder, weights: Weights) -> EncoderDecoder:
    """Assemble, then fill the backbone; errors as ``TimmBackbone`` and ``load_weights`` raise them."""
    features = TimmBackbone(backbone, decoder.strides)
    pretrained = load_weights(features, weights)
    net = EncoderDecoder(spec, features, decoder)
    net.pretrained = pretrained
    return net


def with_options(decoder: Decoder, text: str) -> Decoder:
    """Apply ``levels=2-7,width=96`` to ``decoder``.

    Raises:
        UsageError: unknown option or a value that cannot be read.
    """
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        reader = _OPTIONS.get(key)
        if reader is None:
            raise unknown("network option", key, _OPTIONS)
        try:
            decoder = replace(decoder, **reader(value))  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(f'network option {key}: cannot read "{value}"') from error
    return decoder


def options_text(decoder: Decoder, default: Decoder) -> str:
    """The inverse of ``with_options``: what must follow the colon to get from ``default`` to ``decoder``."""
    changed = {f.name: getattr(decoder, f.name) for f in fields(Decoder)}
    changed = {k: v for k, v in changed.items() if v != getattr(default, k)}
    assert "neck" not in changed
    if "min_level" in changed or "max_level" in changed:
        changed.pop("min_level", None)
        changed.pop("max_level", None)
        changed = {"levels": f"{decoder.min_level}-{decoder.max_level}", **changed}
    return ",".join(f"{k}={v}" for k, v in changed.items())


def _levels(text: str) -> dict[str, int | str]:
    first, _, last = text.partition("-")
    return {"min_level": int(first), "max_level": int(last)}


_OPTIONS: Mapping[str, Callable[[str], dict[str, int | str]]] = {
    "levels": _levels,
    "width": lambda text: {"width": int(text)},
    "repeats": lambda text: {"repeats": int(text)},
    "act": lambda text: {"act": text},
    "resize": lambda text: {"resize": text},
}


def _from_name(spec: NetSpec, weights: Weights) -> SegmentationNet:
    base, _, options = spec.name.partition(":")
    backbone, _, neck = base.removeprefix("timm/").partition("+")
    if neck and neck not in NECKS:
        raise unknown("neck", neck, NECKS)
    return build(spec, backbone, with_options(NECKS[neck or "fpn"], options), weights)


FAMILY = Family(
    names={
        "timm/resnet18+fpn": "any timm backbone with a feature pyramid (Lin et al., CVPR 2017)",
        "timm/resnet18+bifpn": "any timm backbone with a BiFPN (Tan et al., CVPR 2020)",
        "timm/tf_efficientnet_lite0+fpn": "EfficientNet-Lite0 (Liu, 2020) with a feature pyramid",
    },
    build=_from_name,
    prefix="timm/",
)
