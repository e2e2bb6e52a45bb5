"""The outcome of a claim check: what was compared, whether it held, and where it is kept."""

from __future__ import annotations

import datetime
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from .. import __version__
from ..deploy.export import git_commit
from ..errors import CatchweightError
from ..files import read_json, write_json

SHIPPED = Path(__file__).parent / "results"
"""Results that come with the package."""


@dataclass(frozen=True)
class Condition:
    """One inequality of a claim: ``value`` must be at least (or at most) ``bound``."""

    text: str
    value: float
    bound: float
    kind: Literal[">=", "<="] = ">="

    @property
    def met(self) -> bool:
        """NaN meets nothing."""
        return self.value >= self.bound if self.kind == ">=" else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.text}: {self.value:.4g} {self.kind} {self.bound:g} {'holds' if self.met else 'FAILS'}"


@dataclass(frozen=True)
class Verdict:
    """What a check function hands back.

    Args:
        claim: the inequalities that make the claim; all must hold.
        control: inequalities for the deliberately broken arm; every one must fail.
        figures: everything measured, JSON-able.
        seeds: the seeds used.
    """

    claim: tuple[Condition, ...]
    control: tuple[Condition, ...]
    figures: dict[str, Any]
    seeds: tuple[int, ...] = ()

    @property
    def control_failed(self) -> bool:
        """Whether the broken arm was refused, as it must be."""
        return bool(self.control) and not any(condition.met for condition in self.control)

    @property
    def passed(self) -> bool | None:
        """Whether the claim held; ``None`` (void) when the broken arm passes anywhere or there was none."""
        if not self.control_failed:
            return None
        return bool(self.claim) and all(condition.met for condition in self.claim)


@dataclass(frozen=True)
class CheckResult:
    """A stored verdict. ``passed`` is ``None`` when void or when the run was a quick one (machinery only)."""

    name: str
    passed: bool | None
    control_failed: bool
    figures: dict[str, Any]
    seeds: list[int]
    seconds: float
    date: str
    commit: str
    machine: str
    quick: bool = False
    data: str | None = None
    claim: list[dict[str, Any]] = field(default_factory=list)
    control: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, verdict: Verdict, seconds: float, quick: bool, data: str | None = None) -> CheckResult:
        """``data`` names the data set's folder. Date, commit and machine are those of now and here."""
        return cls(
            name=name,
            passed=None if quick else verdict.passed,
            control_failed=verdict.control_failed,
            figures=verdict.figures,
            seeds=list(verdict.seeds),
            seconds=round(seconds, 1),
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            commit=git_commit() or f"version {__version__}",
            machine=machine(),
            quick=quick,
            data=data,
            claim=[asdict(c) | {"met": c.met} for c in verdict.claim],
            control=[asdict(c) | {"met": c.met} for c in verdict.control],
        )

    @property
    def word(self) -> str:
        """One word for the table."""
        if self.quick:
            return "quick run"
        return {True: "holds", False: "fails", None: "void"}[self.passed]

    def save(self, path: Path) -> None:
        """Write in one step."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> CheckResult:
        """Raises CatchweightError when the file is not a check result."""
        value = read_json(path)
        try:
            return cls(**value)
        except TypeError as error:
            raise CatchweightError(
                f"{path} is not a check result ({error}); remove it and run the check again"
            ) from None


def latest(name: str, checks: Path) -> CheckResult | None:
    """The newer of the shipped result and the one in ``checks`` (``runs/checks``); ``None`` if there is neither."""
    files = [folder / f"{name}.json" for folder in (SHIPPED, checks)]
    found = [CheckResult.load(path) for path in files if path.exists()]
    return max(found, key=lambda result: result.date) if found else None


def machine() -> str:
    """Processor kind, cores and memory; no host name."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB"
