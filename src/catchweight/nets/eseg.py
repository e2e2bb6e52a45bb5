"""ESeg and ESeg-Lite: a plain classification backbone and a BiFPN that reaches from P2 to P9.

Meng et al., "Revisiting Multi-Scale Feature Fusion for Semantic Segmentation", 2022. The claim: rich fusion
over a long range of scales replaces high inner resolution and atrous convolution. The paper's table of
backbones, widths and repeats per model could not be read; ``ESEGS`` is our own scaling. Whether the activation stands
before or after a node's convolution could not be read either; ours stands before, as in EfficientDet.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import encoder_decoder
from .encoder_decoder import Decoder, EncoderDecoder, options_text, with_options
from .segmentation import Family, NetSpec, SegmentationNet, Weights


@dataclass(frozen=True)
class EsegConfig:
    """One ESeg.

    Args:
        backbone: timm name; no dilation, output stride 32.
        width: BiFPN channels.
        repeats: BiFPN layers.
        min_level: finest level; 2 is stride 4, where the logits are.
        max_level: coarsest level; 9 is stride 512.
        act: activation of the BiFPN.
        resize: "nearest" or "bilinear" between levels.
    """

    backbone: str
    width: int
    repeats: int
    min_level: int = 2
    max_level: int = 9
    act: str = "silu"
    resize: str = "nearest"

    def decoder(self) -> Decoder:
        return Decoder(
            neck="bifpn",
            min_level=self.min_level,
            max_level=self.max_level,
            width=self.width,
            repeats=self.repeats,
            act=self.act,
            resize=self.resize,
        )


ESEGS: dict[str, EsegConfig] = {
    "eseg_s": EsegConfig("tf_efficientnet_b0", width=64, repeats=3),
    "eseg_m": EsegConfig("tf_efficientnet_b2", width=96, repeats=4),
    "eseg_l": EsegConfig("tf_efficientnet_b4", width=128, repeats=5),
    "eseg_lite_s": EsegConfig("tf_efficientnet_lite0", width=48, repeats=3, act="relu"),
    "eseg_lite_m": EsegConfig("tf_efficientnet_lite1", width=64, repeats=4, act="relu"),
    "eseg_lite_l": EsegConfig("tf_efficientnet_lite2", width=80, repeats=5, act="relu"),
}


def eseg(
    config: EsegConfig, classes: int, *, width: float = 1.0, aux: bool = False, weights: Weights = "none"
) -> EncoderDecoder:
    """Build an ESeg of any configuration; arguments and errors as ``build_network``.

    Its name is in the common grammar, so that it can be saved and built again by name.
    """
    spec = NetSpec(config_name(config), classes, width, aux)
    return encoder_decoder.build(spec, config.backbone, config.decoder(), weights)


def config_name(config: EsegConfig) -> str:
    """The name that ``build_network`` turns into this very configuration.

    >>> config_name(EsegConfig("tf_efficientnet_lite0", width=60, repeats=3, max_level=5, act="relu"))
    'eseg_lite_s:levels=2-5,width=60'
    """
    for name, known in ESEGS.items():
        if known.backbone == config.backbone:
            base, default = name, known.decoder()
            break
    else:
        base, default = f"timm/{config.backbone}+bifpn", encoder_decoder.NECKS["bifpn"]
    options = options_text(config.decoder(), default)
    return f"{base}:{options}" if options else base


def _from_name(spec: NetSpec, weights: Weights) -> SegmentationNet:
    base, _, options = spec.name.partition(":")
    config = ESEGS[base]
    return encoder_decoder.build(spec, config.backbone, with_options(config.decoder(), options), weights)


FAMILY = Family(
    names={
        name: f"ESeg (Meng et al., 2022): {c.backbone}, BiFPN P{c.min_level}-P{c.max_level} "
        f"of {c.width} channels x {c.repeats}"
        for name, c in ESEGS.items()
    },
    build=_from_name,
)
