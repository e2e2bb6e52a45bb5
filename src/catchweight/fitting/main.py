"""The main job: from a data set and a budget to a trained, exported network, measured on the target.

    check data -> screen -> search -> train -> export -> measure -> report

Every stage writes its result into the run folder before the next begins; killed and called again with the same
request, ``fit`` goes on where it was. The seam for later strategies: candidates in, front out.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from .budget import Budget, Cost
from .config import Config, override, save_yaml
from .data import SegmentationData, check_data, draw_grid, open_data
from .data.cache import PixelCache
from .data.loading import EvalLoader
from .deploy.export import export
from .deploy.verify import verify
from .errors import CatchweightError, UsageError
from .files import write_json
from .front import Arch, Candidate, Front
from .nets import SegmentationNet, load_network
from .report.build import write_run_report
from .run import Run
from .search import fitting_plan, successive_halving
from .search.screen import Screening, look_ahead, screen
from .spaces.whole import NETWORKS, WholeNetworks, known, label, size_of
from .targets import Target
from .train import Recipe, finetune, train
from .train.timing import step_seconds

Say = Callable[[str], None]

EVALUATION_SHARE = 0.35
"""Time of evaluating one image, as a share of training on it; only used to estimate."""
AFTERWARDS_S = 60.0
"""Seconds set aside under ``--time`` for export, verification, measuring and the report."""


class BudgetMissedError(CatchweightError):
    """The exported file, measured on the target, is over the budget. Running again measures again."""


class SearchSettings(Config):
    """Which candidates are tried, and how the field is cut."""

    networks: tuple[str, ...] = NETWORKS
    """Names of whole networks (``catchweight networks`` lists them)."""
    widths: tuple[float, ...] = (1.0, 0.5)
    """Multipliers of the channels that are not pretrained."""
    scales: tuple[float, ...] = (1.0, 0.8, 0.6, 0.45)
    """Input sizes as shares of the base size."""
    per_ladder: int = Field(1, ge=1)
    """How many input sizes of one network and width may be trained, from the largest within the budget."""
    most: int = Field(8, ge=1)
    """At most so many candidates are trained; the slowest within the budget are kept."""
    eta: int = Field(3, ge=2)
    """After each rung one candidate in ``eta`` goes on."""
    headroom: float = Field(0.04, ge=0, lt=1)
    """Share of the budget kept free at screening, so that noise does not break the promise at the end."""


class FitSettings(Config):
    """Everything ``--set`` reaches: ``search.*`` and ``train.*``."""

    search: SearchSettings = SearchSettings()
    train: Recipe = finetune()


@dataclass(frozen=True)
class FitResult:
    """What ``fit`` ends with: the winner, its exported file, and the front it came from."""

    folder: Path
    best: Candidate
    file: Path
    front: Front
    report: Path


@dataclass
class Job:
    """What was asked for, checked, and what the stages share. ``run`` is opened once the work begins."""

    request: dict[str, Any]
    data: SegmentationData
    budget: Budget
    target: Target
    settings: FitSettings
    space: WholeNetworks
    weights: str
    say: Say
    cache: PixelCache = field(default_factory=PixelCache)
    end: float | None = None
    folder: Path = Path()

    @cached_property
    def run(self) -> Run:
        return Run(self.folder, self.request)

    def recipe(self, arch: Arch) -> Recipe:
        return self.settings.train.model_copy(update={"size": size_of(arch)})


def fit(
    data: SegmentationData | str | Path,
    budget: Budget | str,
    *,
    target: str = "onnxruntime:cpu",
    run: str | Path = "runs/fit",
    size: tuple[int, int] | None = None,
    settings: FitSettings | None = None,
    set_: Sequence[str] = (),
    minutes: float | None = None,
    threads: int | None = None,
    weights: str = "auto",
    seed: int = 0,
    say: Say = print,
) -> FitResult:
    """Find, train, export and prove the best network under ``budget``.

    Args:
        data: an opened data set, or its path.
        budget: upper limits, e.g. ``"latency<=15ms, params<=5M"``.
        target: where latency counts, e.g. ``onnxruntime:cpu``.
        run: run folder; the same request goes on in it, another one is refused.
        size: largest input size (H, W) to consider; default: the size of the first validation image.
        settings: search and training settings; ``set_`` overrides single keys ("train.epochs=10").
        minutes: bound on the whole job; the number of epochs is planned to fit.
        threads: of the runtime; default: the cores this process may use.
        weights: of the backbones: "auto", "none", "offline", "hub".
        seed: passed down to data split, training order and initial weights.
        say: receives progress lines.

    Returns:
        The winner. ``result.file`` is the verified ONNX file.

    Raises:
        CatchweightError: the data cannot be trained on, no candidate makes the budget (said before training), the
            export is not what was trained, or the exported file misses the budget on the target.
    """
    begun = time.monotonic()
    job = prepare(
        data, budget, target=target, run=run, size=size, settings=settings, set_=set_, minutes=minutes,
        threads=threads, weights=weights, seed=seed, say=say,
    )  # fmt: skip
    with job.run.locked():
        save_yaml(job.run.path("fit.yaml"), job.settings)
        try:
            result = _stages(job, begun, minutes)
        except (CatchweightError, KeyboardInterrupt) as error:
            say(f"report: {write_run_report(job.run, stopped=str(error) or 'interrupted')}")
            if isinstance(error, BudgetMissedError):
                job.run.forget("measure")
            raise
        say(f"report: {write_run_report(job.run)}")
        return result


def prepare(
    data: SegmentationData | str | Path,
    budget: Budget | str,
    *,
    target: str,
    run: str | Path,
    size: tuple[int, int] | None,
    settings: FitSettings | None,
    set_: Sequence[str],
    minutes: float | None,
    threads: int | None,
    weights: str,
    seed: int,
    say: Say,
) -> Job:
    """Check everything that was asked for, without writing anything."""
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--time must be positive, but got {minutes:g} minutes")
    settings = override(settings or FitSettings(), set_)
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
    place = Target.parse(target, threads=threads)
    known(settings.search.networks)
    opened = data if isinstance(data, SegmentationData) else open_data(Path(data), seed=seed)
    base = size or native_size(opened)
    space = WholeNetworks(base, settings.search.networks, settings.search.widths, settings.search.scales)
    request = {
        "data": str(opened.root.resolve()),
        "budget": str(budget),
        "target": str(place),
        "threads": place.threads,
        "size": list(base),
        "weights": weights,
        "minutes": minutes,
        "settings": settings.model_dump(mode="json"),
    }
    return Job(request, opened, budget, place, settings, space, weights, say, folder=Path(run))


def native_size(data: SegmentationData) -> tuple[int, int]:
    """Size (H, W) in pixels of the first validation image, else of the first of any split."""
    records = data.splits.get("val") or next((r for r in data.splits.values() if r), ())
    if not records:
        raise CatchweightError(f"{data.root}: no image was found")
    height, width = data.read(records[0]).mask.shape
    return int(height), int(width)


def _stages(job: Job, begun: float, minutes: float | None) -> FitResult:
    run, say = job.run, job.say
    run.stage("data", lambda: _check(job))
    screening = _load_screening(run.stage("screen", lambda: _screen(job)))
    plan = run.stage("plan", lambda: _plan(job, screening, begun, minutes))
    job.settings = override(job.settings, [f"train.epochs={plan['epochs']}"])
    if minutes is not None:
        job.end = begun + 60 * minutes - AFTERWARDS_S
    front = Front.from_json(run.stage("search", lambda: _search(job, screening, plan)))
    winner = front.best(job.budget)
    assert winner is not None, "the search trains at least one candidate within the budget"
    say(f"train: {label(winner.arch)}, the best of {len(screening.allowed)}")
    trained = run.stage("train", lambda: _train(job, winner))
    exported = run.stage("export", lambda: _export(job, winner))
    if not exported["passed"]:
        raise CatchweightError(f"{run.path('model.onnx')} is not the network that was trained: {exported['message']}")
    final = Candidate.from_json(run.stage("measure", lambda: _measure(job, winner, trained["score"])))
    _write_front(job, front, final)
    missed = job.budget.violations(final.cost)
    if missed:
        raise BudgetMissedError(
            f"the budget is missed on {job.target}: {'; '.join(missed)} (measured on the exported file). The same "
            "command measures again, should the machine have been busy; else raise search.headroom "
            "and use a new --run folder"
        )
    say(
        f"done: {label(final.arch)} has {final.score:.3f} val mIoU at {final.cost.latency_ms:.2f} ms, "
        f"within {job.budget}"
    )
    return FitResult(run.folder, final, run.path("model.onnx"), front, run.path("report.html"))


def _check(job: Job) -> dict[str, Any]:
    report = check_data(job.data)
    write_json(job.run.path("data.json"), report.to_json())
    errors = [p for p in report.problems if p.level == "error"]
    if not report.trainable:
        first = "; ".join(f"{p.file}: {p.message}" for p in errors[:3])
        raise CatchweightError(f"{job.data.root} cannot be trained on ({len(errors)} errors): {first}")
    draw_grid(job.data, job.run.path("data.png"))
    counted = ", ".join(f"{c['images']} {split}" for split, c in report.counts.items())
    job.say(f"data: {counted} images, {len(report.classes)} classes, {len(report.problems)} warnings")
    return {"counts": report.counts, "warnings": len(report.problems)}


def _screen(job: Job) -> dict[str, Any]:
    settings = job.settings.search
    job.say(f"screen: measuring candidates on {job.target} against {job.budget}")
    result = screen(
        job.space,
        job.budget,
        job.target,
        len(job.data.classes),
        job.run.path("screen"),
        headroom=settings.headroom,
        per_ladder=settings.per_ladder,
        say=job.say,
    )
    ordered = sorted(result.allowed, key=lambda c: -(c.cost.latency_ms or 0.0))
    kept, left = ordered[: settings.most], ordered[settings.most :]
    dropped = (*(replace(c, note="not tried: search.most reached") for c in left), *result.dropped)
    job.say(f"screen: {len(kept)} candidates within the budget, {len(dropped)} dropped")
    return {"allowed": [c.to_json() for c in kept], "dropped": [c.to_json() for c in dropped]}


def _load_screening(values: dict[str, Any]) -> Screening:
    return Screening(
        tuple(Candidate.from_json(v) for v in values["allowed"]),
        tuple(Candidate.from_json(v) for v in values["dropped"]),
    )


def _plan(job: Job, screening: Screening, begun: float, minutes: float | None) -> dict[str, Any]:
    """How many epochs, which rungs, how many candidates; fewer of each where the time is short."""
    seconds = [epoch_seconds(job, c.arch) for c in screening.allowed]
    epochs, eta = job.settings.train.epochs, job.settings.search.eta
    available = None if minutes is None else begun + 60 * minutes - AFTERWARDS_S - time.monotonic()
    plan = fitting_plan(seconds, epochs, eta, available)
    job.say(f"plan: {plan['candidates']} candidates, rungs at epochs {plan['rungs']}, about {plan['minutes']:.0f} min")
    return plan


def epoch_seconds(job: Job, arch: Arch) -> float:
    """Estimated seconds of one epoch with its evaluation, from one timed step."""
    recipe = job.recipe(arch)
    net = job.space.network(arch, len(job.data.classes))
    step = step_seconds(net, recipe, job.data.classes)
    images = len(job.data.splits["train"]) + EVALUATION_SHARE * len(job.data.splits["val"])
    return step * max(1.0, images / recipe.batch)


def _search(job: Job, screening: Screening, plan: dict[str, Any]) -> dict[str, Any]:
    planned = screening.allowed[: plan["candidates"]]

    def evaluate(candidate: Candidate, epochs: int) -> float:
        job.say(f"search: {label(candidate.arch)} to epoch {epochs}")
        return _train_to(job, candidate.arch, job.run.path("search", label(candidate.arch)), epochs)

    front = successive_halving(
        planned,
        evaluate,
        rungs=plan["rungs"][:-1] or [1],
        eta=job.settings.search.eta,
        storage=f"sqlite:///{job.run.path('study.db')}",
        say=lambda line: job.say(f"search: {line}"),
    )
    return Front(front.candidates + screening.allowed[plan["candidates"] :] + screening.dropped).to_json()


def _network(job: Job, arch: Arch) -> SegmentationNet:
    torch.manual_seed(job.settings.train.seed)
    return job.space.network(arch, len(job.data.classes), weights=job.weights, aux=job.settings.train.loss.aux > 0)


def _train_to(job: Job, arch: Arch, folder: Path, epochs: int | None) -> float:
    result = train(
        _network(job, arch), job.data, job.recipe(arch), folder,
        cache=job.cache, until_epoch=epochs, deadline=job.end,
    )  # fmt: skip
    return result.score


def _train(job: Job, winner: Candidate) -> dict[str, Any]:
    """Go on from where the search left the winner, to the end of its schedule."""
    searched, folder = job.run.path("search", label(winner.arch)), job.run.path("train")
    if not folder.exists():
        aside = job.run.path("train.part")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(searched, aside)
        aside.rename(folder)
    score = _train_to(job, winner.arch, folder, None)
    shutil.copyfile(folder / "best.pt", job.run.path("model.pt"))
    return {"score": score, "candidate": winner.to_json()}


def _export(job: Job, winner: Candidate) -> dict[str, Any]:
    net, meta = load_network(job.run.path("model.pt"))
    size = size_of(winner.arch)
    job.say("export: ONNX, then compare with the trained network on the validation images")
    path = export(net, job.run.path("model.onnx"), size=size, classes=job.data.classes, meta=meta)
    loader = EvalLoader(job.data, "val", size, 8, job.cache)
    check = verify(path, net, loader, job.data.classes)
    write_json(job.run.path("verification.json"), check.to_json())
    job.say(f"export: {check.message}")
    return check.to_json()


def _measure(job: Job, winner: Candidate, score: float) -> dict[str, Any]:
    """Measure the exported file three times, each with a fresh session, and take the middle one."""
    path = job.run.path("model.onnx")
    measured = [job.target.measure(path) for _ in range(3)]
    middle = sorted(measured, key=lambda m: m.median_ms)[1]
    write_json(job.run.path("latency.json"), {"all": [m.to_json() for m in measured], "used": middle.to_json()})
    job.say(f"measure: {middle.median_ms:.2f} ms on {job.target} (spread {middle.spread:.0%})")
    known_cost = winner.cost.to_json() | {"latency_ms": middle.median_ms, "file_bytes": float(path.stat().st_size)}
    final = Candidate(winner.arch, Cost.from_json(known_cost), score, "chosen", job.settings.train.epochs)
    return final.to_json()


def _write_front(job: Job, front: Front, final: Candidate) -> None:
    def told(candidate: Candidate) -> Candidate:
        beaten = candidate.score is not None and not candidate.note
        return replace(candidate, note=f"behind the chosen one at epoch {candidate.epochs}") if beaten else candidate

    rest = (told(c) for c in front.candidates if c.arch != final.arch)
    write_json(job.run.path("front.json"), Front((final, *rest)).to_json())


def describe_plan(job: Job) -> dict[str, Any]:
    """For ``--dry-run``: whether the budget is within reach, what would be done and how long it would take.

    Trains nothing and leaves nothing: the smallest and the largest candidate are measured from a temporary folder.
    Screening all would take as long as the real thing, so the plan counts every ladder once.

    Raises:
        CatchweightError: the budget is out of reach; tells by how much.
    """
    with tempfile.TemporaryDirectory() as store:
        ahead = look_ahead(
            job.space, job.budget, job.target, len(job.data.classes), Path(store),
            headroom=job.settings.search.headroom, say=job.say,
        )  # fmt: skip
    ahead.check(job.target)
    archs = [ladder[0] for ladder in job.space.ladders()]
    seconds = [epoch_seconds(job, arch) for arch in archs][: job.settings.search.most]
    plan = fitting_plan(sorted(seconds, reverse=True), job.settings.train.epochs, job.settings.search.eta, None)
    return {"reach": str(ahead)} | plan | {"candidates_listed": [label(arch) for arch in archs]}


__all__ = ["BudgetMissedError", "FitResult", "FitSettings", "SearchSettings", "fit"]
