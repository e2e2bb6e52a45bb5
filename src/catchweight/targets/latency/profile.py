"""Profiling: learn a device by observing networks on it, and go on where a killed profile stopped."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from torch import nn

from ...errors import CatchweightError
from ..clock.rounds import learn_pace
from ..target import Target
from .observe import observe_prepared, prepare
from .table import LatencyTable


@dataclass(frozen=True)
class Subject:
    """A network to profile.

    Args:
        label: its name in the table.
        size: (H, W) in pixels.
        build: makes it; picklable, since networks are exported in other processes.
    """

    label: str
    size: tuple[int, int]
    build: Callable[[], nn.Module] = field(compare=False)


@dataclass(frozen=True)
class ProfileReport:
    """What a profile did: how many networks were new, already known, left for lack of time, or failed and why.

    ``disturbed`` of those known now were profiled while the machine was not itself, and are not trusted. What failed
    when it was profiled again keeps its first figures: it is among those that are new or known, too.
    """

    new: int
    known: int
    left: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    disturbed: int = 0


Told = Callable[[int, int, str], None]
"""Networks dealt with, networks in all, and what was last done."""


def profile(
    table: LatencyTable,
    subjects: Sequence[Subject],
    *,
    minutes: float | None = None,
    least: int = 0,
    seconds: float = 1.5,
    workers: int = 2,
    keep: Path | None = None,
    again: int = 2,
    told: Told = lambda done, total, text: None,
) -> ProfileReport:
    """Observe every subject on the table's target and add it to the table; those already there are skipped.

    One that cannot be built, exported or run is reported and does not stop the others.

    Networks are exported a few at a time in ``workers`` processes, and timed one by one while those are idle. Those
    during which the machine was disturbed are profiled again at the end, up to ``again`` times, if they are not most.

    Args:
        minutes: no network is begun after that; the rest is for the next call.
        least: until the table knows so many networks it goes on all the same.
        seconds: time limit of each network's timing as a whole.
        keep: folder of exported networks that is read and added to, e.g. by :func:`export_all`; by default they are
            thrown away.
    """
    begun = time.monotonic()
    wanted = [subject for subject in subjects if (subject.label, subject.size) not in table]
    known = len(subjects) - len(wanted)
    failed: dict[str, str] = {}
    done = new = 0
    if wanted:
        learn_pace(table.target.device, table.target.threads, lambda text: told(known, len(subjects), text))
    with _exporters(workers) as pool, tempfile.TemporaryDirectory() as temporary:

        def observe(chunk: Sequence[Subject], of: int, before: int) -> int:
            """How many of the chunk were observed."""
            good = 0
            for number, (subject, (prepared, problem)) in enumerate(
                _exported(chunk, table.target, keep or Path(temporary), pool), start=1
            ):
                text, problem = ("", problem) if problem else _observed(table, subject, prepared, seconds)
                if problem:
                    failed[_name(subject)] = problem
                else:
                    failed.pop(_name(subject), None)  # it may have failed when it was first profiled again
                    good += 1
                told(before + number, of, f"{_name(subject)}: {problem or text}")
            return good

        for chunk in _chunks(wanted, 2 * workers):
            if timed_out(begun, minutes) and len(table.networks) >= least:
                break
            new += observe(chunk, len(subjects), known + done)
            done += len(chunk)
        for _ in range(again):
            disturbed = _disturbed(table, subjects)
            if 2 * len(disturbed) > len(subjects):  # a machine that is never itself would not be so now
                break
            for chunk in _chunks(disturbed, 2 * workers):
                if timed_out(begun, minutes):
                    break
                observe(chunk, len(subjects), len(subjects) - len(chunk))
    seconds_in_all, disturbed = time.monotonic() - begun, _disturbed(table, subjects)
    problems = tuple(failed.items())
    return ProfileReport(new, known, len(wanted) - done, problems, seconds_in_all, len(disturbed))


def _disturbed(table: LatencyTable, subjects: Sequence[Subject]) -> list[Subject]:
    """Those of the subjects whose figures in the table cannot be trusted."""
    found = {(network.label, network.size) for network in table.networks if network.disturbed}
    return [subject for subject in subjects if (subject.label, subject.size) in found]


def timed_out(begun: float, minutes: float | None) -> bool:
    """Whether more than ``minutes`` have gone by since ``begun``, of the monotonic clock."""
    return minutes is not None and time.monotonic() - begun > 60 * minutes


def export_all(target: Target, subjects: Sequence[Subject], keep: Path, workers: int = 2) -> None:
    """The slow half of :func:`profile` alone: it does not need a quiet machine. Goes on where it was."""
    with _exporters(workers) as pool:
        for chunk in _chunks(subjects, 2 * workers):
            _exported(chunk, target, keep, pool)


def _observed(table: LatencyTable, subject: Subject, prepared: Path, seconds: float) -> tuple[str, str]:
    """What was measured and entered, and why the network could not be run (one of them is empty)."""
    try:
        observed = observe_prepared(table.target, prepared, seconds, subject.build)
    except CatchweightError as error:
        return "", f"skipped, {error}"
    except Exception as error:  # whatever a stranger's network raises in eager mode, or a runtime that runs it
        return "", f"skipped, it cannot be run: {type(error).__name__}: {error}"
    table.add(subject.label, subject.size, observed)
    return f"{observed.whole.median_ms:.2f} ms{', disturbed' if observed.disturbed else ''}", ""


def _exported(
    chunk: Sequence[Subject], target: Target, folder: Path, pool: Parallel
) -> list[tuple[Subject, tuple[Path, str]]]:
    """Export all of a chunk; nothing else runs on the machine when this returns."""
    results = pool(delayed(_export)(subject, target, folder / _folder(subject)) for subject in chunk)
    return list(zip(chunk, results, strict=True))


def _export(subject: Subject, target: Target, folder: Path) -> tuple[Path, str]:
    """The folder of an exported network, and why it could not be exported (empty if it could)."""
    if (folder / "blocks.json").exists():  # written last
        return folder, ""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    try:
        prepare(subject.build(), subject.size, target, folder)
    except CatchweightError as error:
        return folder, f"skipped, {error}"
    except Exception as error:  # whatever building a stranger's network raises; the profile goes on without it
        return folder, f"skipped, it cannot be built: {type(error).__name__}: {error}"
    return folder, ""


@contextmanager
def _exporters(workers: int) -> Iterator[Parallel]:
    """Processes of one thread each that do not import the caller's script, which need not be guarded for that."""
    with parallel_config(backend="loky", inner_max_num_threads=1), Parallel(n_jobs=workers) as pool:
        yield pool
    get_reusable_executor().shutdown(wait=True)


def _chunks(subjects: Sequence[Subject], length: int) -> Iterator[Sequence[Subject]]:
    for start in range(0, len(subjects), length):
        yield subjects[start : start + length]


def _folder(subject: Subject) -> str:
    return hashlib.sha256(_name(subject).encode()).hexdigest()[:16]


def _name(subject: Subject) -> str:
    return f"{subject.label} at {subject.size[0]}x{subject.size[1]}"
