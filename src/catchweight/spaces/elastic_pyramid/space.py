"""The elastic space: ESeg on a pretrained backbone, with every size open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...nets.elastic import Shape, build_member, default_decoder, member_name, published, sort_channels
from ...nets.elastic.layout import stage_of_map
from ...nets.elastic.shape import STEM
from ...nets.encoder_decoder import Decoder
from ...nets.heads import WeightedHead
from ...nets.necks import BiFPN
from ...nets.segmentation import FeatureInfo, NetSpec, Weights
from ...targets.tracing.shape_trace import shape_trace
from ...targets.tracing.trace import Trace
from ..choices import Choice, Width
from ..segmentation import SegmentationSpace, Size
from ..space import Placed
from ..structure import mixed, scored
from .backbone import open_backbone, width_name
from .decoder import SlicedHead, for_inputs, open_neck
from .options import FINEST, Options
from .signatures import MemberBlocks, Structure


def elastic_fpn(classes: int, sizes: Sequence[Size], **more: Any) -> ElasticPyramid:
    """The space whose necks are feature pyramids; arguments as of :class:`ElasticPyramid`, except the options."""
    return ElasticPyramid(classes, sizes, options=Options(repeats=(0, 0)), **more)


class ElasticPyramid(SegmentationSpace):
    """A timm backbone of EfficientNet's kind under a BiFPN or FPN; (B, 3, H, W) -> (B, K, H, W).

    Open are the stem's and every stage's width, every stage's depth and expansion, the BiFPN's coarsest level, width
    and layers (none make it an FPN), and the input size. The largest member has the backbone as published; its
    pretrained channels are reordered once, the most important first, so that smaller members start from the best part
    (sorting as in Once-for-All, Cai et al., ICLR 2020; the plan is ESeg's, Meng et al., 2022). Members are the networks
    ``elastic/<backbone>:...``, whose parameters and buffers have the names that they have here.

    Args:
        classes: number of classes K.
        sizes: input sizes (H, W) in pixels that a member may be made for.
        backbone: timm's name.
        weights: of the backbone, as ``build_network`` takes them.
        options: which sizes are open.

    Raises:
        UsageError: the backbone is unknown or not of EfficientNet's kind; a size below 64 pixels.
        CatchweightError: the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        classes: int,
        sizes: Sequence[Size],
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: Weights = "none",
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        known, decoder = published(backbone), default_decoder(backbone)
        necks = options.necks(decoder.width)
        least, most = options.repeats or (1, decoder.repeats)
        largest = replace(decoder, max_level=max(options.coarsest), width=necks[-1], repeats=most)
        net = build_member(NetSpec(member_name(known, known.shape, largest), classes), weights)
        super().__init__(net.spec, sizes, mean=net.mean.tolist(), std=net.std.tolist())
        if net.pretrained:
            sort_channels(net)
        open_backbone(net.backbone, known, options)
        self.coarsest: Choice[int] = Choice(sorted(set(options.coarsest)), name="coarsest")
        self.coarsest.kind = "level"
        assert isinstance(net.neck, BiFPN)
        assert isinstance(net.head, WeightedHead)
        open_neck(net.neck, Width(necks, name="neck"), self.coarsest, least)
        self._blocks = MemberBlocks([stage_of_map(info) for info in net.backbone.info])
        self.pretrained, self.published, self.decoder = net.pretrained, known, largest
        self.backbone, self.neck, self.head = net.backbone, net.neck, SlicedHead(net.head)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        return self.backbone.info

    def logits(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = self.neck.inputs(self.backbone(x))
        mixture = self.coarsest.mixture
        if mixture is None:
            return scored(self._decoded(levels), self.coarsest)
        return mixed([self._decoded(levels[: option - FINEST + 1]) for option in self.coarsest.options], mixture)

    def _decoded(self, levels: list[Tensor]) -> Tensor:
        result: Tensor = self.head(self.neck.layers(levels))
        return result

    def network_name(self, arch: Mapping[str, Any]) -> str:
        return member_name(self.published, self.shape(arch), self.member_decoder(arch))

    def shape(self, arch: Mapping[str, Any]) -> Shape:
        """Sizes of a member's backbone."""
        known, groups = self.published.shape, self.published.layout.stages
        stages = range(len(groups))
        return Shape(
            stem=arch.get(STEM, known.stem),
            depths=tuple(arch.get(f"depth{stage}", known.depths[stage]) for stage in stages),
            widths=tuple(arch.get(width_name(groups[stage]), known.widths[stage]) for stage in stages),
            expand=tuple(arch.get(f"expand{stage}", known.expand[stage]) for stage in stages),
        )

    def member_decoder(self, arch: Mapping[str, Any]) -> Decoder:
        """Sizes of a member's BiFPN."""
        repeats = arch.get("repeats", self.decoder.repeats)
        return replace(self.decoder, max_level=arch["coarsest"], width=arch["neck"], repeats=repeats)

    def placed_signatures(
        self, arch: Mapping[str, Any], size: Size, batch: int = 1, precision: str = "fp32"
    ) -> list[Placed]:
        classify_first = self.spec.classes <= arch["neck"]  # see LinearHead
        structure = Structure(arch["coarsest"], arch.get("repeats"), classify_first, (size[0], size[1]), batch)
        deepest = {name: self.choices()[name][-1] for name in arch if name.startswith("depth")}

        def trace() -> Trace:
            with self.activate({**arch, **deepest}):
                return shape_trace(self, size, batch)

        with self.activate(arch):
            return self._blocks(self, self.shape(arch).depths, structure, precision, trace)

    def saved_state(self) -> dict[str, Tensor]:
        return self.member_state(self.largest())

    def member_state(self, arch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Leading slices of everything by name; only the fusion weights of the coarsest level are chosen otherwise."""
        mine = self.state_dict()
        return {name: _part(name, mine[name], like) for name, like in self.subnet(arch, "none").state_dict().items()}


def _part(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    """What a member has of a tensor."""
    if name.startswith("neck.layers.") and name.endswith(".v"):
        return for_inputs(tensor, len(like))
    return tensor[tuple(slice(0, length) for length in like.shape)]


__all__ = ["ElasticPyramid", "elastic_fpn"]
