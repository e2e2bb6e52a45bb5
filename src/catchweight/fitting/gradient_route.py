"""The gradient route: FasterSeg's co-search finds a student under each latency, and the teacher that it learns from.

parts timed -> supernet pre-trained -> for each budget: co-search, teacher trained, the best students measured
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..budget import Budget
from ..data.loading import Batch
from ..errors import UsageError
from ..files import copy_file, read_json, write_json
from ..front import Arch, Candidate
from ..nets import SegmentationNet, build_network, load_network
from ..nets.fasterseg import OPS
from ..search.gradient import CoSearchResult, CoSearchSettings, PhaseSettings, aimed, co_search, pretrain
from ..search.gradient.cosearch import student_latency, supernet
from ..search.halving import counted
from ..search.reach import CostOf, Reach, reach
from ..search.screen import Screening, stored_costs
from ..spaces.fasterseg import FasterSegSpace, MeasuredTimes
from ..targets.latency.observe import observable
from ..targets.latency.table import default_folder
from ..train import train
from ..train.distill import Distiller, DistillTerms
from ..train.step import Objective
from .job import OVERTIME, Job, Point, latency_limit
from .race import network_epoch_seconds
from .space_route import SpaceRoute

PRETRAIN_SHARE, SEARCH_SHARE, TEACHER_SHARE = 0.15, 0.3, 0.3
"""Of the time that ``--time`` leaves as each of these stages begins; the later two divided by the budgets to come."""
LEAST_EPOCHS = 2
PART_S = 0.05
"""Rough seconds to time one operator; only used to estimate."""


class GradientRoute(SpaceRoute):
    """Candidates are the students that a co-search read off, trained from random weights; see :class:`.Route`."""

    hint = "take a smaller --size, or race known networks with --set search.strategy=whole"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.how = job.settings.search.gradient
        self.sizes = (job.base,)
        if any(latency_limit(budget) is None for budget in job.budgets):
            raise UsageError('a search by gradient works towards a latency: limit it, e.g. --budget "latency<=15ms"')
        if not observable(job.target):
            raise UsageError(
                f"a search by gradient needs the time of single operators, which {job.target} does not tell: use "
                "--target onnxruntime:cpu, or --set search.strategy=one-shot"
            )

    def prepare(self) -> None:
        run = self.job.run
        run.stage("reach", self.reach)
        run.stage("parts", self._time_parts)
        run.stage("pretrain-plan", self._plan_pretraining)
        run.stage("pretrain", self._pretrain)

    def candidates(self, point: Point) -> Screening:
        """The students read off that make the budget when measured, the one chosen by the search first."""
        result = self._searched(point)
        self._train_teacher(point, result)
        students = result.front(self.job.base).candidates
        screening = self.screened(point, students, self._measured_student, _of_latency, factor=0.0)
        if screening.allowed:
            return screening
        smallest = self.stand_in(point)
        return replace(screening, allowed=(replace(smallest, arch=self._named(smallest.arch)),))

    def others(self, point: Point) -> Iterable[Candidate]:
        note = "supernet score at the table's latency, not trained alone"
        students = CoSearchResult.load(self._folder(point.budget) / "result.json").front(self.job.base).candidates
        return (replace(c, note=note, estimated=True) for c in students if c.score is not None)

    def network(self, arch: Arch) -> SegmentationNet:
        train_ = self.job.settings.train
        torch.manual_seed(train_.seed)
        return build_network(arch["network"], self.job.classes, aux=train_.loss.aux > 0).train()

    def objective(self, arch: Arch, point: Point) -> Objective | None:
        """Distillation from the teacher that was found in the point's search."""
        if not self.how.distill:
            return None
        teacher, _ = load_network(self._folder(point.budget) / "teacher.pt")
        return Distiller(teacher, DistillTerms(kl=self.how.distill))

    def look_ahead(self, budget: Budget, cost: CostOf | None = None) -> Reach:
        """Skips leave maps large, so that the smallest member made of zoomed convolutions may be the faster one."""
        smallest = self.space.smallest()
        zoomed = Arch(**{name: "zoomed" if value in OPS else value for name, value in smallest.items()})
        return reach(
            budget, smallest, self.space.largest(), cost or self.measured, others=(zoomed,),
            headroom=self.settings.headroom,
        )  # fmt: skip

    @cached_property
    def space(self) -> FasterSegSpace:
        torch.manual_seed(self.job.settings.train.seed)
        how = self.how
        return FasterSegSpace(self.job.classes, self.sizes, layers=how.layers, base=how.base, widths=how.widths)

    def space_text(self) -> str:
        return f"fasterseg of {self.how.layers} layers, {self.space.size():.3g} architectures"

    def minutes(self) -> dict[str, float]:
        pretraining, searching = self._epoch_seconds()
        budgets, epochs = len(self.job.budgets), self.job.settings.train.epochs
        return {
            "pretrain": self.how.pretrain_epochs * pretraining / 60,
            "search": budgets * self.how.search_epochs * searching / 60,
            "teacher": budgets * epochs * self.longest_epoch() / 60 if self.how.distill else 0.0,
            "training": budgets * 1.5 * epochs * self.longest_epoch() / 60,
        }

    def profiling_minutes(self) -> float:
        return len(self._latency_parts()) * PART_S / 60

    def longest_epoch(self) -> float:
        """Of the published teacher's size at most: every cell kept, at full width."""
        largest = self.network(self._named(self.space.largest()))
        return network_epoch_seconds(self.job, largest, self.job.base)

    # --- Stages

    def _time_parts(self) -> dict[str, Any]:
        """Time every operator of the space on the target."""
        self.job.say(f"parts: timing the operators of {self.space_text()} on {self.job.target}")
        begun = time.monotonic()
        student_latency(self.space, self._settings(), self.times)
        self.job.say(f"parts: done in {time.monotonic() - begun:.0f} s")
        return {"done": True}

    def _plan_pretraining(self) -> dict[str, Any]:
        pretraining, searching = self._epoch_seconds()
        epochs = self._fitting(self.how.pretrain_epochs, pretraining, PRETRAIN_SHARE)
        self.job.say(f"pretrain: {epochs} epochs, about {epochs * pretraining / 60:.0f} min")
        return {"epochs": epochs, "search_epoch_seconds": round(searching, 3)}

    def _pretrain(self) -> dict[str, Any]:
        job = self.job
        path = pretrain(
            job.data, self._settings(self._pretrained), job.run.path("pretrain"), cache=job.cache,
            deadline=job.deadline(OVERTIME * PRETRAIN_SHARE), say=job.say,
        )  # fmt: skip
        return {"weights": path.name}

    def _searched(self, point: Point) -> CoSearchResult:
        """The co-search under this budget; its plan is kept in its folder, so that it goes on as it was begun."""
        folder = self._folder(point.budget)
        seconds = (self.job.run.result("pretrain-plan") or {})["search_epoch_seconds"]
        if not (folder / "plan.json").exists():
            planned = self._fitting(self.how.search_epochs, seconds, SEARCH_SHARE / point.to_come)
            write_json(folder / "plan.json", {"epochs": planned})
        plan = read_json(folder / "plan.json")
        tight = latency_limit(point.budget.tightened(self.settings.headroom))
        assert tight is not None, "checked before the work began"
        weights = self.job.run.path("pretrain", "weights.pt")
        result = co_search(
            self.job.data, self._settings(self._pretrained, tight, plan["epochs"]), folder, self.times,
            cache=self.job.cache, pretrained=weights,
            deadline=self.job.deadline(OVERTIME * SEARCH_SHARE / point.to_come), say=point.say,
        )  # fmt: skip
        point.say(f"co-search: a student of {result.student_ms:.2f} ms by the table, {result.student}")
        return result

    def _train_teacher(self, point: Point, result: CoSearchResult) -> None:
        file = self._folder(point.budget) / "teacher.pt"
        if not self.how.distill or file.exists():
            return
        epochs, job = self.job.settings.train.epochs, self.job
        net = self.network(Arch(network=result.teacher))

        def planned() -> dict[str, int]:
            seconds = network_epoch_seconds(job, net, job.base)
            return {"epochs": self._fitting(epochs, seconds, TEACHER_SHARE / point.to_come)}

        plan = point.run.stage("teacher-plan", planned)
        trained = train(
            net, job.data, job.recipe(job.base, plan["epochs"]), file.with_suffix(""), cache=job.cache,
            deadline=job.deadline(OVERTIME * TEACHER_SHARE / point.to_come),
        )  # fmt: skip
        point.say(f"teacher: {trained.score:.3f} val mIoU after {counted(trained.epochs)}")
        copy_file(trained.best, file)

    @cached_property
    def _measured_student(self) -> CostOf:
        def plain(arch: Arch) -> SegmentationNet:
            return build_network(arch["network"], self.job.classes)

        return stored_costs(plain, self.job.target, self.job.run.path("screen"), self.job.say, self.job.budgets)

    # --- What they share

    @cached_property
    def times(self) -> MeasuredTimes:
        target = self.job.target
        return MeasuredTimes(target, default_folder(target) / "fasterseg_parts.json")

    def _latency_parts(self) -> list[Any]:
        asked: list[Any] = []

        def counting(parts: Iterable[Any]) -> list[float]:
            asked.extend(parts)
            return [1.0] * len(asked)

        student_latency(self.space, self._settings(), counting)
        return asked

    @property
    def _pretrained(self) -> int:
        """Epochs that the pre-training was planned for."""
        return int((self.job.run.result("pretrain-plan") or {})["epochs"])

    def _settings(
        self, pretrained: int | None = None, limit_ms: float | None = None, epochs: int | None = None
    ) -> CoSearchSettings:
        """The published search at this job's size and classes, its window ending at the limit."""
        how, base, train_ = self.how, self.job.base, self.job.settings.train
        published = CoSearchSettings()
        found = published.model_copy(
            update={
                "layers": how.layers, "base": how.base, "widths": how.widths, "seed": train_.seed,
                "pretrain": PhaseSettings(
                    epochs=pretrained or how.pretrain_epochs, batch=how.batch, size=self._crop(),
                    lr=published.pretrain.lr,
                ),
                "search": PhaseSettings(
                    epochs=epochs or how.search_epochs, batch=how.batch, size=self._crop(), lr=published.search.lr
                ),
                "image_size": base, "latency_size": base,
            }
        )  # fmt: skip
        if limit_ms is None:
            return found
        low, high = published.window_ms
        return aimed(found, limit_ms * (low + high) / 2 / high)

    def _crop(self) -> tuple[int, int]:
        """Half of each side of the image, as published; in multiples of 32, the coarsest stride, and 64 at least."""
        height, width = (max(64, side // 2 // 32 * 32) for side in self.job.base)
        return height, width

    def _epoch_seconds(self) -> tuple[float, float]:
        """Of pre-training and of searching, from one timed step of each."""
        job, batch = self.job, self.how.batch
        search = supernet(job.data, self._settings())
        shape = (batch, 3, *self._crop())
        pixels = Batch(torch.zeros(shape, dtype=torch.uint8), torch.zeros((batch, *shape[2:]), dtype=torch.uint8), ())
        steps = max(1, len(job.data.splits["train"]) // 2 // batch)
        begun = time.monotonic()
        search.pretrain_gradient(pixels)
        between = time.monotonic()
        search.weights_gradient(pixels)
        return steps * (between - begun), 2 * steps * (time.monotonic() - between)

    def _fitting(self, epochs: int, seconds: float, share: float) -> int:
        return self.job.fitting(epochs, seconds, share, LEAST_EPOCHS)

    def _folder(self, budget: Budget) -> Path:
        return self.job.run.path("co-search", f"{latency_limit(budget):g}ms")

    def _named(self, arch: Arch) -> Arch:
        """A member under the name of its network, as all candidates of this route are."""
        return Arch(network=self.space.network_name(arch), width=1.0, size=list(self.job.base))


def _of_latency(budget: Budget) -> Budget:
    """The limit on latency alone: all that the table predicts."""
    return Budget(tuple(limit for limit in budget.limits if limit.name == "latency"))


__all__ = ["GradientRoute"]
