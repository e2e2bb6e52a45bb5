"""The honest baseline: random members of the space, each trained alone from the pretrained backbone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import torch

from ..budget import Budget
from ..errors import CatchweightError
from ..front import Arch, Candidate
from ..nets import SegmentationNet, build_network
from ..search.reach import factor_over
from ..search.screen import Screening
from ..train.step import Objective
from .job import Point
from .space_route import SpaceRoute, predicted_within, without_unpredictable

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

    def others(self, point: Point) -> Iterable[Candidate]:
        return ()

    def network(self, arch: Arch) -> SegmentationNet:
        """Trained from the slice of the pretrained backbone that the member is, where the space has one."""
        train = self.job.settings.train
        torch.manual_seed(train.seed)
        if self.space.inherits:
            return self.space.subnet(arch).train()
        return build_network(self.space.network_name(arch), self.job.classes, aux=train.loss.aux > 0).train()

    def objective(self, arch: Arch, point: Point) -> Objective | None:
        return None

    def minutes(self) -> dict[str, float]:
        epochs = self.job.settings.train.epochs
        return {"training": len(self.job.budgets) * 2 * epochs * self.alone_seconds() / 60}

    def _drawn(self, budget: Budget) -> Iterator[Candidate]:
        """Random members predicted to need most of the budget, in the order drawn; where there is none, those that
        need most of it.

        Raises:
            CatchweightError: there is none within the budget. Few are raced as they are.
        """
        cheap: list[Candidate] = []
        found = 0
        tight, rng = budget.tightened(self.settings.headroom), random.Random(self.job.settings.train.seed)
        members = self.space.distinct()
        for _ in range(MOST_DRAWN):
            arch = members.sample(rng)
            candidate = Candidate(arch, self.predicted(arch))
            if not predicted_within(tight, candidate.cost, 1.0):
                continue
            if predicted_within(tight.tightened(1 - USED), candidate.cost, 1.0):
                cheap.append(candidate)
                continue
            found += 1
            yield candidate
        if not found and not cheap:
            raise CatchweightError(
                f"of {MOST_DRAWN} random members none is within {budget}: use --set search.strategy=one-shot, which "
                "looks for them"
            )
        if not found:
            known = without_unpredictable(tight)
            yield from sorted(cheap, key=lambda c: -factor_over(known, c.cost))
