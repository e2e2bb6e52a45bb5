"""Published backbones that this project has proven end to end: a training step, export, parity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedBackbone:
    """One published family and the timm network that stands for it in tests and tables."""

    family: str
    paper: str
    year: int
    timm_name: str


PUBLISHED: tuple[PublishedBackbone, ...] = (
    PublishedBackbone("ResNet", "He et al., CVPR", 2016, "resnet18"),
    PublishedBackbone("pre-activation ResNet", "He et al., ECCV", 2016, "resnetv2_18"),
    PublishedBackbone("ResNeXt", "Xie et al., CVPR", 2017, "resnext26ts"),
    PublishedBackbone("DPN", "Chen et al., NeurIPS", 2017, "dpn48b"),
    PublishedBackbone("Res2Net", "Gao et al., TPAMI", 2019, "res2net50_14w_8s"),
    PublishedBackbone("EfficientNet", "Tan & Le, ICML", 2019, "tf_efficientnet_b0"),
    PublishedBackbone("EfficientNet-Lite", "Liu, TensorFlow blog", 2020, "tf_efficientnet_lite0"),
    PublishedBackbone("VoVNetV2", "Lee & Park, CVPR", 2020, "ese_vovnet19b_dw"),
    PublishedBackbone("ResNet-RS", "Bello et al., NeurIPS", 2021, "resnetrs50"),
    PublishedBackbone("NF-ResNet", "Brock et al., ICLR", 2021, "nf_resnet26"),
    PublishedBackbone("PVT v2", "Wang et al., CVMJ", 2022, "pvt_v2_b0"),
)
