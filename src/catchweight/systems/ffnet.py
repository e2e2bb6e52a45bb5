"""FFNet: what counts in a backbone for segmentation is its receptive field, and basic blocks have more of it.

Claim check, all from scratch: a basic-block backbone against a bottleneck one of equal MACs and against itself dilated
to output stride 8, always with up-head and head B. The deliberately broken arm is a basic-block backbone whose second
3x3 convolution is 1x1, widened to equal MACs: as plain a block, only its field is that of a bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..nets.ffnet import FFNETS, FFNet, FFNetConfig, config_name
from ..nets.segmentation import NetSpec
from ..targets.counts import count_macs
from ..targets.tracing.graph import to_onnx
from ..train import Recipe, scratch
from .receptive import centre, gradient_mass, mass_radius, settle_norms
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import latency_ratio, trained_score
from .trials import MACS_TOLERANCE, PairedTrial, match_cost, paired_trial

GAIN, FIELD_RATIO, LATENCY, LOSS = 1.0, 1.3, 0.6, 0.5
"""mIoU points over bottleneck; ratio of radii; latency over the dilated net's, and mIoU points it may cost."""

BASE = "ffnet_34_abb"
ARMS: dict[str, FFNetConfig] = {
    # Rounded to 8, channel counts would be too coarse for equal MACs.
    "basic": replace(FFNETS[BASE], divisor=1),
    "bottleneck": replace(FFNETS[BASE], divisor=1, block="bottleneck"),
    "mixed": replace(FFNETS[BASE], divisor=1, block="mixed"),
    "dilated": replace(FFNETS[BASE], divisor=1, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
}


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
        update={"epochs": 25, "eval_every": 25, "size": (120, 160), "ema": 0.98, "tensorboard": False}
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
    """How to build one arm's network; it is built from its name, so what was trained can be loaded again."""

    config: FFNetConfig
    classes: int
    width: float

    def widened(self, base: int) -> Arm:
        """Channels of the four stages: base, 2 base, 4 base, 8 base, before ``width``."""
        return replace(self, config=replace(self.config, channels=(base, 2 * base, 4 * base, 8 * base)))

    def build(self) -> FFNet:
        return FFNet(NetSpec(config_name(BASE, self.config), self.classes, self.width))


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    classes = len(context.need_data().classes)
    sizes: dict[str, Any] = context.stage("sizes", lambda: matched_sizes(protocol, classes))
    arms = matched_arms(protocol, classes, sizes)
    fields = _fields(context, protocol, arms)
    ratio = context.stage("latency", lambda: _latency(context, protocol, arms))

    def arm(name: str) -> Callable[[int], float]:
        return lambda seed: trained_score(context, name, seed, arms[name].build, protocol.recipe)

    names = ("bottleneck", "dilated")
    trials = {name: paired_trial(arm("basic"), arm(name), protocol.seeds) for name in names}
    trials["control"] = paired_trial(arm("mixed"), arm("bottleneck"), protocol.seeds)
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
    broken = min(a / b for a, b in zip(fields["mixed"], fields["bottleneck"], strict=True))
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
        Condition("mixed block: mean mIoU gain over bottleneck (points)", trials["control"].mean, GAIN),
        Condition("mixed block: half-mass radius over bottleneck, least", broken, FIELD_RATIO),
    )
    return Verdict(claim, control, figures, protocol.seeds)


def matched_sizes(protocol: Protocol, classes: int) -> dict[str, Any]:
    """Base channels of the bottleneck and the mixed arm whose MACs equal those of the basic arm."""
    basic = Arm(ARMS["basic"], classes, protocol.width)
    reference = count_macs(basic.build(), protocol.size)
    found: dict[str, Any] = {"basic": {"base": 64, "macs": reference, "ratio": 1.0}}
    for name in ("bottleneck", "mixed"):
        arm = replace(basic, config=ARMS[name])

        def ratio(base: int, arm: Arm = arm) -> float:
            return count_macs(arm.widened(base).build(), protocol.size) / reference

        match = match_cost(ratio, low=16, high=192, tolerance=MACS_TOLERANCE / 2)
        found[name] = {"base": match.size, "macs": round(match.ratio * reference), "ratio": match.ratio}
    return found


def matched_arms(protocol: Protocol, classes: int, sizes: dict[str, Any]) -> dict[str, Arm]:
    """All four arms; those in ``sizes`` at their matched width."""
    plain = {name: Arm(config, classes, protocol.width) for name, config in ARMS.items()}
    return plain | {name: plain[name].widened(size["base"]) for name, size in sizes.items()}


def _fields(context: CheckContext, protocol: Protocol, arms: dict[str, Arm]) -> dict[str, list[float]]:
    """Half-mass radius in pixels of each backbone at initialisation, per seed."""
    found: dict[str, list[float]] = {}
    for name in ("basic", "bottleneck", "mixed"):
        found[name] = [
            float(
                context.stage(
                    f"field-{name}-seed{seed}",
                    partial(field_radius, arms[name].build, seed, protocol.field_size),
                )
            )
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


def _latency(context: CheckContext, protocol: Protocol, arms: dict[str, Arm]) -> float:
    basic, dilated = (
        to_onnx(arms[name].build(), context.folder / f"{name}.onnx", protocol.size) for name in ("basic", "dilated")
    )
    return latency_ratio(basic, dilated, protocol.seconds)


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
    protocols=(FULL, QUICK),
)
