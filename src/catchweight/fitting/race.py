"""From measured candidates to the point's exported network: race, train, export, verify, measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..budget import Cost
from ..data.loading import EvalLoader
from ..deploy.export import export
from ..deploy.roofline import file_rooflines
from ..deploy.verify import verify
from ..errors import CatchweightError, DivergedError
from ..files import copy_file, copy_folder, digest, sqlite_url, write_json
from ..front import Arch, Candidate, Front
from ..nets import SegmentationNet, load_network
from ..report.watch import remaining
from ..run import Run
from ..search import fitting_plan, successive_halving
from ..search.screen import Screening
from ..spaces.whole import label, size_of
from ..targets.latency.observe import observable
from ..train import train
from ..train.step import Objective
from ..train.timing import step_seconds
from .fallback import next_winner, pass_over, told_passed_over
from .job import Job, Point

EVALUATION_SHARE = 0.35
"""Time of evaluating one image, as a share of training on it; only used to estimate."""


class BudgetMissedError(CatchweightError):
    """The exported file, measured on the target, is over the budget. Running again measures again."""


class Route(Protocol):
    """How candidates are found. What follows is the same for all: :func:`race`."""

    def prepare(self) -> None:
        """Do what all points share, in stages of the job's run."""

    def candidates(self, point: Point) -> Screening:
        """Candidates measured on the target: those within the budget, the preferred first, and those that are not.

        Raises:
            CatchweightError: none is within the budget; by how much the nearest misses it.
        """

    def others(self, point: Point) -> Iterable[Candidate]:
        """What else is known of the space, for the point's front: scored, but not trained alone."""

    def network(self, arch: Arch) -> SegmentationNet:
        """A candidate with the weights that its training begins from."""

    def objective(self, arch: Arch, point: Point) -> Objective | None:
        """What its training optimises besides the recipe's loss, in a race for this point."""

    def longest_epoch(self) -> float:
        """Seconds of an epoch of a large candidate, for estimates."""

    def describe(self) -> dict[str, Any]:
        """For ``--dry-run``: what would be done, and how many minutes it would take."""


def race(job: Job, route: Route, point: Point, *, blocks: bool = True) -> Candidate:
    """Do all stages of one point; returns the network that was chosen, with the cost of its exported file.

    Args:
        blocks: whether to tell which of its blocks waste the device.
    """
    run = point.run
    screening = load_screening(run.stage("screen", lambda: dump_screening(route.candidates(point))))
    plan = run.stage("plan", lambda: _plan(job, route, point, screening))
    front = Front.from_json(run.stage("search", lambda: _search(job, route, point, screening, plan)))
    winner, score = _trained_winner(job, route, point, front, plan["epochs"])
    exported = run.stage("export", lambda: _export(job, point, winner))
    if not exported["passed"]:
        raise CatchweightError(f"{run.path('model.onnx')} is not the network that was trained: {exported['message']}")
    measured = run.stage("measure", lambda: _measure(job, point, winner, score, plan["epochs"]))
    final = Candidate.from_json(measured)
    if blocks:
        run.stage("blocks", lambda: told_blocks(job, point))
    _write_front(run, front, final, route.others(point))
    return final


def race_within(job: Job, route: Route, point: Point) -> Candidate:
    """As :func:`race`, the next candidate where the file of the best one misses the budget on the target.

    Raises:
        BudgetMissedError: none makes it; tells by how much the last one tried missed it.
    """
    while True:
        final = race(job, route, point)
        missed = point.budget.violations(final.cost)
        if not missed:
            return final
        front = Front.from_json(point.run.result("search") or {})
        if not pass_over(point, front, final, f"as a file it misses the budget: {'; '.join(missed)}"):
            raise BudgetMissedError(missed_text(job, missed))


def missed_text(job: Job, missed: Sequence[str]) -> str:
    """What a budget that was missed is told by."""
    return (
        f"the budget is missed on {job.target}: {'; '.join(missed)} (as measured). The same command measures again, "
        "should the machine have been busy; else raise search.headroom and use a new --run folder"
    )


def _trained_winner(job: Job, route: Route, point: Point, front: Front, epochs: int) -> tuple[Candidate, float]:
    """The best candidate that can be trained to the end, and its score then.

    Raises:
        CatchweightError: every candidate diverged.
    """
    raced = sum(c.ranked for c in front.candidates)
    while (winner := next_winner(point, front)) is not None:
        point.say(f"train: {label(winner.arch)}, the best of {raced}")
        try:
            trained = point.run.stage("train", lambda c=winner: _train(job, route, point, c, epochs))  # type: ignore[misc]
        except DivergedError as error:
            if not pass_over(point, front, winner, str(error)):
                raise
        else:
            return winner, float(trained["score"])
    point.run.forget("search")
    raise CatchweightError("every candidate's training diverged: use a lower --set train.lr, in a fresh folder")


def dump_screening(screening: Screening) -> dict[str, Any]:
    return {"allowed": [c.to_json() for c in screening.allowed], "dropped": [c.to_json() for c in screening.dropped]}


def load_screening(values: dict[str, Any]) -> Screening:
    return Screening(
        tuple(Candidate.from_json(v) for v in values["allowed"]),
        tuple(Candidate.from_json(v) for v in values["dropped"]),
    )


def epoch_seconds(job: Job, route: Route, arch: Arch, objective: Objective | None = None) -> float:
    """Estimated seconds of one epoch with its evaluation, from one timed step."""
    return network_epoch_seconds(job, route.network(arch), size_of(arch), objective)


def network_epoch_seconds(
    job: Job, net: SegmentationNet, size: tuple[int, int], objective: Objective | None = None
) -> float:
    """As :func:`epoch_seconds`, of a network that is there already."""
    recipe = job.recipe(size, 1)
    return step_seconds(net, recipe, job.data.classes, objective=objective) * images(job) / recipe.batch


def images(job: Job) -> float:
    """Images of one epoch, those evaluated counted as what they take."""
    counted = len(job.data.splits["train"]) + EVALUATION_SHARE * len(job.data.splits["val"])
    return max(counted, job.settings.train.batch)


def _plan(job: Job, route: Route, point: Point, screening: Screening) -> dict[str, Any]:
    """How many epochs, which rungs, how many candidates; fewer of each where the time is short."""
    seconds = [epoch_seconds(job, route, c.arch, route.objective(c.arch, point)) for c in screening.allowed]
    plan = fitting_plan(seconds, job.settings.train.epochs, job.settings.search.eta, job.seconds(point.share))
    point.say(
        f"plan: {plan['candidates']} candidates, rungs at epochs {plan['rungs']}, about {plan['minutes']:.0f} min"
    )
    return plan


def _search(job: Job, route: Route, point: Point, screening: Screening, plan: dict[str, Any]) -> dict[str, Any]:
    planned = screening.allowed[: plan["candidates"]]
    best = 0.0

    def evaluate(candidate: Candidate, epochs: int) -> float:
        nonlocal best
        name = label(candidate.arch)
        point.say(f"search: {name} to epoch {epochs}")
        objective = route.objective(candidate.arch, point)
        folder = _race_folder(job, candidate.arch, plan["epochs"], objective)
        try:
            score = _train_to(job, route, point, candidate.arch, objective, folder, plan["epochs"], epochs)
        except DivergedError as error:
            point.say(f"search: {name} is out, {error}")
            return -math.inf
        best = max(best, score)
        left = remaining(point.run)
        point.say(
            f"search: {name} has {score:.3f} val mIoU, best so far {best:.3f}"
            f"{f', about {left / 60:.0f} min of training left' if left else ''}"
        )
        return score

    front = successive_halving(
        planned,
        evaluate,
        rungs=plan["rungs"][:-1] or [1],
        eta=job.settings.search.eta,
        storage=sqlite_url(point.run.path("study.db")),
        say=lambda line: point.say(f"search: {line}"),
    )
    untried = tuple(replace(c, note="not tried: no time") for c in screening.allowed[plan["candidates"] :])
    return Front(front.candidates + untried + screening.dropped).to_json()


def _train_to(
    job: Job, route: Route, point: Point, arch: Arch, objective: Objective | None, folder: Path, epochs: int,
    until: int | None = None,
) -> float:  # fmt: skip
    result = train(
        route.network(arch), job.data, job.recipe(size_of(arch), epochs), folder, cache=job.cache,
        until_epoch=until, deadline=job.deadline(point.share), objective=objective,
    )  # fmt: skip
    return result.score


def _race_folder(job: Job, arch: Arch, epochs: int, objective: Objective | None) -> Path:
    """Shared by all points: what two budgets have in common is trained once, unless their teachers differ."""
    taught = "" if objective is None else f"-{digest(objective.describe())}"
    return job.run.path("search", f"{label(arch)}-{epochs}{taught}")


def _train(job: Job, route: Route, point: Point, winner: Candidate, epochs: int) -> dict[str, Any]:
    """Go on from where the race left the winner, to the end of its schedule."""
    objective, folder = route.objective(winner.arch, point), point.run.path("train")
    if not folder.exists():
        copy_folder(_race_folder(job, winner.arch, epochs, objective), folder)
    score = _train_to(job, route, point, winner.arch, objective, folder, epochs)
    copy_file(folder / "best.pt", point.run.path("model.pt"))
    return {"score": score, "candidate": winner.to_json()}


def _export(job: Job, point: Point, winner: Candidate) -> dict[str, Any]:
    point.say("export: ONNX, then compare with the trained network on the validation images")
    check = exported(job, point.run.folder, size_of(winner.arch))
    point.say(f"export: {check['message']}")
    return check


def exported(job: Job, folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Export ``model.pt`` of a folder to ``model.onnx`` and compare the two; the verification, kept as well."""
    net, meta = load_network(folder / "model.pt")
    path = export(net, folder / "model.onnx", size=size, classes=job.data.classes, meta=meta)
    check = verify(path, net, EvalLoader(job.data, "val", size, 8, job.cache), job.data.classes)
    write_json(folder / "verification.json", check.to_json())
    return check.to_json()


def _measure(job: Job, point: Point, winner: Candidate, score: float, epochs: int) -> dict[str, Any]:
    cost = measured(job, point, point.run.path("model.onnx"), winner.cost)
    return Candidate(winner.arch, cost, score, "chosen", epochs).to_json()


def measured(job: Job, point: Point, path: Path, cost: Cost) -> Cost:
    """Measure an exported file three times, each with a fresh session, and take the middle one.

    A target that runs networks instead of files is given the file's own, ``model.pt`` beside it.

    Args:
        path: ``latency.json`` is written beside it.
        cost: of its network; latency and size of the file are those of this file instead, and so are peak memory and
            energy where the search has measured them.
    """
    target = job.target
    what, size = (path, None) if target.reads_files else _beside(path)
    found = [target.measure(what, size) for _ in range(3)]
    middle = sorted(found, key=lambda m: m.median_ms)[1]
    write_json(path.with_name("latency.json"), {"all": [m.to_json() for m in found], "used": middle.to_json()})
    point.say(f"measure: {middle.median_ms:.2f} ms on {target} (spread {middle.spread:.0%})")
    again = replace(cost, latency_ms=middle.median_ms, file_bytes=float(path.stat().st_size))
    if cost.memory_bytes is not None:
        again = replace(again, memory_bytes=target.peak_memory(what, size))
    if cost.energy_j is not None:
        again = replace(again, energy_j=target.energy(target.prepare(what, size)).joules)
    return again


def _beside(path: Path) -> tuple[SegmentationNet, tuple[int, int]]:
    """The network that a file was exported from, and the size (H, W) that it was exported for."""
    net, meta = load_network(path.with_name("model.pt"))
    height, width = meta["size"]
    return net, (int(height), int(width))


def told_blocks(job: Job, point: Point) -> dict[str, Any]:
    """Which blocks of the chosen file waste the device; only told where the runtime runs it and tells their times."""
    if not (job.target.reads_files and observable(job.target)):
        return {"told": False}
    try:
        ((_, found),) = file_rooflines([point.run.path("model.onnx")], threads=job.target.threads)
    except CatchweightError as error:  # the network is finished: nothing said about it may fail the job
        point.say(f"blocks: not told, {error}")
        return {"told": False}
    write_json(point.run.path("blocks.json"), found.to_json())
    return {"told": True}


def _write_front(run: Run, front: Front, final: Candidate, others: Iterable[Candidate]) -> None:
    passed = told_passed_over(run)

    def told(candidate: Candidate) -> Candidate:
        if candidate.arch in passed:
            return passed[candidate.arch]
        beaten = candidate.score is not None and not candidate.note
        return replace(candidate, note=f"behind the chosen one at epoch {candidate.epochs}") if beaten else candidate

    raced = (told(c) for c in front.candidates if c.arch != final.arch)
    known = {final.arch, *(c.arch for c in front.candidates)}
    rest = (c for c in others if c.arch not in known)
    write_json(run.path("front.json"), Front((final, *raced, *rest)).to_json())


__all__ = [
    "BudgetMissedError",
    "Route",
    "dump_screening",
    "epoch_seconds",
    "exported",
    "images",
    "load_screening",
    "measured",
    "missed_text",
    "network_epoch_seconds",
    "race",
    "race_within",
    "told_blocks",
]
