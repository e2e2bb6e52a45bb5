"""What counts in a measurement: rounds at the machine's usual pace, with no other process on the cores."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_measure import Sleeper, measurement

from catchweight.targets import interleaved
from catchweight.targets.clock import rounds as clock
from catchweight.targets.clock.pace import TOLERANCE, UsualPace
from catchweight.targets.clock.processor import processor_name
from catchweight.targets.clock.reference import references
from catchweight.targets.clock.rounds import Turn
from catchweight.targets.clock.waits import asleep
from catchweight.targets.latency.table import ProfiledNetwork


class Untidy(Sleeper):
    """Also runs while garbage may be collected."""

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()


def pace(folder: Path) -> UsualPace:
    return UsualPace("kernel 1.0", "processor", 2, folder)


def test_a_slow_measurement_is_found_out_by_the_others(tmp_path: Path) -> None:
    for _ in range(3):
        pace(tmp_path).learn([1.0] * 12)
    assert pace(tmp_path).usual([2.0] * 12) == pytest.approx(1.0)
    pace(tmp_path).learn([2.0] * 12)
    assert pace(tmp_path).usual([1.0]) == pytest.approx(1.0)


def test_the_first_measurement_has_only_itself(tmp_path: Path) -> None:
    turns = [1.0, 1.0, 1.0, 1.9, 2.0]
    assert pace(tmp_path).usual(turns) == pytest.approx(np.quantile(turns, 0.2))


def test_another_kernel_processor_or_number_of_threads_knows_nothing_of_it(tmp_path: Path) -> None:
    pace(tmp_path).learn([1.0] * 12)
    for other in (("kernel 2.0", "processor", 2), ("kernel 1.0", "other", 2), ("kernel 1.0", "processor", 1)):
        assert UsualPace(*other, tmp_path).usual([5.0]) == 5.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"low_ms": ["x"]}', '{"low_ms": 3}'])
def test_a_torn_file_costs_only_what_it_knew(tmp_path: Path, text: str) -> None:
    pace(tmp_path).learn([1.0] * 12)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert pace(tmp_path).usual([5.0]) == 5.0
    pace(tmp_path).learn([1.0] * 12)
    assert pace(tmp_path).usual([1.0]) == 1.0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pace(tmp_path / "file" / "below").learn([1.0] * 12)
    assert pace(tmp_path / "file" / "below").usual([5.0]) == 5.0


@given(st.booleans(), st.floats(0.5, 3))
def test_a_turn_is_good_alone_and_at_the_usual_pace(alone: bool, slowness: float) -> None:
    assert Turn((0.1,), alone, 1.0, slowness).good == (alone and slowness <= TOLERANCE)


def test_a_machine_slower_than_usual_is_said_and_its_figures_are_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual time on record is made far too short, as if the machine were a hundred times slower now."""
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path))
    kernel, *_ = references("cpu", Sleeper.threads)
    for _ in range(6):
        UsualPace(kernel.runtime, processor_name(), kernel.threads).learn([0.01] * 12)
    (now,) = interleaved([Sleeper(2)], seconds=0.1)
    assert now.disturbed
    assert any("its usual time" in note for note in now.notes)
    assert now.relative is not None
    assert now.usual_ms is not None
    assert now.usual_ms == pytest.approx(0.01)
    assert now.steady_ms == pytest.approx(now.relative * now.usual_ms)


def test_a_measurement_waits_for_a_slow_machine_instead_of_timing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says the machine is far slower than usual: after the fewest rounds only the kernels run."""
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(clock, "_WAIT_TIMES", 5)
    monkeypatch.setattr(clock, "undisturbed", lambda work: (work(), True))  # nobody else has the cores
    kernel, *_ = references("cpu", Sleeper.threads)
    for _ in range(6):
        UsualPace(kernel.runtime, processor_name(), kernel.threads).learn([0.01] * 12)
    began = time.perf_counter()
    (one,) = interleaved([Sleeper(2)], seconds=0.1, warmup=1)
    assert time.perf_counter() - began >= 0.6
    assert one.disturbed
    assert len(one.turns) == clock.LEAST_ROUNDS


def test_enough_good_rounds_count_though_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = iter([False, True, False, True, True])
    monkeypatch.setattr(clock, "undisturbed", lambda work: (work(), next(alone)))
    found = clock.rounds([Untidy(1)], 5.0, 1, False, lambda good: len(good) >= 3)
    assert found.numbers == (1, 3, 4)
    assert (found.left_out, found.disturbances) == (2, ())


def test_a_few_good_rounds_count_alone_and_fewer_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for good, left_out in ((clock.LEAST_GOOD, 9), (clock.LEAST_GOOD - 1, 0)):
        alone = iter([False] * 9 + [True] * good)
        monkeypatch.setattr(clock, "undisturbed", lambda work, alone=alone: (work(), next(alone)))
        monkeypatch.setattr(clock._Time, "over", lambda self, taken, _, most=9 + good: len(taken) == most)
        found = clock.rounds([Untidy(1)], 5.0, 1, False, lambda _: False)
        assert found.left_out == left_out
        assert bool(found.disturbances) == (left_out == 0)


def test_the_pace_is_learnt_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(clock, "_LEARNING_S", 1.0)
    monkeypatch.setattr("catchweight.targets.clock.waits.waited", lambda: None)  # alone, as far as one can tell
    said: list[str] = []
    clock.learn_pace("cpu", 1, said.append)
    clock.learn_pace("cpu", 1, said.append)
    assert len(said) == 1
    (kernel,) = references("cpu", 1)
    assert UsualPace(kernel.runtime, processor_name(), 1).known == 3


def test_without_a_reference_nothing_is_corrected() -> None:
    (one,) = interleaved([Sleeper(1)], seconds=0.02, reference=False)
    assert one.usual_ms is None
    assert one.steady_ms == one.median_ms
    assert replace(measurement([2.0] * 8), relative=3.0, usual_ms=0.5).steady_ms == 1.5


def test_a_thread_at_work_is_seen_although_its_time_is_not_counted_yet() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 20_000)  # without the interpreter's lock

    thread = threading.Thread(target=work)
    thread.start()
    try:
        if asleep() is None:
            pytest.skip("this system does not tell what threads do")
        assert any(asleep() is False for _ in range(100))
    finally:
        stop.set()
        thread.join()
    deadline = time.monotonic() + 10  # worker threads of libraries may still spin
    while not asleep() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asleep()


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_profiled_networks_move_to_another_pace_as_a_whole(usual: float, other: float) -> None:
    network = ProfiledNetwork("a", (64, 64), 4.0, False, (), (1.0, 2.0), 0.5, usual)
    moved = network.at(other)
    assert moved.whole_ms / sum(moved.ms) == pytest.approx(network.whole_ms / sum(network.ms))
    assert moved.whole_ms / network.whole_ms == pytest.approx(other / usual)
    assert moved.at(usual).rest_ms == pytest.approx(0.5)
    assert replace(network, usual_ms=None).at(other).whole_ms == 4.0
