"""Any timm backbone by name, cut off after the coarsest stride that is wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import Tensor, nn

from ...errors import CatchweightError, UsageError, unknown
from ..layers.resize import surely
from ..segmentation import IMAGENET_MEAN, IMAGENET_STD, FeatureInfo

STRIDES = (4, 8, 16, 32)

# EfficientNet-Lite was trained on (image - 127) / 128; timm rounds that to 0.5 and 0.5.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class TimmBackbone(nn.Module):
    """Feature maps of a timm network: (B, 3, H, W) -> [(B, C_i, h_i, w_i)], finest first.

    h_i is floor or ceil of H / stride_i as the network pads. Layers behind the last wanted map are left
    out, so no parameter is dead.

    Args:
        name: timm's name, a weights tag after a dot allowed: ``resnet18``, ``resnet18.a1_in1k``.
        strides: which maps; where a network has several of one stride, the deepest.
        output_stride: of the deepest map, 32, 16 or 8; below 32 the last stages dilate instead of striding.

    Raises:
        UsageError: no such timm network, or it gives no maps of these strides.
        CatchweightError: the network gives no feature maps, or cannot dilate.
    """

    def __init__(self, name: str, strides: Sequence[int] = STRIDES, output_stride: int = 32) -> None:
        super().__init__()
        self.name, self.strides = name, tuple(strides)
        dilated: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        probe = _probe(name, dilated)
        indices = _indices(name, probe, self.strides)
        self.net = timm.create_model(name, features_only=True, out_indices=indices, **dilated)
        self.info = _feature_info(self.net)
        _cut(self.net, self.info[-1].name)
        # EfficientNet's own feature class has no such attribute: it is always channels first.
        self.channels_last_maps = getattr(self.net, "output_fmt", Format.NCHW) == Format.NHWC
        coarsest = sorted({max(f.stride for f in self.info), max(probe.values())})
        self.divisor = _divisor(name, indices, coarsest, dilated)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net(self._padded(x))
        maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self.channels_last_maps else list(maps)
        return self._cropped(maps, x) if self.divisor > 1 else maps

    def _padded(self, x: Tensor) -> Tensor:
        """Zeros below and to the right for networks (DLA, HRNet, ...) that only take multiples of their stride."""
        height, width = x.shape[-2:]
        missing = (0, -width % self.divisor, 0, -height % self.divisor)
        return x if all(surely(amount == 0) for amount in missing) else F.pad(x, missing)

    def _cropped(self, maps: list[Tensor], x: Tensor) -> list[Tensor]:
        """The cells that see the image itself, so that a map still spans just the image."""
        height, width = x.shape[-2:]
        return [m[..., : -(-height // f.stride), : -(-width // f.stride)] for m, f in zip(maps, self.info, strict=True)]

    @property
    def mean_std(self) -> tuple[Sequence[float], Sequence[float]]:
        """What its ImageNet weights were trained with, in units of 0..1."""
        if self.name.startswith("tf_efficientnet_lite"):
            return _LITE_MEAN, _LITE_STD
        cfg = timm.get_pretrained_cfg(self.name)
        return (cfg.mean, cfg.std) if cfg is not None else (IMAGENET_MEAN, IMAGENET_STD)


def _feature_info(net: Any) -> list[FeatureInfo]:
    dicts = net.feature_info.get_dicts(("module", "num_chs", "reduction"))
    return [FeatureInfo(f["module"], f["num_chs"], f["reduction"]) for f in dicts]


def _cut(net: nn.Module, last: str) -> None:
    """timm's EfficientNet and MobileNetV3 keep and run all blocks, however few maps are wanted."""
    stage = re.fullmatch(r"blocks\.(\d+)", last)
    blocks = getattr(net, "blocks", None)
    if stage and isinstance(blocks, nn.Sequential):
        net.blocks = blocks[: int(stage[1]) + 1]


def _probe(name: str, dilated: dict[str, Any]) -> dict[int, int]:
    """Strides of the maps the network can give, by timm's index, found without allocating its weights."""
    if not timm.is_model(name):
        raise unknown_backbone(name)
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name, features_only=True, **dilated)
            dicts = net.feature_info.get_dicts()
            # The index is not always the place in the list: DLA leaves its first map out unless asked.
            return {int(f.get("index", place)): int(f["reduction"]) for place, f in enumerate(dicts)}
    except (RuntimeError, AttributeError, TypeError, NotImplementedError, AssertionError) as error:
        if dilated:
            raise CatchweightError(
                f"timm's {name} cannot be brought to output stride {dilated['output_stride']} ({error}): take 32, "
                "or a backbone that dilates, e.g. resnet18 or tf_efficientnet_lite0"
            ) from error
        raise CatchweightError(
            f"timm's {name} gives no feature maps ({error}); take a backbone that does, e.g. resnet18"
        ) from error


def _indices(name: str, have: dict[int, int], wanted: tuple[int, ...]) -> tuple[int, ...]:
    deepest = {stride: index for index, stride in sorted(have.items())}
    missing = [s for s in wanted if s not in deepest]
    if missing:
        raise UsageError(
            f"backbone {name} has maps of strides {sorted(deepest)}, but {list(wanted)} are wanted: "
            "take a pyramid backbone, e.g. resnet18, or other levels (levels=3-5 starts at stride 8)"
        )
    return tuple(deepest[s] for s in wanted)


def _divisor(name: str, indices: tuple[int, ...], strides: Sequence[int], dilated: dict[str, Any]) -> int:
    """What height and width must be multiples of: 1, or the first of the strides that works; tried on shapes.

    These are the coarsest that is wanted and the coarsest there is, for HRNet mixes all of its maps into the finest.
    """
    with torch.device("meta"):
        net = timm.create_model(name, features_only=True, out_indices=indices, **dilated).eval()
        for divisor, size in ((1, (97, 75)), *((stride, (3 * stride, 2 * stride)) for stride in strides)):
            try:
                net(torch.empty(1, 3, *size))
            except (RuntimeError, AssertionError):
                continue
            return divisor
    return 1  # one fixed size only: its own message at the first image says which


def unknown_backbone(name: str) -> UsageError:
    """Near names only: timm has more than a thousand."""
    base = name.split(".", 1)[0]
    near = timm.list_models(f"*{base}*") or timm.list_models(f"{base[:6]}*")
    known = near[:12] or ["resnet18", "tf_efficientnet_lite0", "pvt_v2_b0"]
    return unknown("timm backbone", name, known)
