"""The main route: train a supernet once, search its members on this device, train the best ones on.

reach -> supernet -> profile -> explore, then for each budget: the best predicted members, measured
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..budget import Budget
from ..errors import CatchweightError, StorageError, UsageError
from ..files import read_json, write_json
from ..front import Arch, Candidate, Front
from ..nets import SegmentationNet, load_network, save_network
from ..run import Run
from ..search import strategy_named
from ..search.blackbox.store import require_storage
from ..search.one_shot import SupernetScore
from ..search.screen import Screening, screen
from ..search.strategy import Problem
from ..spaces.segmentation import SegmentationSpace
from ..spaces.whole import WholeNetworks, known
from ..train import train
from ..train.checkpoints import load_state
from ..train.distill import Distiller, DistillTerms
from ..train.step import Objective
from .job import OVERTIME, Job, Point
from .race import network_epoch_seconds
from .space_route import SpaceRoute, without_unpredictable
from .whole import published

SUPERNET_SHARE, EXPLORE_SHARE = 0.45, 0.2
"""Of the time that ``--time`` leaves, as each of these stages begins."""
LEAST_EPOCHS, LEAST_EVALUATIONS = 3, 24
WORTH_EPOCHS = 8
"""A supernet of fewer is left out by ``search.strategy=auto``, unless no more are asked for: with 3 of 25 epochs on
CamVid the whole run came to 0.36 mIoU, where known networks come to 0.6 in the time."""
WORTH_S = 1200.0
"""So is one in a shorter job: profiling, exploring and measuring take five minutes and more whatever the data, and of
twelve minutes with a small data set one epoch was left to train what had been found."""
UNTIL = "explore-until.json"
"""When the exploration under way ends, for those who join it."""
TOO_SHORT = (
    "the time is short for one, and little will be left to train what it finds; with another --run folder, "
    "--set search.strategy=whole trains known networks instead"
)


class OneShotRoute(SpaceRoute):
    """Candidates are members of one supernet; see :class:`.Route`."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        names = self.settings.beside
        if names is None:
            names = (f"timm/{self.settings.backbone}+fpn",)
        self._published = WholeNetworks(job.base, known(names), (1.0,), self.settings.scales) if names else None

    @cached_property
    def space(self) -> SegmentationSpace:
        found = super().space
        if not found.inherits:
            raise UsageError(
                f"members of {self.settings.space} inherit no weights, so a supernet cannot score them: use "
                "--set search.strategy=gradient, or random"
            )
        return found

    def prepare(self) -> None:
        run = self.job.run
        if self.settings.storage:
            require_storage(self.settings.storage)  # a wrong address is told now, not after the supernet's training
        run.stage("reach", self.reach)
        planned = run.stage("supernet-plan", self._plan_supernet)
        run.stage("supernet", lambda: self._train_supernet(planned["epochs"]))
        run.stage("teacher", self._keep_teacher)
        run.stage("profile", self.profile)
        run.stage("explore", self._explore)

    def candidates(self, point: Point) -> Screening:
        """The best members by supernet score that make the budget, and published networks beside them, measured."""
        members = self.finalists(point, sorted(self._explored.candidates, key=lambda c: -(c.score or 0.0)))
        beside = self._beside(point)
        first, others = members.allowed[:1], members.allowed[1:]  # where the time is short the last ones are left out
        return Screening(first + beside.allowed + others, members.dropped + beside.dropped)

    def _beside(self, point: Point) -> Screening:
        job, none = self.job, Screening((), ())
        if self._published is None:
            return none
        try:
            return screen(
                self._published, point.budget, job.target, job.classes, job.run.path("screen"),
                headroom=self.settings.headroom, per_ladder=1, say=point.say,
            )  # fmt: skip
        except StorageError:
            raise
        except CatchweightError as error:  # the members are what is raced, whatever becomes of these
            point.say(f"screen: beside them none, {error}")
            return none

    def others(self, point: Point) -> Iterable[Candidate]:
        note = "supernet score at predicted latency, not trained alone"
        return (replace(c, note=note, estimated=True) for c in self._explored.points)

    def network(self, arch: Arch) -> SegmentationNet:
        if self._published is None or "network" not in arch:
            return self.score.member(arch).train()
        return published(self.job, self._published, arch)

    def objective(self, arch: Arch, point: Point) -> Objective | None:
        """For members distillation from the largest one, which sees the images at their largest."""
        if not self.settings.distill or "network" in arch:
            return None
        return Distiller(self._teacher, DistillTerms(kl=self.settings.distill), self.sizes[0])

    def minutes(self) -> dict[str, float]:
        epochs = (1.5 if self._published is None else 1.8) * self.job.settings.train.epochs
        training = len(self.job.budgets) * epochs * self.alone_seconds() / 60
        return {
            "supernet": self._epoch_seconds * self.settings.supernet_epochs / 60,
            "explore": self.settings.evaluations * self._evaluation_seconds() / 60,
            "training": training,
        }

    def worth(self, seconds: float | None) -> bool:
        """Whether a job of so many seconds (None: of any length) has the time for a supernet."""
        wanted = min(WORTH_EPOCHS, self.settings.supernet_epochs)
        return seconds is None or (seconds >= WORTH_S and self._affordable(seconds) >= wanted)

    def _affordable(self, seconds: float) -> int:
        return int(SUPERNET_SHARE * seconds / self._epoch_seconds)

    @cached_property
    def _epoch_seconds(self) -> float:
        return network_epoch_seconds(self.job, self.space, self.sizes[0], self.settings.sandwich)

    def _evaluation_seconds(self) -> float:
        score = SupernetScore(self.space, self.job.data, self.job.cache)
        begun = time.monotonic()
        score(self.space.largest())
        return time.monotonic() - begun

    def _plan_supernet(self) -> dict[str, Any]:
        """How many epochs of the supernet fit into the time."""
        job, seconds = self.job, self._epoch_seconds
        wanted = self.settings.supernet_epochs
        epochs = job.fitting(wanted, seconds, SUPERNET_SHARE, LEAST_EPOCHS)
        if epochs <= LEAST_EPOCHS < wanted:
            job.say(f"supernet: {TOO_SHORT}")
        job.say(f"supernet: {epochs} epochs, about {epochs * seconds / 60:.0f} min")
        return {"epochs": epochs, "epoch_seconds": round(seconds, 2)}

    def _train_supernet(self, epochs: int) -> dict[str, Any]:
        """The least number of epochs is trained in any case; what is beyond, while the time lasts."""
        job, deadline = self.job, self.job.deadline(OVERTIME * SUPERNET_SHARE)
        trained = partial(
            train, self.space, job.data, self.recipe(epochs), self._folder, cache=job.cache,
            objective=self.settings.sandwich,
        )  # fmt: skip
        if deadline is not None:
            trained(until_epoch=LEAST_EPOCHS)
        result = trained(deadline=deadline)
        if result.status == "stopped":
            job.say(f"supernet: stopped after epoch {result.epochs} of {epochs}, its time was up")
        job.say(f"supernet: its largest member has {result.score:.3f} val mIoU")
        return {"score": result.score, "epochs": result.epochs}

    def _keep_teacher(self) -> dict[str, Any]:
        """On disk, so that every training of every call has the very same teacher."""
        largest = self.space.largest()
        save_network(self._teacher_file, self.score.member(largest))
        score = self.score(largest)
        self.job.say(f"teacher: the largest member has {score:.3f} val mIoU with statistics of its own")
        return {"score": score}

    @property
    def _teacher_file(self) -> Path:
        return self.job.run.path("teacher.pt")

    @cached_property
    def _teacher(self) -> SegmentationNet:
        return load_network(self._teacher_file)[0]

    @property
    def _folder(self) -> Path:
        return self.job.run.path("supernet")

    @cached_property
    def score(self) -> SupernetScore:
        """Scores members with the averaged weights of the last epoch: the small ones are best there."""
        self.space.load_state_dict(load_state(self._folder / "last.pt")["ema"])
        return SupernetScore(self.space, self.job.data, self.job.cache)

    def _explore(self) -> dict[str, Any]:
        """Search the members below the loosest budget; one search serves all budgets, relaxed ones included."""
        count = self.job.run.stage("explore-plan", self._plan_exploration)["evaluations"]
        deadline = self.job.deadline(OVERTIME * EXPLORE_SHARE)
        note_deadline(self.job.run, deadline)
        front = self.explored_with_others(count, deadline)
        write_json(self.job.run.path("explored.json"), front.to_json())
        return {"evaluations": len(front.candidates)}

    def _plan_exploration(self) -> dict[str, Any]:
        """How many members fit into the time; before the work begins, so that every worker counts to the same."""
        job, count = self.job, self.settings.evaluations
        begun = time.monotonic()
        self.score(self.space.largest())
        seconds = time.monotonic() - begun
        count = job.fitting(count, seconds, EXPLORE_SHARE, LEAST_EVALUATIONS)
        job.say(f"explore: {count} members by {self.settings.explore}, at most {count * seconds / 60:.0f} min")
        return {"evaluations": count}

    def explored_with_others(self, count: int, deadline: float | None) -> Front:
        """Score members together with all who share the storage, until there are ``count`` or the time is over.

        Args:
            deadline: in seconds of ``time.monotonic``.
        """
        job, url = self.job, self.settings.storage
        problem = Problem(
            decisions=self.space.distinct(),
            evaluate=self.score,
            cost=self.predicted,
            budgets=tuple(without_unpredictable(budget) for budget in self._served()),
            storage=url or job.run.path("explore.journal"),
            name=f"explore {job.run.created:.6f}" if url else "search",
            seed=job.settings.train.seed,
            headroom=self.settings.headroom,
            deadline=deadline,
            least=LEAST_EVALUATIONS,
        )
        return strategy_named(self.settings.explore).search(problem, count, lambda line: job.say(f"explore: {line}"))

    def _served(self) -> tuple[Budget, ...]:
        """The budgets that members are wanted for; with compression also those asked for, as far as within reach."""
        searched = self.job.searched
        direct = (budget for budget in self.job.budgets if budget not in searched)
        return (*searched, *(budget for budget in direct if self.look_ahead(budget).reachable))

    @cached_property
    def _explored(self) -> Front:
        return Front.read(self.job.run.path("explored.json"))


def note_deadline(run: Run, deadline: float | None) -> None:
    """Tell those who join when the exploration under way ends."""
    until = None if deadline is None else time.time() + deadline - time.monotonic()
    write_json(run.path(UNTIL), {"until": until})


def noted_deadline(run: Run) -> float | None:
    """In seconds of ``time.monotonic``; ``None`` for no bound, also where it is past: then ``fit`` was stopped."""
    path = run.path(UNTIL)
    until = read_json(path)["until"] if path.exists() else None
    return None if until is None or until < time.time() else time.monotonic() + until - time.time()
