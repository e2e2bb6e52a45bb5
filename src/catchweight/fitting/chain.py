"""One point with compression: two races, the steps on the second one's winner, and the better of both.

    direct:   race under the budget itself
    relaxed:  race under a relaxed latency -> int8 as it is -> prune, as far as int8 leaves it to be -> int8

The network of the direct race stands until the compressed one is measured to make the budget with a better score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..budget import Budget
from ..deploy.evaluate import evaluate_file
from ..errors import CatchweightError, StorageError
from ..files import copy_file, read_json, write_json
from ..front import Candidate, Front
from ..search.reach import factor_over
from ..spaces.whole import label
from .ablation import ablation, without_distillation
from .estimate import DIRECT_SHARE, RELAXED_SHARE, int8_seconds, planned
from .job import COMPRESSED, Job, Point, latency_limit, relaxed
from .race import Route, dump_screening, load_screening, measured, race, told_blocks
from .steps import INT8, PRUNE, Made, Schedule, pruned, quantised

DIRECT, RELAXED = "direct", "relaxed"
AS_TRAINED = "int8-as-trained"
"""Stage and folder of the int8 file of the unpruned network."""
ENDS = ("choose", "export", "measure", "blocks", "ablation")
"""The stages that follow the steps."""


def compressed(job: Job, route: Route, point: Point) -> Candidate:
    """Do all stages of one point; returns the network that was chosen, with the cost of its exported file."""
    chain, run = Chain(job, route, point), point.run
    options = [made for made in (chain.direct, chain.ended) if made is not None]
    found = run.stage("choose", lambda: chain.choose(options))
    chosen = Made.from_json(found["chosen"])
    run.stage("export", lambda: chain.adopt(chosen))
    final = Candidate.from_json(run.stage("measure", lambda: chain.measure(chosen)))
    run.stage("blocks", lambda: told_blocks(job, point))
    chain.write_front(chosen, final)
    write_json(run.path("chain.json"), chain.told(chosen))
    undistilled = without_distillation(job, point, chain.pruned, chain.ended)
    run.stage("ablation", lambda: ablation(
        point, direct=chain.direct, trained=chain.trained, as_trained=chain.as_trained, pruned=chain.pruned,
        ended=chain.ended, undistilled=undistilled,
    ))  # fmt: skip
    return final


def reconsider(point: Point) -> None:
    """Before the next call: measure the chosen file again, and what was refused because of a measurement."""
    run = point.run
    results = {stage: run.result(stage) for stage in (AS_TRAINED, PRUNE, INT8)}
    again = [stage for stage, made in results.items() if made and made["again"]]
    after_pruning = [INT8] if PRUNE in again else []
    last = ENDS if again else ENDS[ENDS.index("measure") :]
    for stage in (*again, *after_pruning, *last):
        run.forget(stage)


class Chain:
    """The stages of one point, each stored as soon as it is done."""

    def __init__(self, job: Job, route: Route, point: Point) -> None:
        self.job, self.route, self.point = job, route, point
        self.settings = job.settings.compress

    @cached_property
    def direct(self) -> Made | None:
        """The network found under the budget itself; None where none is within reach."""
        found = self.point.run.stage(DIRECT, lambda: self._raced(DIRECT, self.point.budget, DIRECT_SHARE))
        return Made.from_json(found["made"]) if "made" in found else None

    @cached_property
    def trained(self) -> Made | None:
        """The winner under the relaxed budget, as trained; None where there was no time for one."""
        found = self.point.run.stage(RELAXED, self._relaxed)
        return Made.from_json(found["made"]) if "made" in found else None

    @property
    def skipped(self) -> dict[str, str]:
        """Why a race did not take place, by its name."""
        results = {name: self.point.run.result(name) or {} for name in (DIRECT, RELAXED)}
        return {name: found["skipped"] for name, found in results.items() if "skipped" in found}

    @cached_property
    def as_trained(self) -> Made | None:
        """The winner in int8 without pruning; None where int8 is not wanted or there is nothing to compress."""
        given = self.trained
        if given is None or not self.settings.quantises:
            return None
        if self.within(given):
            return given.not_needed(INT8, f"{given.latency_ms:.2f} ms as it was trained")
        return self._step(AS_TRAINED, lambda: self._int8(given, AS_TRAINED))

    @cached_property
    def pruned(self) -> Made | None:
        """The winner pruned, in float."""
        given, int8 = self.trained, self.as_trained
        if given is None or not self.settings.prunes:
            return None
        if self.within(given) or (int8 is not None and self.within(int8)):
            return given.not_needed(PRUNE, "the budget is made without")
        plan = self._plan(given, int8.faster if int8 is not None else 1.0)
        if not plan["epochs"]:
            return given.refused(PRUNE, "no time was left for it")
        schedule = Schedule(plan["steps"], plan["epochs"], self._before_int8(given))
        return self._step(PRUNE, lambda: pruned(self.job, self.point, given, plan["limit_ms"], schedule))

    @cached_property
    def ended(self) -> Made | None:
        """What the steps ended with."""
        smaller, int8 = self.pruned, self.as_trained
        if smaller is None or not smaller.accepted:
            return int8 or smaller  # nothing was pruned: the last word is int8's, where it is wanted
        if not self.settings.quantises:
            return smaller
        if self.within(smaller):
            return smaller.not_needed(INT8, f"{smaller.latency_ms:.2f} ms after pruning")
        return self._step(INT8, lambda: self._int8(smaller, INT8))

    @property
    def steps(self) -> list[tuple[str, Made]]:
        """Every step that was tried or passed over, with its stage, in order."""
        last = self.ended
        found = [(RELAXED, self.trained), (AS_TRAINED, self.as_trained), (PRUNE, self.pruned)]
        if last is not None and last not in (self.as_trained, self.pruned):
            found.append((INT8, last))
        return [(stage, made) for stage, made in found if made is not None]

    def within(self, made: Made) -> bool:
        return self.point.budget.allows(made.candidate.cost)

    def choose(self, options: list[Made]) -> dict[str, Any]:
        """The better score of those that make the budget; if none does, the one that misses it by least."""
        within = [made for made in options if self.within(made)]
        nearest = min(options, key=lambda made: factor_over(self.point.budget, made.candidate.cost))
        chosen = max(within, key=lambda made: made.score) if within else nearest
        why = self._why(chosen, within)
        self.point.say(f"choose: {label(chosen.candidate.arch)}, {why}")
        return {"chosen": chosen.to_json(), "why": why}

    def adopt(self, chosen: Made) -> dict[str, Any]:
        """Copy the chosen network and what is known of it into the point's own folder."""
        run = self.point.run
        home, model = run.path(chosen.folder), run.path(chosen.model)
        copy_file(model, run.path("model.pt"))
        for name in ("model.onnx", "model.json", "verification.json"):
            copy_file(home / name, run.path(name))
        training = model.parent / ("train" if (model.parent / "train").exists() else "finetune")
        for name in ("metrics.csv", "score.json", "examples.png"):
            if (training / name).exists():
                copy_file(training / name, run.path("train", name))
        predictions = run.path(COMPRESSED, DIRECT if chosen == self.direct else RELAXED, "predictions.json")
        if predictions.exists():
            copy_file(predictions, run.path("predictions.json"))
        if INT8 in _done(chosen):
            self._score_int8(home / "model.onnx")
        return dict(read_json(home / "verification.json"))

    def measure(self, chosen: Made) -> dict[str, Any]:
        cost = measured(self.job, self.point, self.point.run.path("model.onnx"), chosen.candidate.cost)
        return replace(chosen.candidate, cost=cost, note="chosen").to_json()

    def write_front(self, chosen: Made, final: Candidate) -> None:
        """The chosen network first, then what else was made of the winner, then all that raced."""
        made = [m for _, m in (*self.steps, (DIRECT, self.direct)) if m is not None]
        others = [replace(m.candidate, note=_note(m)) for m in made if m.candidate.arch != chosen.candidate.arch]
        races = [self.point.run.path(COMPRESSED, name, "front.json") for name in (DIRECT, RELAXED)]
        raced = [c for path in races if path.exists() for c in Front.read(path).candidates if c.note != "chosen"]
        front = Front(_unlike((final, *others, *raced)))
        write_json(self.point.run.path("front.json"), front.to_json())

    @property
    def relaxed(self) -> Budget:
        return relaxed(self.point.budget, self.settings.relaxation)

    def told(self, chosen: Made) -> dict[str, Any]:
        """``chain.json``: every step's score, cost and time, for the report."""
        found = self.point.run.result("choose") or {}
        titles = {
            DIRECT: f"search and train under {self.point.budget}", RELAXED: f"search and train under {self.relaxed}",
            AS_TRAINED: "int8 without pruning", PRUNE: "prune and fine-tune", INT8: "int8",
        }  # fmt: skip
        steps = [*([(DIRECT, self.direct)] if self.direct is not None else []), *self.steps]
        rows = [
            {"step": titles[stage], "score": made.candidate.score, **made.candidate.cost.to_json(),
             "seconds": self.point.run.seconds(stage), "accepted": made.accepted, "note": made.reason}
            for stage, made in steps
        ]  # fmt: skip
        skipped = [{"step": titles[name], "accepted": False, "note": why} for name, why in self.skipped.items()]
        return {"rows": [*rows, *skipped], "why": found.get("why", ""),
                "chosen": DIRECT if chosen == self.direct else "compressed"}  # fmt: skip

    def _relaxed(self) -> dict[str, Any]:
        left = self.job.left()
        if self.direct is not None and left is not None and left <= 0:
            return {"skipped": "the time was up after the direct race"}
        return self._raced(RELAXED, self.relaxed, RELAXED_SHARE, needed=self.direct is None)

    def _raced(self, name: str, budget: Budget, part: float, needed: bool = False) -> dict[str, Any]:
        """Race under a budget. No candidate within reach is an answer, unless there ``needed`` to be one."""
        point = self.point.race(name, budget, part)
        try:
            load_screening(point.run.stage("screen", lambda: dump_screening(self.route.candidates(point))))
        except CatchweightError as error:
            if needed or isinstance(error, StorageError):
                raise
            point.say(f"screen: {error}")
            return {"skipped": str(error)}
        won = race(self.job, self.route, point, blocks=False)
        folder = f"{COMPRESSED}/{name}"
        return {"made": Made("train", folder, f"{folder}/model.pt", replace(won, note="")).to_json()}

    def _step(self, stage: str, work: Callable[[], Made]) -> Made:
        def done() -> dict[str, Any]:
            made = work()
            if not made.accepted:
                self.point.say(f"{stage}: {made.reason}")
            return made.to_json()

        return Made.from_json(self.point.run.stage(stage, done))

    def _int8(self, given: Made, name: str) -> Made:
        left = self.job.left()
        if left is not None and left / self.point.to_come < int8_seconds(self.job, given.latency_ms):
            return given.refused(INT8, "no time was left for it")
        to_follow = 2 if name == AS_TRAINED and self.settings.prunes else 1  # pruning may want the other half
        return quantised(self.job, self.point, given, name, self.job.deadline(1 / (to_follow * self.point.to_come)))

    def _before_int8(self, given: Made) -> float | None:
        """In seconds of ``time.monotonic``, when pruning must end so that int8 has its time."""
        deadline = self.job.deadline(1 / self.point.to_come)
        step = (self.point.run.result("prune-plan") or {}).get("step_seconds", 0.0)
        reserved = int8_seconds(self.job, given.latency_ms, step) if self.settings.quantises else 0.0
        return None if deadline is None else deadline - reserved

    def _plan(self, given: Made, faster: float) -> dict[str, Any]:
        """How far and how long to prune; ``faster``: what int8 will make of it afterwards."""
        limit = latency_limit(self.point.budget.tightened(self.job.settings.search.headroom))
        assert limit is not None, "checked before the work began"
        plan: dict[str, Any] = self.point.run.stage(
            "prune-plan", lambda: planned(self.job, self.point, given, limit * faster)
        )
        return plan

    def _score_int8(self, file: Path) -> None:
        """Scores by class are those of the file that is delivered, not of its float network."""
        job, path = self.job, self.point.run.path("train", "score.json")
        score = evaluate_file(file, job.data, threads=job.target.threads, cache=job.cache, boundary=True)
        write_json(path, {**(read_json(path) if path.exists() else {}), **score.to_json()})

    def _why(self, chosen: Made, within: list[Made]) -> str:
        other = next((m for m in (self.direct, self.ended) if m is not None and m != chosen), None)
        if other is None:
            return "the only network there is: " + "; ".join(self.skipped.values())
        if not within:
            return "neither network makes the budget, this one misses it by less"
        told = f"val mIoU {chosen.score:.4f}; the other has {other.score:.4f} at {other.latency_ms:.2f} ms"
        if other in within:
            return f"{told} and makes the budget as well"
        return f"{told}: {'; '.join(self.point.budget.violations(other.candidate.cost))}"


def _done(made: Made) -> tuple[str, ...]:
    return tuple(made.candidate.arch.get("compressed", ()))


def _note(made: Made) -> str:
    done = _done(made)
    return f"after {' and '.join(done)}" if done else "as trained, without compression"


def _unlike(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The first of each architecture."""
    first: dict[Any, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.arch, candidate)
    return tuple(first.values())
