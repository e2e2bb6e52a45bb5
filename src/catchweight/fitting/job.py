"""What was asked of ``fit``, checked, and the points (budgets) that it works towards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..budget import Budget, Limit
from ..compress.quantize import RUNTIMES
from ..compress.quantize.nncf_graph import NNCF, require_nncf
from ..config import override
from ..data import SegmentationData, open_data
from ..data.cache import PixelCache
from ..errors import CatchweightError, UsageError
from ..run import Run
from ..spaces.segmentation import Size
from ..targets import Target
from ..train import Recipe
from .settings import FitSettings, defaults

Say = Callable[[str], None]
Budgets = Budget | str | Sequence[Budget | str]

OVERTIME = 1.3
"""A training that was planned for its share of the time may take so many times that before it is stopped: its last
epochs, at a low learning rate, are worth the most."""
AFTERWARDS_S = 60.0
"""Seconds set aside under ``--time``, for each budget, for export, verification, measuring and the report."""
COMPRESSED = "compress"
"""Folder of a point that takes all that its compression does."""


@dataclass
class Job:
    """What was asked for, checked, and what the stages share. ``run`` is opened once the work begins."""

    request: dict[str, Any]
    data: SegmentationData
    budgets: tuple[Budget, ...]
    target: Target
    settings: FitSettings
    base: Size
    weights: str
    say: Say
    folder: Path
    cache: PixelCache = field(default_factory=PixelCache)
    end: float | None = None
    """In seconds of ``time.monotonic``, when training must have ended; ``None`` for no bound."""

    @cached_property
    def run(self) -> Run:
        return Run(self.folder, self.request)

    @property
    def classes(self) -> int:
        return len(self.data.classes)

    @property
    def allowance(self) -> float | None:
        """Seconds that ``--time`` leaves for everything up to the last training; ``None`` for no bound."""
        minutes = self.request["minutes"]
        return None if minutes is None else max(0.0, 60 * minutes - AFTERWARDS_S * len(self.budgets))

    def recipe(self, size: Size, epochs: int) -> Recipe:
        return self.settings.train.model_copy(update={"size": size, "epochs": epochs})

    def left(self) -> float | None:
        """Seconds left for training; ``None`` for no bound."""
        return None if self.end is None else max(0.0, self.end - time.monotonic())

    def seconds(self, share: float) -> float | None:
        """This share of the seconds that are left, all of them at most; ``None`` for no bound."""
        left = self.left()
        return None if left is None else min(1.0, share) * left

    def fitting(self, wanted: int, each: float, share: float, least: int) -> int:
        """As many of ``wanted`` as fit, at ``each`` seconds, into this share of the time; ``least`` in any case."""
        seconds = self.seconds(share)
        return wanted if seconds is None else max(min(least, wanted), min(wanted, int(seconds / each)))

    def deadline(self, share: float) -> float | None:
        """In seconds of ``time.monotonic``, when a stage must end that may take this share of the time that is left."""
        seconds = self.seconds(share)
        return None if seconds is None else time.monotonic() + seconds

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """One for each budget, the widest first; a single one lives in the run folder itself."""
        if len(self.budgets) == 1:
            return (Point(self.budgets[0], self.run, self.say),)
        return tuple(self._point(budget, len(self.budgets) - place) for place, budget in enumerate(self.budgets))

    @property
    def searched(self) -> tuple[Budget, ...]:
        """The budgets that a network must be found for: with compression the relaxed ones."""
        return tuple(relaxed(budget, self.settings.compress.relaxation) for budget in self.budgets)

    def _point(self, budget: Budget, to_come: int) -> Point:
        name = "".join(c if c.isalnum() or c == "." else "-" for c in str(budget).replace("<=", "-"))
        run = Run(self.run.path("points", name), self.request | {"budget": str(budget)})
        return Point(budget, run, lambda line: self.say(f"[{budget}] {line}"), to_come)


@dataclass
class Point:
    """One budget, the folder of what is done for it, and its voice."""

    budget: Budget
    run: Run
    say: Say
    to_come: int = 1
    """Budgets that share the time left, this one included."""
    part: float = 1.0
    """Of this budget's time, what the race may take."""

    @property
    def share(self) -> float:
        """Of all the time that is left, what the race may take: its part, shared with the budgets to come."""
        return self.part / self.to_come

    def race(self, name: str, budget: Budget, part: float) -> Point:
        """One of several races for this budget, in a folder of its own below the point's."""
        run = Run(self.run.path(COMPRESSED, name), self.run.request | {"budget": str(budget)})
        return Point(budget, run, lambda line: self.say(f"{name}, {line}"), self.to_come, part)


def relaxed(budget: Budget, factor: float) -> Budget:
    """The budget with its limit on latency multiplied by ``factor``, to six digits; others stay as they are."""
    if factor == 1:
        return budget
    return Budget(
        tuple(
            Limit(limit.name, float(f"{limit.value * factor:.6g}")) if limit.name == "latency" else limit
            for limit in budget.limits
        )
    )


def latency_limit(budget: Budget) -> float | None:
    """In ms; ``None`` where latency is not limited."""
    return next((limit.value for limit in budget.limits if limit.name == "latency"), None)


def prepare(
    data: SegmentationData | str | Path,
    budget: Budgets,
    *,
    target: str,
    run: str | Path,
    size: Size | None,
    settings: FitSettings | None,
    set_: Sequence[str],
    minutes: float | None,
    threads: int | None,
    weights: str,
    seed: int,
    say: Say,
) -> Job:
    """Check everything that was asked for, without writing anything; arguments and errors as :func:`.fit`."""
    budgets = read_budgets(budget)
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--time must be positive, but got {minutes:g} minutes")
    settings = _overridden(settings or defaults(set_), set_)
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
    place = Target.parse(target, threads=threads)
    _refuse_conversion(place)
    _check_compression(settings, budgets, place)
    opened = data if isinstance(data, SegmentationData) else open_data(Path(data), seed=seed)
    base = size or native_size(opened)
    request = {
        "data": str((opened.file or opened.root).resolve()),
        "budget": str(budgets[0]) if len(budgets) == 1 else [str(b) for b in budgets],
        "target": str(place),
        "threads": place.threads,
        "size": list(base),
        "weights": weights,
        "minutes": minutes,
        "settings": settings.asked(),
    }
    return Job(request, opened, budgets, place, settings, base, weights, say, Path(run))


def _overridden(settings: FitSettings, set_: Sequence[str]) -> FitSettings:
    """Raises UsageError also for what options of their own decide, and ``--set`` would set in vain."""
    changed = override(settings, set_)
    named = {assignment.partition("=")[0].strip() for assignment in set_}
    for key in ("seed", "size"):
        if f"train.{key}" in named or getattr(changed.train, key) != getattr(settings.train, key):
            raise UsageError(f"train.{key} is not for --set: --{key} decides it, for the whole job")
    return changed


def _refuse_conversion(target: Target) -> None:
    """Raises UsageError where what is measured would not be the file that is delivered."""
    if target.precision not in target.converted:
        return
    more = ", with --compress int8 for an int8 file" if target.name in RUNTIMES and target.precision == "int8" else ""
    raise UsageError(
        f"{target} runs a copy of a file converted to {target.precision}, and what fit delivers is the file itself: "
        f"use --target {target.name}{more}"
    )


def _check_compression(settings: FitSettings, budgets: Sequence[Budget], target: Target) -> None:
    """Raises UsageError where the steps that are wanted cannot be taken."""
    steps = settings.compress
    if steps.steps == "none":
        return
    if any(latency_limit(budget) is None for budget in budgets):
        raise UsageError('compression works towards a latency: limit it, e.g. --budget "latency<=15ms"')
    if steps.quantises and NNCF in steps.int8.methods:
        require_nncf()
    if steps.quantises and str(target) not in RUNTIMES:
        raise UsageError(f"{target} does not serve our int8 files, {' or '.join(RUNTIMES)} does: use --compress prune")


def read_budgets(wanted: Budgets) -> tuple[Budget, ...]:
    """One budget or several, the widest first by the limit that is written first, or that is first by name where the
    budgets do not write theirs in one order.

    Raises:
        UsageError: none, one twice, or budgets that limit different quantities and so lie on no common front.
    """
    several = [wanted] if isinstance(wanted, (Budget, str)) else list(wanted)
    budgets = [Budget.parse(b) if isinstance(b, str) else b for b in several]
    if not budgets:
        raise UsageError('name at least one budget, e.g. --budget "latency<=15ms"')
    orders = {tuple(limit.name for limit in budget.limits) for budget in budgets}
    if len({frozenset(order) for order in orders}) > 1:
        raise UsageError(
            f"several budgets of one run must limit the same quantities, but got {' and '.join(map(str, budgets))}; "
            "make one run for each"
        )
    if len({frozenset(budget.limits) for budget in budgets}) < len(budgets):
        raise UsageError(f"a budget is named twice: {', '.join(map(str, budgets))}")
    (names, *others) = orders
    first = min(names) if others else names[0]
    return tuple(sorted(budgets, key=lambda budget: -next(x.value for x in budget.limits if x.name == first)))


def native_size(data: SegmentationData) -> Size:
    """Size (H, W) in pixels of the first validation image, else of the first of any split."""
    records = data.splits.get("val") or next((r for r in data.splits.values() if r), ())
    if not records:
        raise CatchweightError(f"{data.root}: no image was found")
    height, width = data.read(records[0]).mask.shape
    return int(height), int(width)


__all__ = [
    "AFTERWARDS_S",
    "COMPRESSED",
    "Budgets",
    "Job",
    "Point",
    "Say",
    "latency_limit",
    "native_size",
    "prepare",
    "read_budgets",
    "relaxed",
]
