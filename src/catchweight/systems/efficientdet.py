"""EfficientDet: its neck, the weighted bi-directional feature pyramid (BiFPN)."""

from __future__ import annotations

from typing import Any

from ..nets import build_network
from ..nets.encoder_decoder import EncoderDecoder
from ..nets.necks import BiFPN
from ..targets.counts import count_params
from .backbone import CLASSES, proof_conditions, prove
from .result import Condition, Verdict
from .system import CheckContext, System

NETWORK = "timm/tf_efficientnet_b0+bifpn:levels=3-7,width=64,repeats=3"
"""Backbone and neck of EfficientDet-D0."""


def bifpn_params(width: int, levels: int, repeats: int) -> int:
    """Closed form for the fusing layers.

    Every level but one has a top-down node and every level but one a bottom-up node. A node is a 3x3 depthwise and
    a 1x1 convolution without bias and a batch norm; it weighs two maps, three at bottom-up nodes of inner levels.
    """
    nodes = 2 * (levels - 1)
    weights = 5 * levels - 6
    return repeats * (nodes * (9 * width + width**2 + 2 * width) + weights)


def check(context: CheckContext) -> Verdict:
    """Parameters of the neck against the closed form, then the end-to-end proof."""
    size = (64, 96) if context.quick else (128, 160)
    proof: dict[str, Any] = context.stage("proof", lambda: prove(NETWORK, size, context.folder / "proof.onnx"))
    net = build_network(NETWORK, CLASSES)
    assert isinstance(net, EncoderDecoder)
    assert isinstance(net.neck, BiFPN)
    found = count_params(net.neck.layers)
    expected = bifpn_params(width=64, levels=5, repeats=3)
    conditions, control = proof_conditions(proof)
    exact = Condition("BiFPN parameters off by", abs(found - expected), 0, "<=")
    figures = {"network": NETWORK, "bifpn_params": found, "closed_form": expected, "proof": proof}
    return Verdict((exact, *conditions), control, figures, seeds=(0,))


SYSTEM = System(
    name="efficientdet",
    title="EfficientDet (BiFPN)",
    paper="Tan, Pang & Le, CVPR",
    year=2020,
    where=("catchweight.nets.necks.bifpn:BiFPN", "catchweight.nets.encoder_decoder:EncoderDecoder"),
    claim="Repeated weighted top-down and bottom-up fusion. Its size is exact; it trains and exports unchanged.",
    check=check,
)
