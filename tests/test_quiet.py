"""One measurement at a time on a machine, and trainings that stand still meanwhile: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catchweight import quiet

HOLDER = """
import sys, time
from catchweight.quiet import measuring
with measuring() as held:
    print(held, flush=True)
    time.sleep(float(sys.argv[1]))
    print(time.monotonic(), flush=True)
"""
"""Says whether it measures, and after so many seconds when it ended; both on one line each."""

Measure = Callable[[float], "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary folder of this test alone, and a process that has heard nothing yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(quiet, "_deaf_until", 0.0)
    quiet._lock_of.cache_clear()
    yield
    quiet._lock_of.cache_clear()


@pytest.fixture
def measure() -> Iterator[Measure]:
    """Start another process that measures; returns when it does."""
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(seconds)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> float:
    assert process.stdout
    return float(process.stdout.readline())


def test_a_step_does_not_wait_when_nobody_measures() -> None:
    with quiet.measuring() as held:
        quiet.give_way()  # nor for its own process
    quiet.give_way()
    assert held
    assert quiet._deaf_until == 0


def test_a_step_waits_for_the_end_of_another_process_s_measurement(measure: Measure) -> None:
    process = measure(1.0)
    quiet.give_way()
    assert time.monotonic() >= ended(process)


def test_measurements_wait_for_each_other(measure: Measure) -> None:
    process = measure(1.0)
    with quiet.measuring() as held:
        assert held
        assert time.monotonic() >= ended(process)


def test_the_lock_ends_with_its_process(measure: Measure) -> None:
    measure(60).send_signal(signal.SIGKILL)
    with quiet.measuring() as held:
        assert held


def test_nobody_waits_for_ever(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "TRAINING_WAITS_S", 0.1)
    monkeypatch.setattr(quiet, "MEASURER_WAITS_S", 0.1)
    measure(60)
    with quiet.measuring() as held:
        assert not held  # it measures all the same
    quiet.give_way()
    assert quiet._deaf_until > time.monotonic()
    monkeypatch.setattr(quiet, "_lock", None)
    quiet.give_way()  # it does not look any more


def test_a_temporary_folder_that_takes_no_lock_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(file))
    with quiet.measuring() as held:
        assert not held
    quiet.give_way()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have numbers on POSIX systems only")
def test_a_user_without_a_name_has_a_lock_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    with quiet.measuring() as held:
        assert held


def test_the_folder_is_the_user_s_own(tmp_path: Path) -> None:
    quiet.give_way()
    (folder,) = tmp_path.glob("catchweight-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    quiet._lock_of.cache_clear()
    with quiet.measuring() as held:
        assert not held
