"""The main job: from a data set and a budget to a trained, exported network, measured on the target.

    check data -> find candidates (a route) -> for each budget: race -> train -> export -> measure -> report

With compression a budget has two races, and the winner of the second, relaxed one is pruned and quantised: see
``chain.py``.

Every stage writes its result into the run folder before the next begins; killed and called again with the same
request, ``fit`` goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..config import save_yaml
from ..data import SegmentationData, check_data
from ..errors import CatchweightError, StorageError
from ..files import write_json
from ..front import Candidate, Front
from ..report.build import write_run_report
from ..spaces.segmentation import Size
from ..spaces.whole import label
from .ablation import search_ablation
from .chain import compressed, reconsider
from .estimate import bounded, with_compression
from .first_look import look, refuse_other_data, refuse_untrainable
from .gradient_route import GradientRoute
from .job import Budgets, Job, Point, Say, prepare
from .one_shot import OneShotRoute
from .race import BudgetMissedError, Route, missed_text, race_within
from .random_route import RandomRoute
from .settings import FitSettings
from .space_route import limits_predictable
from .whole import WholeRoute

ROUTES: dict[str, type] = {
    "auto": OneShotRoute, "one-shot": OneShotRoute, "gradient": GradientRoute, "random": RandomRoute,
    "whole": WholeRoute,
}  # fmt: skip
"""By ``search.strategy``."""
NO_SEARCH = (
    "the time is too short for a supernet, so known networks race each other; with --set search.strategy=one-shot, or "
    "without --time, a search is made all the same"
)
NO_PREDICTION = (
    "a budget limits nothing that can be predicted (latency, macs or params), so known networks are measured and race "
    "each other"
)


@dataclass(frozen=True)
class PointResult:
    """What was made for one budget: the network chosen, its exported file, the front it came from, the report."""

    budget: str
    folder: Path
    best: Candidate
    file: Path
    front: Front
    report: Path


@dataclass(frozen=True)
class FitResult:
    """What ``fit`` ends with: one point a budget, the widest budget first.

    ``best``, ``file`` and so on are those of the first point; ``folder`` is the run's.
    """

    folder: Path
    points: tuple[PointResult, ...]

    @property
    def best(self) -> Candidate:
        return self.points[0].best

    @property
    def file(self) -> Path:
        return self.points[0].file

    @property
    def front(self) -> Front:
        return self.points[0].front

    @property
    def report(self) -> Path:
        return self.points[0].report


def fit(
    data: SegmentationData | str | Path,
    budget: Budgets,
    *,
    target: str = "onnxruntime:cpu",
    run: str | Path = "runs/fit",
    size: Size | None = None,
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
        budget: upper limits, e.g. ``"latency<=15ms, params<=5M"``; several of them give several networks from one
            search.
        target: where latency counts, e.g. ``onnxruntime:cpu``.
        run: run folder; the same request goes on in it, another one is refused.
        size: largest input size (H, W) to consider; default: the size of the first validation image.
        settings: search and training settings; ``set_`` overrides single keys ("train.epochs=10").
        minutes: bound on the whole job, shared among the stages.
        threads: of the runtime; default: the physical cores that this process may use.
        weights: of the backbones: "auto", "none", "offline", "hub", or a file.
        seed: passed down to data split, training order, search and initial weights.
        say: receives progress lines.

    Returns:
        One result a budget. ``result.file`` is the first one's verified ONNX file.

    Raises:
        CatchweightError: the data cannot be trained on, no candidate makes a budget (said before training), the
            export is not what was trained, or an exported file misses its budget on the target.
    """
    begun = time.monotonic()
    job = prepare(
        data, budget, target=target, run=run, size=size, settings=settings, set_=set_, minutes=minutes,
        threads=threads, weights=weights, seed=seed, say=say,
    )  # fmt: skip
    route = route_of(job)
    if job.allowance is not None:
        job.end = begun + job.allowance
    with job.run.locked():
        save_yaml(job.run.path("fit.yaml"), job.settings)
        try:
            return _stages(job, route)
        except BaseException as error:
            _report_stop(job, error)
            raise


def _report_stop(job: Job, error: BaseException) -> None:
    """Write the report of a run that ends early. What is raised is what ended it, even where no report can be written,
    as on a full disk."""
    reason = str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
    try:
        job.say(f"report: {write_run_report(job.run, stopped=reason)}")
    except Exception as unwritten:
        job.say(f"report: not written, {unwritten}")


def route_of(job: Job) -> Route:
    """The route that the settings name; under "auto" the one that is taken where the time allows."""
    route: Route = ROUTES[job.settings.search.strategy](job)
    return route


def _settled(job: Job, route: Route, kept: Callable[[Callable[[], Any]], Any] = lambda work: work()) -> Route:
    """Under "auto" the route that is worth its time, else ``route``; ``kept`` remembers or does the choosing."""
    if job.settings.search.strategy != "auto":
        return route
    taken = kept(lambda: {"strategy": _affordable(job, route)})["strategy"]
    return route if taken == "one-shot" else cast(Route, ROUTES[taken](job))


def _affordable(job: Job, route: Route) -> str:
    if not all(map(limits_predictable, job.budgets)):
        job.say(f"search: {NO_PREDICTION}")
        return "whole"
    assert isinstance(route, OneShotRoute), "what auto stands for"
    if route.worth(job.allowance):
        return "one-shot"
    job.say(f"search: {NO_SEARCH}")
    return "whole"


def _stages(job: Job, route: Route) -> FitResult:
    job.run.stage("data", lambda: look(job))
    refuse_other_data(job)
    route = _settled(job, route, partial(job.run.stage, "strategy"))
    route.prepare()
    done: list[PointResult] = []
    failed: list[CatchweightError] = []
    for point in job.points:
        try:
            done.append(_point(job, route, point))
        except StorageError:  # it would end the others as well
            raise
        except CatchweightError as error:
            failed.append(error)
            if len(job.points) > 1:
                point.say(f"failed: {error}")
                write_run_report(point.run, stopped=str(error))
    if len(job.points) > 1:
        fronts = (point.run.path("front.json") for point in job.points)
        merged = Front().merge(*(Front.read(path) for path in fronts if path.exists()))
        write_json(job.run.path("front.json"), merged.to_json())
        job.say(f"report: {write_run_report(job.run, stopped='; '.join(map(str, failed)))}")
    if failed:
        raise _together(failed)
    return FitResult(job.run.folder, tuple(done))


def _together(failed: Sequence[CatchweightError]) -> CatchweightError:
    """One error for all the points that failed."""
    if len(failed) == 1:
        return failed[0]
    kind = BudgetMissedError if all(isinstance(error, BudgetMissedError) for error in failed) else CatchweightError
    return kind("; ".join(map(str, failed)))


def _point(job: Job, route: Route, point: Point) -> PointResult:
    """One budget from its candidates to its report."""
    run = point.run
    if run is not job.run:
        run.path("stopped.json").unlink(missing_ok=True)  # why an earlier session ended
        run.stage("data", lambda: job.run.result("data"))
        save_yaml(run.path("fit.yaml"), job.settings)
    if job.settings.compress.steps == "none":
        final = race_within(job, route, point)
        search_ablation(job, point, final)
    else:
        final = compressed(job, route, point)
        if missed := point.budget.violations(final.cost):
            reconsider(point)
            raise BudgetMissedError(missed_text(job, missed))
    report = write_run_report(run)
    point.say(
        f"done: {label(final.arch)} has {final.score:.3f} val mIoU at {final.cost.latency_ms:.2f} ms, "
        f"within {point.budget}"
    )
    planned, wanted = (run.result("plan") or {}).get("epochs"), job.settings.train.epochs
    if planned is not None and planned < wanted:
        point.say(
            f"done: its training was planned for {planned} epochs instead of {wanted}; a longer --time gives more"
        )
    point.say(f"report: {report}")
    front = Front.read(run.path("front.json"))
    return PointResult(str(point.budget), run.folder, final, run.path("model.onnx"), front, report)


def describe_plan(job: Job) -> dict[str, Any]:
    """For ``--dry-run``: whether the data can be trained on and the budget is within reach, what would be done and how
    long it would take. Nothing is written.

    Raises:
        CatchweightError: the data cannot be trained on, or the budget is out of reach; tells by how much.
    """
    route = route_of(job)
    refuse_untrainable(job.data, check_data(job.data))
    route = _settled(job, route)
    plan = route.describe()
    if job.settings.compress.steps != "none":
        plan = with_compression(job, plan, route.longest_epoch())
    return plan | bounded(plan, job.request["minutes"])
