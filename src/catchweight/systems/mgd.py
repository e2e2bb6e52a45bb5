"""MGD: a light student learns from few labels, many unlabelled images and two complementary teachers.

Claim check on a seeded 1/8 of the labels (and 1/4, reported): MGD against the same student trained on the labels alone
and against plain distillation on the labelled images, in equal optimiser steps. The deliberately broken arm is MGD with
teachers that were never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data import SegmentationData
from ..data.unlabelled import UnlabelledData, labelled_share
from ..nets import build_network
from ..nets.segmentation import SegmentationNet
from ..train import Distiller, Recipe, finetune
from ..train.mgd import MgdTerms, MultiGranularity
from ..train.step import Objective
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import offline_weights, trained_network, trained_score
from .trials import PairedTrial, paired_trial

GAIN, OVER_DISTILLED, LEVEL_LOSS = 2.0, 1.0, 0.5
"""mIoU points over labels alone, over distillation on the labelled images, and what leaving out a level may gain."""
WINS = 2
"""Seeds in which MGD must not be worse than labels alone."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    student: str = "timm/tf_efficientnet_lite0+fpn:width=32"
    wide: str = "timm/tf_efficientnet_lite0+fpn:width=192"
    """Wide and shallow: the student's depth under a neck six times as wide."""
    deep: str = "timm/tf_efficientnet_lite2+bifpn:levels=2-5,width=48,repeats=4"
    """Thin and deep."""
    size: tuple[int, int] = (96, 128)
    teacher_size: tuple[int, int] = (144, 192)
    """Input (H, W) of the teachers. When they saw no more than the student they were hardly better than it is (3.4 and
    1.6 points, mean of three seeds) and their labels gained it nothing: -0.4 over its own labels, in a trial."""
    shares: tuple[float, ...] = (1 / 8, 1 / 4)
    """Of the training split that keep their labels; the claim is about the first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 480
    """Optimiser steps of every training, teachers included."""
    warmup: int = 40
    """Steps in which the learning rate rises."""
    terms: MgdTerms = field(default_factory=MgdTerms)
    recipe: Recipe = finetune().model_copy(update={"tensorboard": False})


FULL = Protocol()
QUICK = Protocol(
    student="timm/test_resnet+fpn:width=8",
    wide="timm/test_resnet+fpn:width=24",
    deep="timm/test_resnet+bifpn:levels=2-5,width=8,repeats=2",
    size=(64, 96),
    teacher_size=(96, 128),
    shares=(1 / 4,),
    seeds=(0,),
    steps=2,
    warmup=1,
    recipe=FULL.recipe.model_copy(update={"batch": 2}),
)


@dataclass(frozen=True)
class Arms:
    """The trainings on one share of the labels, each done once."""

    context: CheckContext
    protocol: Protocol
    share: float
    weights: str

    def split(self, seed: int) -> tuple[SegmentationData, UnlabelledData]:
        return labelled_share(self.context.need_data(), self.share, seed)

    def supervised(self, name: str, network: str) -> Callable[[int], float]:
        return self._arm(name, network, None, 0)

    def distilled(self) -> Callable[[int], float]:
        def objective(seed: int) -> Objective:
            return Distiller(self.teacher("deep", seed), size=self.protocol.teacher_size)

        return self._arm("distilled", self.protocol.student, objective, 0)

    def mgd(self, name: str, terms: MgdTerms, trained: bool = True) -> Callable[[int], float]:
        """Both teachers, trained on the labelled part or not at all."""

        def objective(seed: int) -> Objective:
            wide, deep = (self.teacher(which, seed, trained) for which in ("wide", "deep"))
            return MultiGranularity(wide, deep, self.split(seed)[1], terms, size=self.protocol.teacher_size)

        return self._arm(name, self.protocol.student, objective, 1)

    def teacher(self, which: str, seed: int, trained: bool = True) -> SegmentationNet:
        name = {"wide": self.protocol.wide, "deep": self.protocol.deep}[which]
        if not trained:
            torch.manual_seed(seed)
            return build_network(name, len(self.context.need_data().classes))
        return trained_network(self.context, self._label(which), seed)

    def train_teachers(self, seed: int) -> None:
        for which, network in (("wide", self.protocol.wide), ("deep", self.protocol.deep)):
            self._arm(which, network, None, 0, self.protocol.teacher_size)(seed)

    def _label(self, arm: str) -> str:
        return f"{arm}-1_{round(1 / self.share)}"

    def _arm(
        self,
        name: str,
        network: str,
        objective: Callable[[int], Objective] | None,
        side: int,
        size: tuple[int, int] | None = None,
    ) -> Callable[[int], float]:
        """``side`` 0: an epoch is a pass over the labelled images; 1: over the longer of both."""

        def score(seed: int) -> float:
            if objective is not None:
                self.train_teachers(seed)
            data, rest = self.split(seed)
            counts = [len(data.splits["train"]), max(len(data.splits["train"]), len(rest.splits["train"]))]
            return trained_score(
                self.context,
                self._label(name),
                seed,
                lambda: build_network(network, len(data.classes), weights=self.weights),
                recipe_for(self.protocol, counts[side]).model_copy(update={"size": size or self.protocol.size}),
                objective=(lambda: objective(seed)) if objective else None,
                data=data,
            )

        return score


def recipe_for(protocol: Protocol, images: int) -> Recipe:
    """The recipe whose epochs over so many images come nearest to the protocol's steps; scored at the end."""
    steps = max(1, images // protocol.recipe.batch)
    epochs = max(1, round(protocol.steps / steps))
    changes = {"epochs": epochs, "eval_every": epochs, "warmup": protocol.warmup / steps, "size": protocol.size}
    return protocol.recipe.model_copy(update=changes)


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    weights = offline_weights(context, protocol.student)
    first, *others = (Arms(context, protocol, share, weights) for share in protocol.shares)
    terms = protocol.terms
    mgd, alone = first.mgd("mgd", terms), first.supervised("supervised", protocol.student)
    trials = {
        "labels alone": paired_trial(mgd, alone, protocol.seeds),
        "distilled on the labelled": paired_trial(mgd, first.distilled(), protocol.seeds),
        "without region": paired_trial(
            first.mgd("no-region", terms.model_copy(update={"region": 0.0})), mgd, protocol.seeds
        ),
        "without image": paired_trial(
            first.mgd("no-image", terms.model_copy(update={"image": 0.0})), mgd, protocol.seeds
        ),
        "untrained teachers": paired_trial(first.mgd("untrained", terms, trained=False), alone, protocol.seeds),
    }
    further = {
        f"1/{round(1 / arms.share)}": paired_trial(
            arms.mgd("mgd", terms), arms.supervised("supervised", protocol.student), protocol.seeds
        ).to_json()
        for arms in others
    }
    return _verdict(protocol, trials, {"further_shares": further, "weights": weights})


def _verdict(protocol: Protocol, trials: dict[str, PairedTrial], figures: dict[str, Any]) -> Verdict:
    share = f"1/{round(1 / protocol.shares[0])}"
    gain = trials["labels alone"]
    claim = (
        Condition(f"mean mIoU gain over labels alone, {share} of them (points)", gain.mean, GAIN),
        Condition("seeds in which it is not worse", gain.wins, min(WINS, len(protocol.seeds))),
        Condition(
            "mean mIoU gain over distillation on the labelled images", trials["distilled on the labelled"].mean,
            OVER_DISTILLED,
        ),
        Condition("mean mIoU gained by leaving the region term out", trials["without region"].mean, LEVEL_LOSS, "<="),
        Condition("mean mIoU gained by leaving the image term out", trials["without image"].mean, LEVEL_LOSS, "<="),
    )  # fmt: skip
    broken = trials["untrained teachers"]
    control = (Condition("untrained teachers: mean mIoU gain over labels alone (points)", broken.mean, GAIN),)
    told = {
        "miou": {name: trial.to_json() for name, trial in trials.items()},
        "networks": {"student": protocol.student, "wide": protocol.wide, "deep": protocol.deep},
        "steps": protocol.steps,
        "size": list(protocol.size),
        "teacher_size": list(protocol.teacher_size),
        "terms": protocol.terms.model_dump(mode="json"),
        "recipe": protocol.recipe.model_dump(mode="json"),
    }
    return Verdict(claim, control, told | figures, protocol.seeds)


SYSTEM = System(
    name="mgd",
    title="MGD",
    paper="Qin et al., Multi-Granularity Distillation Scheme Towards Lightweight Semi-Supervised Segmentation, ECCV",
    year=2022,
    where=("catchweight.train.mgd:MultiGranularity", "catchweight.data.unlabelled:labelled_share"),
    claim=(
        "With 1/8 of the labels, two teachers and the other images without labels, a student gains 2 mIoU points or "
        "more over the same steps on the labels alone."
    ),
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)
