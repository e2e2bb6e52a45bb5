"""The honest baseline: random members of the space, each trained alone from the pretrained backbone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import torch

from ..budget import Budget
from ..errors import CatchweightError
from ..front import Arch, Candidate
from ..nets import SegmentationNet
from ..search.screen import Screening
from ..train.step import Objective
from .job import Point
from .space_route import SpaceRoute, predicted_within

USED = 0.7
"""Share of a budget that a random member must at least need: far below it, it is beaten by being small."""
MOST_DRAWN = 2000


class RandomRoute(SpaceRoute):
    """``search.most`` random members near each budget are raced against each other; see :class:`.Route`."""

    def prepare(self) -> None:
        self.job.run.stage("reach", self.reach)
        self.job.run.stage("profile", self.profile)

    def candidates(self, point: Point) -> Screening:
        return self.finalists(point, self._drawn(point.budget), self.settings.most)

    def others(self) -> Iterable[Candidate]:
        return ()

    def network(self, arch: Arch) -> SegmentationNet:
        """Trained from the slice of the pretrained backbone that the member is, where the space has one."""
        torch.manual_seed(self.job.settings.train.seed)
        return self.space.subnet(arch, "inherited" if self.space.inherits else "fresh").train()

    def objective(self, arch: Arch) -> Objective | None:
        return None

    def minutes(self) -> dict[str, float]:
        epochs = self.job.settings.train.epochs
        return {"training": len(self.job.budgets) * 2 * epochs * self.alone_seconds() / 60}

    def _drawn(self, budget: Budget) -> Iterator[Candidate]:
        """Random members predicted to need most of the budget, in the order drawn.

        Raises:
            CatchweightError: there is none at all. Few are raced as they are.
        """
        found = 0
        tight, rng = budget.tightened(self.settings.headroom), random.Random(self.job.settings.train.seed)
        for _ in range(MOST_DRAWN):
            arch = self.space.sample(rng)
            cost = self.predicted(arch)
            if predicted_within(tight, cost, 1.0) and not predicted_within(budget.tightened(1 - USED), cost, 1.0):
                found += 1
                yield Candidate(arch, cost)
        if not found:
            raise CatchweightError(
                f"of {MOST_DRAWN} random members none needs {USED:.0%} to 100% of {budget}: "
                "use --set search.strategy=one-shot, which looks for them"
            )
