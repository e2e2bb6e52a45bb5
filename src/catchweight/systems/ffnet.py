"""FFNet: what counts in a backbone for segmentation is its receptive field, and basic blocks have more of it.

Claim check, all from scratch: a basic-block backbone against a bottleneck one of equal MACs and against itself dilated to
output stride 8, always with up-head and head B. The deliberately broken arm is a basic-block backbone whose second 3x3
convolution is 1x1, widened to equal MACs: the block is as wide and as plain, only its field is that of a bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..nets.ffnet import FFNet, FFNetConfig
from ..nets.ffnet.blocks import Residual
from ..nets.segmentation import NetSpec
from ..targets.counts import count_macs
from ..train import Recipe, scratch
from .receptive import centre, gradient_mass, mass_radius, settle_norms
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import latency_ratio, trained_score
from .trials import MACS_TOLERANCE, PairedTrial, match_cost, paired_trial

GAIN, FIELD_RATIO, LATENCY, LOSS = 1.0, 1.3, 0.6, 0.5
"""mIoU points over bottleneck; ratio of radii; latency over the dilated net's, and mIoU points it may cost."""

BASIC = FFNetConfig((3, 4, 6, 3))
DILATED = replace(BASIC, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    size: tuple[int, int] = (120, 160)
    width: float = 0.25
    seeds: tuple[int, ...] = (0, 1, 2)
    field_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    field_size: int = 384
    """Side in pixels of the noise image on which the receptive field is measured: twice the half-mass disc."""
    recipe: Recipe = scratch().model_copy(
        update={"epochs": 12, "eval_every": 12, "size": (120, 160), "ema": 0.98, "tensorboard": False}
    )
    seconds: float = 4.0


FULL = Protocol()
QUICK = Protocol(
    size=(64, 96),
    width=0.125,
    seeds=(0,),
    field_seeds=(0,),
    field_size=128,
    recipe=FULL.recipe.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4, "size": (64, 96)}),
    seconds=0.2,
)


@dataclass(frozen=True)
class Arm:
    """One backbone: its configuration, and whether its second 3x3 convolutions are made 1x1."""

    config: FFNetConfig
    pointwise: bool = False

    def widened(self, base: int) -> Arm:
        """Base channels of the four stages: base, 2 base, 4 base, 8 base."""
        return replace(self, config=replace(self.config, channels=(base, 2 * base, 4 * base, 8 * base)))

    def build(self, classes: int, width: float) -> FFNet:
        # Channel counts are not rounded to 8 here: multiplied by 8 they would be too coarse for equal MACs.
        net = FFNet(NetSpec("ffnet_34_abb", classes, width), self.config, divisor=1)
        if self.pointwise:
            shrink_second_convolutions(net)
        return net


def shrink_second_convolutions(net: nn.Module) -> None:
    """Replace, in place, the second 3x3 convolution of every basic block by a 1x1 one."""
    for block in net.modules():
        if isinstance(block, Residual):
            old = block.body[3]
            assert isinstance(old, nn.Conv2d)
            new = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False)
            nn.init.normal_(new.weight, std=0.01)
            block.body[3] = new


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    classes = len(context.need_data().classes)
    sizes: dict[str, Any] = context.stage("sizes", lambda: matched_sizes(protocol, classes))
    arms = _arms(sizes)
    fields = _fields(context, protocol, classes, arms)
    ratio = context.stage("latency", lambda: _latency(context, protocol, classes, arms))

    def arm(name: str) -> Callable[[int], float]:
        make = partial(arms[name].build, classes, protocol.width)
        return lambda seed: trained_score(context, name, seed, make, protocol.recipe)

    names = ("bottleneck", "dilated")
    trials = {name: paired_trial(arm("basic"), arm(name), protocol.seeds) for name in names}
    trials["control"] = paired_trial(arm("pointwise"), arm("bottleneck"), protocol.seeds)
    figures = {
        "sizes": sizes,
        "field_radius_px": fields,
        "latency_over_dilated": ratio,
        "miou": {name: trial.to_json() for name, trial in trials.items()},
        "size": list(protocol.size),
        "width": protocol.width,
        "recipe": protocol.recipe.model_dump(mode="json"),
    }
    return _verdict(protocol, sizes, fields, ratio, trials, figures)


def _verdict(
    protocol: Protocol,
    sizes: dict[str, Any],
    fields: dict[str, list[float]],
    ratio: float,
    trials: dict[str, PairedTrial],
    figures: dict[str, Any],
) -> Verdict:
    growth = min(a / b for a, b in zip(fields["basic"], fields["bottleneck"], strict=True))
    broken = min(a / b for a, b in zip(fields["pointwise"], fields["bottleneck"], strict=True))
    claim = (
        Condition(
            "MACs of bottleneck over basic, off 1 by", abs(sizes["bottleneck"]["ratio"] - 1), MACS_TOLERANCE, "<="
        ),
        Condition("mean mIoU gain of basic over bottleneck (points)", trials["bottleneck"].mean, GAIN),
        Condition("half-mass radius, basic over bottleneck, least of all seeds", growth, FIELD_RATIO),
        Condition("latency over the dilated net", ratio, LATENCY, "<="),
        Condition("mean mIoU against the dilated net (points)", trials["dilated"].mean, -LOSS),
    )
    control = (
        Condition("small-field basic: mean mIoU gain over bottleneck (points)", trials["control"].mean, GAIN),
        Condition("small-field basic: half-mass radius over bottleneck, least", broken, FIELD_RATIO),
    )
    return Verdict(claim, control, figures, protocol.seeds)


def matched_sizes(protocol: Protocol, classes: int) -> dict[str, Any]:
    """Base channels of the bottleneck and the small-field arm whose MACs equal those of the basic arm."""
    reference = count_macs(Arm(BASIC).build(classes, protocol.width), protocol.size)
    found: dict[str, Any] = {"basic": {"base": 64, "macs": reference, "ratio": 1.0}}
    for name, arm in (("bottleneck", Arm(replace(BASIC, block="bottleneck"))), ("pointwise", Arm(BASIC, True))):

        def ratio(base: int, arm: Arm = arm) -> float:
            return count_macs(arm.widened(base).build(classes, protocol.width), protocol.size) / reference

        match = match_cost(ratio, low=16, high=192)
        found[name] = {"base": match.size, "macs": round(match.ratio * reference), "ratio": match.ratio}
    return found


def _arms(sizes: dict[str, Any]) -> dict[str, Arm]:
    bottleneck = Arm(replace(BASIC, block="bottleneck"))
    return {
        "basic": Arm(BASIC),
        "bottleneck": bottleneck.widened(sizes["bottleneck"]["base"]),
        "pointwise": Arm(BASIC, pointwise=True).widened(sizes["pointwise"]["base"]),
        "dilated": Arm(DILATED),
    }


def _fields(context: CheckContext, protocol: Protocol, classes: int, arms: dict[str, Arm]) -> dict[str, list[float]]:
    """Half-mass radius in pixels of each backbone at initialisation, per seed."""
    found: dict[str, list[float]] = {}
    for name in ("basic", "bottleneck", "pointwise"):
        make = partial(arms[name].build, classes, protocol.width)
        found[name] = [
            float(context.stage(f"field-{name}-seed{seed}", partial(field_radius, make, seed, protocol.field_size)))
            for seed in protocol.field_seeds
        ]
    return found


def field_radius(make: Callable[[], FFNet], seed: int, size: int) -> float:
    """Radius in pixels that holds half of the gradient of the deepest map's middle cell, on white noise."""
    torch.manual_seed(seed)
    net = make()
    images = torch.randn(2, 3, size, size)
    settle_norms(net, images)
    return mass_radius(gradient_mass(lambda x: centre(net.features(x)[-1]).sum(1), images))


def _latency(context: CheckContext, protocol: Protocol, classes: int, arms: dict[str, Arm]) -> float:
    basic, dilated = (arms[name].build(classes, protocol.width) for name in ("basic", "dilated"))
    return latency_ratio(basic, dilated, protocol.size, context.folder, protocol.seconds)


SYSTEM = System(
    name="ffnet",
    title="FFNet",
    paper="Mehta et al., Simple and Efficient Architectures for Semantic Segmentation, CVPR Workshops",
    year=2022,
    where=("catchweight.nets.ffnet:FFNet", "catchweight.nets.ffnet.table"),
    claim=(
        "At equal MACs a basic-block backbone sees 1.3 times as far as a bottleneck one and gains 1 mIoU point or "
        "more; it needs no dilation."
    ),
    check=check,
    needs_data=True,
)
