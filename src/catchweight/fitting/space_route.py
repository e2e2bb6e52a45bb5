"""What routes through a search space share: its members, what they cost here, and which of them are measured."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..budget import Budget, Cost
from ..errors import UsageError, unknown
from ..files import write_json
from ..front import Arch, Candidate
from ..nets import SegmentationNet, build_network
from ..search.reach import CostOf, Reach, reach
from ..search.screen import Screening, stored_costs
from ..spaces import SPACES
from ..spaces.segmentation import SegmentationSpace, input_size, sizes_within
from ..spaces.whole import label
from ..targets.latency.coarse import CoarsePredictor, WholeTable, profile_whole
from ..targets.latency.observe import observable
from ..targets.latency.predictor import LEAST, LatencyPredictor
from ..targets.latency.profile import Subject, profile
from ..targets.latency.table import LatencyTable
from ..train import Recipe
from .job import Job, Point
from .race import network_epoch_seconds

PROFILE_SHARE = 0.12
"""Of the time that ``--time`` leaves as the stage begins."""
PROFILED_S = 5.0
"""Rough seconds to export and time one member; only used to estimate."""
PREDICTABLE = ("latency", "macs", "params")
"""Quantities that are known of a member before it is exported."""
MOST_MEASURED = 12
"""Members measured for one budget, before the best found so far are taken."""


class SpaceRoute:
    """A search space, its members' predicted and measured cost, and the choice of finalists by them."""

    hint = (
        "add smaller input sizes with --set search.scales=[...], or race known networks with "
        "--set search.strategy=whole"
    )
    """What else helps where no member makes a budget."""

    def __init__(self, job: Job) -> None:
        settings = job.settings.search
        if settings.space not in SPACES:
            raise unknown("search space", settings.space, SPACES)
        if settings.strategy != "auto":  # which takes another route then
            for budget in job.budgets:
                without_unpredictable(budget)
        self.job, self.settings = job, settings
        self.sizes = sizes_within(job.base, settings.scales)

    def finalists(self, point: Point, ranked: Iterable[Candidate], count: int | None = None) -> Screening:
        """The first of these members that make the budget when measured; predictions are corrected as it goes on.

        Args:
            ranked: members with predicted cost, the preferred first.
            count: how many are wanted; default: ``search.finalists``.
        """
        found = self.screened(point, ranked, self.measured, without_unpredictable, count)
        return found if found.allowed else replace(found, allowed=(self.stand_in(point),))

    def stand_in(self, point: Point) -> Candidate:
        """The smallest member of the space, measured: where nothing that was found makes the budget.

        Raises:
            CatchweightError: it does not make it either; by how much.
        """
        nearest = self.look_ahead(point.budget)
        nearest.check(self.job.target, self.hint)
        point.say("screen: none makes the budget; the smallest network of the space stands in")
        return nearest.nearest

    def screened(
        self,
        point: Point,
        ranked: Iterable[Candidate],
        measured: CostOf,
        predictable: Callable[[Budget], Budget],
        count: int | None = None,
        factor: float = 1.0,
    ) -> Screening:
        """As :meth:`finalists`, but nothing stands in where none makes the budget.

        Args:
            measured: the cost of a candidate here.
            predictable: the limits of a budget that a prediction is held against.
            factor: what predicted latency is multiplied by until one was measured; 0 measures the first in any case.
        """
        tight, wanted = point.budget.tightened(self.settings.headroom), count or self.settings.finalists
        allowed: list[Candidate] = []
        dropped: list[Candidate] = []
        points: list[dict[str, Any]] = []
        for member in ranked:
            if len(allowed) >= wanted or len(points) >= max(MOST_MEASURED, 2 * wanted):
                break
            if not predicted_within(predictable(tight), member.cost, factor):
                continue
            cost, predicted = measured(member.arch), max(member.cost.latency_ms or 0.0, 1e-9)
            points.append(
                {"name": label(member.arch), "predicted_ms": predicted, "measured_ms": cost.latency_ms or 0.0}
            )
            factor = median(row["measured_ms"] / row["predicted_ms"] for row in points)
            note = "; ".join(tight.violations(cost))
            (dropped if note else allowed).append(Candidate(member.arch, cost, note=note))
        write_json(point.run.path("predictions.json"), {"points": points})
        point.say(f"screen: {len(allowed)} of {len(points)} measured make {point.budget}")
        return Screening(tuple(allowed), tuple(dropped))

    def minutes(self) -> dict[str, float]:
        """Estimated minutes of what follows profiling, by stage."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """For ``--dry-run``: measures the smallest and the largest member and times one step, but trains nothing.

        Raises:
            CatchweightError: a budget is out of reach; tells by how much.
        """
        job = self.job
        with tempfile.TemporaryDirectory() as store:
            cost_of = stored_costs(self._plain, job.target, Path(store), job.say, job.budgets)
            found = [self.look_ahead(budget, cost_of) for budget in job.searched]
        for ahead in found:
            ahead.check(job.target, self.hint)
        minutes = {"profile": self.profiling_minutes(), **self.minutes()}
        return {
            "space": self.space_text(),
            "reach": "; ".join(map(str, found)),
            "minutes": {name: round(value, 1) for name, value in minutes.items()},
            "minutes in all": round(sum(minutes.values()), 1),
        }

    def profiling_minutes(self) -> float:
        """Estimated minutes of timing what the device's table does not know."""
        new = [subject for subject in self.subjects() if (subject.label, subject.size) not in self.table]
        return min(self.settings.profile_minutes, len(new) * PROFILED_S / 60)

    @cached_property
    def space(self) -> SegmentationSpace:
        torch.manual_seed(self.job.settings.train.seed)
        return SPACES[self.settings.space](
            self.job.classes, backbone=self.settings.backbone, sizes=self.sizes, weights=self.job.weights
        )

    def space_text(self) -> str:
        return f"{self.settings.space} over {self.settings.backbone}, {self.space.size():.3g} architectures"

    def _plain(self, arch: Arch) -> SegmentationNet:
        return build_network(self.space.network_name(arch), self.job.classes)

    @cached_property
    def measured(self) -> CostOf:
        return stored_costs(self._plain, self.job.target, self.job.run.path("screen"), self.job.say, self.job.budgets)

    def look_ahead(self, budget: Budget, cost: CostOf | None = None) -> Reach:
        smallest, largest = self.space.smallest(), self.space.largest()
        return reach(budget, smallest, largest, cost or self.measured, headroom=self.settings.headroom)

    def reach(self) -> dict[str, Any]:
        found = [self.look_ahead(budget) for budget in self.job.searched]
        for ahead in found:
            self.job.say(f"reach: {ahead}")
        for ahead in found:
            ahead.check(self.job.target, self.hint)
        return {
            "space": self.space_text(),
            "reach": list(map(str, found)),
        }

    def profile(self) -> dict[str, Any]:
        """Time members of the space on the target, unless the device's table knows them."""
        job, table = self.job, self.table
        left = job.left()
        minutes = self.settings.profile_minutes
        if left is not None:
            minutes = min(minutes, PROFILE_SHARE * left / 60)
        job.say(f"profile: timing up to {self.settings.profiled} members on {job.target} ({minutes:.1f} min at most)")
        told = time.monotonic()

        def say(done: int, total: int, text: str) -> None:
            nonlocal told
            if time.monotonic() - told > 15 or done == total:
                told = time.monotonic()
                job.say(f"profile: {done} of {total}, {text}")

        time_all = profile if isinstance(table, LatencyTable) else profile_whole
        report = time_all(table, self.subjects(), minutes=minutes, least=LEAST, seconds=1.0, told=say)  # type: ignore[arg-type]
        error = self.predictor.error
        job.say(f"profile: {report.new} new, {report.known} known; {error}")
        result = {"error": error.to_json(), "new": report.new, "known": report.known, "networks": len(table.networks)}
        write_json(job.run.path("profile.json"), result)
        return result

    def subjects(self) -> list[Subject]:
        rng = random.Random(self.job.settings.train.seed)
        archs = [self.space.smallest(), self.space.largest()]
        archs += [self.space.sample(rng) for _ in range(self.settings.profiled - len(archs))]
        names = ((self.space.network_name(arch), input_size(arch)) for arch in archs)
        classes = self.job.classes
        return [Subject(f"{name} K{classes}", size, partial(build_network, name, classes)) for name, size in names]

    @cached_property
    def table(self) -> LatencyTable | WholeTable:
        """Of blocks, where the runtime tells their times, else of whole networks."""
        target = self.job.target
        return LatencyTable(target) if observable(target) else WholeTable(target)

    @cached_property
    def predictor(self) -> LatencyPredictor | CoarsePredictor:
        table = self.table
        return LatencyPredictor(table) if isinstance(table, LatencyTable) else CoarsePredictor(table.networks)

    def predicted(self, arch: Arch) -> Cost:
        """Latency by the table, MACs and parameters counted; what can only be measured is left out."""
        signatures = self.space.signatures(arch, input_size(arch), precision=self.job.target.precision)
        net = self.space.subnet(arch, weights="none")
        return Cost(
            latency_ms=self.predictor.signatures(signatures).ms,
            macs=float(sum(signature.macs for signature in signatures)),
            params=float(sum(parameter.numel() for parameter in net.parameters())),
        )

    def alone_seconds(self) -> float:
        """An epoch of the largest member; finalists take less."""
        return network_epoch_seconds(self.job, self.space, self.sizes[0])

    def longest_epoch(self) -> float:
        return self.alone_seconds()

    def recipe(self, epochs: int) -> Recipe:
        return self.job.recipe(self.sizes[0], epochs).model_copy(update={"eval_every": 5})


def limits_predictable(budget: Budget) -> bool:
    """Whether members can be left out by a prediction."""
    return any(limit.name in PREDICTABLE for limit in budget.limits)


def without_unpredictable(budget: Budget) -> Budget:
    """The limits that a prediction can be held against; the others count when a finalist is measured.

    Raises:
        UsageError: there is none.
    """
    limits = tuple(limit for limit in budget.limits if limit.name in PREDICTABLE)
    if not limits:
        raise UsageError(
            f"the budget {budget} limits nothing that can be predicted: add a limit of latency, macs or params, "
            "or use --set search.strategy=whole"
        )
    return Budget(limits)


def predicted_within(budget: Budget, cost: Cost, factor: float) -> bool:
    """Whether a predicted cost is within the predictable limits once its latency is multiplied by ``factor``."""
    latency = None if cost.latency_ms is None else cost.latency_ms * factor
    return without_unpredictable(budget).allows(replace(cost, latency_ms=latency))


__all__ = ["SpaceRoute", "limits_predictable", "predicted_within", "without_unpredictable"]
