"""ESeg: fusing features from stride 4 to stride 512 instead of high inner resolution.

Claim check: a BiFPN over P2-P9 against one over P2-P5 that is widened until it is as slow. The deliberately broken
arm is the P9 network with its coarse outputs zeroed at test time: if it does not suffer, they did not carry the gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CatchweightError
from ..nets.eseg import EsegConfig, eseg
from ..nets.segmentation import SegmentationNet
from ..targets.tracing.graph import to_onnx
from ..train import Recipe, finetune
from .receptive import gradient_mass, mass_beyond
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import latency_ratio, score, trained_network, trained_score, validation_images
from .trials import LATENCY_TOLERANCE, Match, match_cost, paired_trial

GAIN, FIELD_RATIO, LOSS = 1.0, 1.5, 1.0
"""mIoU points gained; growth of the far share of the gradient; mIoU points lost without P6-P9."""

FAR = 96
"""Pixels from the centre beyond which the image counts as far."""

FINE_LEVELS = 4
"""P2..P5 come first among the neck's outputs."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    size: tuple[int, int] = (180, 240)
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: Recipe = finetune().model_copy(update={"epochs": 20, "eval_every": 20, "tensorboard": False})
    widths: tuple[int, ...] = (48, 64, 56, 40)
    """Widths of the P9 arm, in order of preference: the first for which an equally slow P5 arm exists is taken."""
    widest: int = 3
    """How many times as wide the P5 arm may become."""
    step: int = 8
    """Widths are multiples of 8: both networks and the runtime's vector kernels come in such steps."""
    images: int = 8
    """Validation images over which the gradient is averaged."""
    seconds: float = 4.0
    """Timing per candidate width."""
    far: int = FAR


FULL = Protocol()
QUICK = Protocol(
    size=(96, 128),
    seeds=(0,),
    recipe=FULL.recipe.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4}),
    widths=(8,),
    widest=1,  # nothing is sought: two hundredths of a second on a busy machine say nothing
    images=2,
    seconds=0.2,
    far=40,
)


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    setup: dict[str, Any] = context.stage("setup", lambda: _setup(context, protocol))
    arms: dict[str, Callable[[], SegmentationNet]] = {
        name: lambda name=name: _network(context, setup["weights"], setup[name], 9 if name == "p9" else 5)  # type: ignore[misc]
        for name in ("p9", "p5")
    }

    def arm(name: str) -> Callable[[int], float]:
        return lambda seed: trained_score(context, name, seed, arms[name], protocol.recipe)

    trial = paired_trial(arm("p9"), arm("p5"), protocol.seeds)
    far = {name: [_far_share(context, protocol, name, seed) for seed in protocol.seeds] for name in arms}
    zeroed = [_zeroed(context, protocol, seed) for seed in protocol.seeds]
    loss = fmean(before - after for before, after in zip(trial.a, zeroed, strict=True))
    growth = fmean(far["p9"]) / max(fmean(far["p5"]), 1e-12)
    claim = (
        Condition("latency of the P5 arm over the P9 arm, off 1 by", abs(setup["ratio"] - 1), LATENCY_TOLERANCE, "<="),
        Condition("mean mIoU gain of P2-P9 over P2-P5 (points)", trial.mean, GAIN),
        Condition("seeds in which P2-P9 is not worse", trial.wins, len(protocol.seeds)),
        Condition(f"gradient share beyond {protocol.far} px, P2-P9 over P2-P5", growth, FIELD_RATIO),
    )
    control = (Condition("P6-P9 zeroed at test: mIoU change (points)", -loss, -LOSS),)
    figures = {"setup": setup, "miou": trial.to_json(), "far_share": far, "zeroed_miou": zeroed, **_said(protocol)}
    return Verdict(claim, control, figures, protocol.seeds)


def _said(protocol: Protocol) -> dict[str, Any]:
    return {"size": list(protocol.size), "recipe": protocol.recipe.model_dump(mode="json")}


def _network(context: CheckContext, weights: str, width: int, top: int) -> SegmentationNet:
    config = EsegConfig("tf_efficientnet_lite0", width=width, repeats=3, max_level=top, act="relu")
    return eseg(config, len(context.need_data().classes), weights=weights)


def _setup(context: CheckContext, protocol: Protocol) -> dict[str, Any]:
    """Backbone weights for both arms, and the two widths that are equally slow."""
    weights = "none" if context.quick else _weights(context)
    tried = []
    for width in protocol.widths:
        match = _match(context, protocol, width)
        tried.append({"p9": width, "p5": match.size, "ratio": match.ratio})
        if match.within(LATENCY_TOLERANCE) or context.quick:
            return {"weights": weights, **tried[-1], "tried": tried}
    raise CatchweightError(
        f"no pair of widths is equally slow within {LATENCY_TOLERANCE:.0%} ({tried}): use a quieter machine"
    )


def _weights(context: CheckContext) -> str:
    """The offline ImageNet weights where they are installed; the same for both arms either way."""
    try:
        _network(context, "offline", 8, 5)
    except CatchweightError:
        return "none"
    return "offline"


def _match(context: CheckContext, protocol: Protocol, width: int) -> Match:
    """The P5 width, above the P9 arm's, whose latency is nearest to that of the P9 arm."""
    reference = to_onnx(_network(context, "none", width, 9), context.folder / "p9.onnx", protocol.size)

    def ratio(candidate: int) -> float:
        net = _network(context, "none", candidate, 5)
        file = to_onnx(net, context.folder / "p5.onnx", protocol.size)
        return latency_ratio(file, reference, protocol.seconds)

    return match_cost(ratio, width, protocol.widest * width, protocol.step, LATENCY_TOLERANCE / 2)


def _far_share(context: CheckContext, protocol: Protocol, arm: str, seed: int) -> float:
    """Share of the gradient of the centre pixel's winning logit that lies far from it, after training."""

    def work() -> float:
        net = trained_network(context, arm, seed)
        inputs = net.normalise(validation_images(context, protocol.images, protocol.size))
        row, column = protocol.size[0] // 2, protocol.size[1] // 2
        mass = gradient_mass(lambda x: net(x)[:, :, row, column].amax(1), inputs)
        return mass_beyond(mass, protocol.far, (row, column))

    return float(context.stage(f"{arm}-seed{seed}-far", work))


def _zeroed(context: CheckContext, protocol: Protocol, seed: int) -> float:
    def work() -> float:
        net = trained_network(context, "p9", seed)
        net.get_submodule("neck").register_forward_hook(zero_coarse_outputs)
        return score(context, net, protocol.size)

    return float(context.stage(f"p9-seed{seed}-zeroed", work))


def zero_coarse_outputs(neck: nn.Module, inputs: Any, outputs: list[Tensor]) -> list[Tensor]:
    """Forward hook: keep P2..P5 of a neck's outputs, zero the rest."""
    return [*outputs[:FINE_LEVELS], *(torch.zeros_like(x) for x in outputs[FINE_LEVELS:])]


SYSTEM = System(
    name="eseg",
    title="ESeg, ESeg-Lite",
    paper="Meng et al., Revisiting Multi-Scale Feature Fusion for Semantic Segmentation, arXiv",
    year=2022,
    where=("catchweight.nets.eseg", "catchweight.nets.necks.bifpn:BiFPN", "catchweight.nets.heads:WeightedHead"),
    claim="At equal latency, fusing P2-P9 gains 1 mIoU point or more over P2-P5 and looks 1.5 times as much afar.",
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)
