"""The simplest route: whole published networks, measured first, then raced against each other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..budget import Budget
from ..front import Arch, Candidate
from ..nets import SegmentationNet
from ..search import fitting_plan
from ..search.reach import Reach
from ..search.screen import Screening, look_ahead, screen
from ..spaces.whole import WholeNetworks, known, label
from ..train.step import Objective
from .job import Job, Point
from .race import epoch_seconds

SCREEN_SHARE = 0.3
"""Of the time that ``--time`` leaves, what measuring networks may take before the rest of them is left out."""


def published(job: Job, space: WholeNetworks, arch: Arch) -> SegmentationNet:
    """The network that a training of the job begins with: the same weights each time."""
    train = job.settings.train
    torch.manual_seed(train.seed)
    return space.network(arch, job.classes, weights=job.weights, aux=train.loss.aux > 0)


class WholeRoute:
    """Every candidate is exported and measured before any training; see :class:`.Route`."""

    def __init__(self, job: Job) -> None:
        settings = job.settings.search
        known(settings.networks)
        self.job = job
        self.space = WholeNetworks(job.base, settings.networks, settings.widths, settings.scales)
        self._ahead: dict[Budget, Reach] = {}

    def prepare(self) -> None:
        if not self.job.run.finished:  # by a version that asked for each budget as its turn came
            self.job.run.stage("reach", self._reach)

    def _reach(self) -> dict[str, Any]:
        """A budget out of reach is told before a network is trained for another."""
        store = self.job.run.path("screen")
        self._ahead = {budget: self._look_ahead(budget, store) for budget in self.job.searched}
        for found in self._ahead.values():
            found.check(self.job.target)
        return {"reach": list(map(str, self._ahead.values()))}

    def _look_ahead(self, budget: Budget, store: Path) -> Reach:
        job, headroom = self.job, self.job.settings.search.headroom
        return look_ahead(self.space, budget, job.target, job.classes, store, headroom=headroom, say=job.say)

    def candidates(self, point: Point) -> Screening:
        job, settings = self.job, self.job.settings.search
        point.say(f"screen: measuring candidates on {job.target} against {point.budget}")
        result = screen(
            self.space, point.budget, job.target, job.classes, job.run.path("screen"),
            headroom=settings.headroom, per_ladder=settings.per_ladder, ahead=self._ahead.get(point.budget),
            deadline=job.deadline(SCREEN_SHARE / point.to_come), say=point.say,
        )  # fmt: skip
        ordered = sorted(result.allowed, key=lambda c: -(c.cost.latency_ms or 0.0))
        kept, left = ordered[: settings.most], ordered[settings.most :]
        dropped = (*(replace(c, note="not tried: search.most reached") for c in left), *result.dropped)
        point.say(f"screen: {len(kept)} candidates within the budget, {len(dropped)} dropped")
        return Screening(tuple(kept), dropped)

    def others(self, point: Point) -> Iterable[Candidate]:
        return ()

    def network(self, arch: Arch) -> SegmentationNet:
        return published(self.job, self.space, arch)

    def objective(self, arch: Arch, point: Point) -> Objective | None:
        return None

    def longest_epoch(self) -> float:
        return max(seconds for _, seconds in self._ladders)

    @cached_property
    def _ladders(self) -> list[tuple[Arch, float]]:
        """The largest member of every ladder, and estimated seconds of one of its epochs."""
        archs = [ladder[0] for ladder in self.space.ladders()]
        return [(arch, epoch_seconds(self.job, self, arch)) for arch in archs]

    def describe(self) -> dict[str, Any]:
        """Trains nothing and leaves nothing: the smallest and the largest candidate are measured from a temporary
        folder. Screening all would take as long as the real thing, so the plan counts every ladder once.

        Raises:
            CatchweightError: a budget is out of reach; tells by how much.
        """
        job, settings = self.job, self.job.settings.search
        with tempfile.TemporaryDirectory() as store:
            ahead = [self._look_ahead(budget, Path(store)) for budget in job.searched]
        for found in ahead:
            found.check(job.target)
        archs, seconds = zip(*self._ladders, strict=True)
        share = None if job.allowance is None else job.allowance / len(job.budgets)
        plan = fitting_plan(
            sorted(seconds[: settings.most], reverse=True), job.settings.train.epochs, settings.eta, share
        )
        plan["minutes"] = round(plan["minutes"] * len(job.budgets), 2)
        return {"reach": "; ".join(map(str, ahead))} | plan | {"candidates_listed": [label(arch) for arch in archs]}
