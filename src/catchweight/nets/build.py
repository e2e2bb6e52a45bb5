"""From a name to a network. A new family is one file and one line in ``FAMILIES``."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from ..errors import CatchweightError, unknown
from . import dpc, elastic, encoder_decoder, eseg, fasterseg, ffnet
from .segmentation import Family, NetSpec, SegmentationNet, Weights
from .shrink import shapes, shrink_to

FAMILIES: tuple[Family, ...] = (
    eseg.FAMILY,
    ffnet.FAMILY,
    fasterseg.FAMILY,
    elastic.FAMILY,
    dpc.FAMILY,
    encoder_decoder.FAMILY,
)


def build_network(
    name: str, classes: int, *, width: float = 1.0, aux: bool = False, weights: Weights = "none"
) -> SegmentationNet:
    """Build the named network.

    Args:
        name: one of ``network_names()``, or ``timm/<backbone>[+fpn|+bifpn]`` with any timm backbone;
            options may follow a colon: ``timm/resnet18+bifpn:levels=2-7,width=96,repeats=4``.
        classes: number of classes K.
        width: multiplies the channels of neck and head, rounded to 8.
        aux: auxiliary heads for training.
        weights: of the backbone: "none" (random), "offline" (pip package), "hub" (download), "auto"
            (offline when such a package is installed, else hub) or the path of a .pt, .pth or
            .safetensors file.

    Raises:
        UsageError: unknown name or option; the nearest known one is named.
        CatchweightError: the weights cannot be had or do not fit.
    """
    return build_from_spec(NetSpec(name, classes, width, aux), weights)


def build_from_spec(spec: NetSpec, weights: Weights = "none") -> SegmentationNet:
    """``build_network`` for a spec; the same errors, and CatchweightError for shapes that no pruning leads to."""
    net = _family(spec.name).build(replace(spec, pruned=()), weights)
    if spec.pruned:
        shrink_to(net, dict(spec.pruned))
        _require_whole(net)
        net.spec = spec
    return net


def _require_whole(net: SegmentationNet) -> None:
    """Shapes out of a file may fit the weights and yet not each other: run the network once, without numbers."""
    probe = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, 3, 64, 64, device="meta")
    try:
        probe(image)
        probe.train_logits(image)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CatchweightError(f"the pruned layers of {net.spec.name} do not fit together: {reason}") from error


def pruned_spec(net: SegmentationNet) -> NetSpec:
    """The spec from which a network is built again as it is now, after channels were removed from it."""
    with torch.device("meta"):  # the shape of things is enough
        whole = shapes(build_from_spec(replace(net.spec, pruned=())))
    smaller = tuple((name, shape) for name, shape in shapes(net).items() if shape != whole[name])
    return replace(net.spec, pruned=smaller)


def network_names() -> list[str]:
    """Every named network, and an example of each open family."""
    return [name for family in FAMILIES for name in family.names]


def describe_network(name: str) -> str:
    """One line: what it is, paper, year."""
    family = _family(name)
    base = name.split(":", 1)[0]
    return family.names.get(base) or f"timm backbone with a pyramid neck: {name}"


def _family(name: str) -> Family:
    for family in FAMILIES:
        if family.claims(name):
            return family
    raise unknown("network", name, network_names())
