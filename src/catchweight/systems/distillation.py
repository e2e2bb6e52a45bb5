"""Distillation for segmentation: a small student gains from a better teacher's class probabilities at each pixel.

Claim check: the same student, recipe and batches with and without a teacher, which sees the images finer. The
deliberately broken arm has a teacher of the same architecture that was never trained: if it helped as much, it would
not be the teacher's knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..nets import build_network
from ..nets.segmentation import SegmentationNet
from ..train import Distiller, DistillTerms, Recipe, finetune
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import offline_weights, trained_network, trained_score
from .trials import PairedTrial, paired_trial

GAIN, WINS = 0.5, 2
"""mIoU points gained on the mean of the seeds; seeds in which the student must not be worse."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    student: str = "eseg_lite_s:width=24,repeats=1"
    teacher: str = "timm/tf_efficientnet_lite2+fpn"
    seeds: tuple[int, ...] = (0, 1, 2)
    teacher_seed: int = 100
    """One teacher serves all seeds."""
    terms: DistillTerms = field(default_factory=DistillTerms)
    recipe: Recipe = finetune().model_copy(
        update={"epochs": 30, "eval_every": 30, "size": (96, 128), "tensorboard": False}
    )
    teacher_size: tuple[int, int] = (144, 192)
    """Input (H, W) of the teacher: it knows more than the student can see. With eight epochs, at 180x240 for both, the
    gain was +0.26 in a trial."""


FULL = Protocol()
QUICK = Protocol(
    student="timm/test_resnet+fpn:width=8",
    teacher="timm/test_resnet+fpn:width=16",
    seeds=(0,),
    recipe=FULL.recipe.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4, "size": (96, 128)}),
    teacher_size=(128, 160),
)


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    weights = offline_weights(context, protocol.student)
    finer = protocol.recipe.model_copy(update={"size": protocol.teacher_size})
    made = _maker(context, protocol.teacher, weights)
    taught = trained_score(context, "teacher", protocol.teacher_seed, made, finer)

    def arm(name: str, teacher: Callable[[], SegmentationNet] | None) -> Callable[[int], float]:
        student = _maker(context, protocol.student, weights)

        def objective() -> Distiller:
            assert teacher is not None, "only arms with a teacher have an objective"
            return Distiller(teacher(), protocol.terms, protocol.teacher_size)

        wanted = objective if teacher else None
        return lambda seed: trained_score(context, name, seed, student, protocol.recipe, objective=wanted)

    def untrained() -> SegmentationNet:
        torch.manual_seed(protocol.teacher_seed)
        return _maker(context, protocol.teacher, "none")()

    plain = arm("plain", None)
    trained = arm("distilled", lambda: trained_network(context, "teacher", protocol.teacher_seed))
    trial = paired_trial(trained, plain, protocol.seeds)
    broken = paired_trial(arm("untrained", untrained), plain, protocol.seeds)
    return _verdict(protocol, trial, broken, taught, weights)


def _verdict(protocol: Protocol, trial: PairedTrial, broken: PairedTrial, taught: float, weights: str) -> Verdict:
    claim = (
        Condition("mean mIoU gain of the distilled student (points)", trial.mean, GAIN),
        Condition("seeds in which it is not worse", trial.wins, min(WINS, len(protocol.seeds))),
    )
    control = (Condition("untrained teacher: mean mIoU gain (points)", broken.mean, GAIN),)
    figures = {
        "teacher_miou": taught,
        "miou": {"distilled": trial.to_json(), "untrained": broken.to_json()},
        "networks": {"student": protocol.student, "teacher": protocol.teacher, "weights": weights},
        "terms": protocol.terms.model_dump(mode="json"),
        "recipe": protocol.recipe.model_dump(mode="json"),
        "teacher_size": list(protocol.teacher_size),
    }
    return Verdict(claim, control, figures, protocol.seeds)


def _maker(context: CheckContext, name: str, weights: str) -> Callable[[], SegmentationNet]:
    return lambda: build_network(name, len(context.need_data().classes), weights=weights)


SYSTEM = System(
    name="distillation",
    title="Knowledge distillation for segmentation",
    paper="Hinton et al., Distilling the Knowledge in a Neural Network, arXiv; as FasterSeg uses it (ICLR 2020)",
    year=2015,
    where=("catchweight.train.distill:Distiller",),
    claim="With a trained teacher a small student gains 0.5 mIoU points or more in the same steps.",
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)
