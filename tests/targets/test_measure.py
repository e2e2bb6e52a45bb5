"""Timing statistics, on sessions whose duration is known. Nothing here depends on the machine's speed."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from catchweight.targets.clock.measure import Measurement, distinguishable, interleaved, median_interval
from catchweight.targets.clock.rounds import LEAST_GOOD


class Sleeper:
    """Sleeps instead of computing, and writes into a shared diary when it ran."""

    runtime, threads, batch = "sleep", 1, 4

    def __init__(self, milliseconds: float, diary: list[str] | None = None, name: str = "") -> None:
        self.seconds, self.diary, self.name = milliseconds / 1000, diary, name

    def run(self) -> None:
        if self.diary is not None:
            self.diary.append(self.name)
        time.sleep(self.seconds)

    @contextmanager
    def ready(self) -> Iterator[None]:
        assert not gc.isenabled()
        yield


def measurement(turns: list[float], spread: float = 0.0, joint: str = "") -> Measurement:
    """A measurement with the given turn medians; those of one ``joint`` were taken together."""
    middle = float(np.median(turns))
    low, high = median_interval(turns)
    return Measurement(
        middle, middle * (1 - spread / 2), middle * (1 + spread / 2), low, high, 5 * len(turns), 1, 1, "none",
        turns=tuple(turns), joint=joint,
    )  # fmt: skip


def test_sleepers_are_ranked_and_timed() -> None:
    short, long = interleaved([Sleeper(4), Sleeper(8)], seconds=1.5)
    assert 4 <= short.median_ms < long.median_ms
    assert long.median_ms >= 8
    assert short.p10_ms <= short.median_ms <= short.p90_ms
    assert short.low_ms <= short.median_ms <= short.high_ms
    assert short.n >= 5 * LEAST_GOOD  # a busy machine leaves no more
    assert short.images_per_second == pytest.approx(4 * 1000 / short.median_ms)
    compared = distinguishable(short, long)
    assert compared.different
    assert compared.ratio > 1
    assert str(compared).startswith("slower")
    assert gc.isenabled()


def test_sessions_take_turns() -> None:
    diary: list[str] = []
    interleaved([Sleeper(2, diary, "a"), Sleeper(2, diary, "b")], seconds=0.3, warmup=2)
    turns = [name for name, before in zip(diary, ["", *diary], strict=False) if name != before]
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert len(turns) >= 6


def test_the_time_limit_holds_and_is_said() -> None:
    start = time.perf_counter()
    (slow,) = interleaved([Sleeper(60)], seconds=0.2, warmup=1)
    assert time.perf_counter() - start < 60  # 30 runs would do, a busy machine may triple the limit
    assert 1 <= slow.n < 30
    assert slow.noisy
    assert any("turns only" in note for note in slow.notes)


def test_one_slow_run_gets_one_turn_at_least() -> None:
    assert interleaved([Sleeper(30)], seconds=0, warmup=1, reference=False)[0].n == 1


def test_json_has_no_infinity() -> None:
    (slow,) = interleaved([Sleeper(5)], seconds=0, warmup=1)
    values = json.loads(json.dumps(slow.to_json(), allow_nan=False))
    assert values["high_ms"] is None
    assert values["noisy"] is True
    assert "turns" not in values


@pytest.mark.parametrize("n", [6, 17, 60])
def test_the_interval_covers_the_median_95_times_in_100(n: int) -> None:
    samples = np.random.default_rng(n).lognormal(0, 1, (2000, n))  # true median 1
    hits = sum(low <= 1 <= high for low, high in map(median_interval, samples))
    assert hits / len(samples) >= 0.95 - 2.6 * math.sqrt(0.95 * 0.05 / len(samples))


def test_the_interval_is_no_wider_than_needed() -> None:
    rng = np.random.default_rng(0)
    widths = [np.subtract(*median_interval(rng.normal(0, 1, 400))) for _ in range(200)]
    expected = 2 * NormalDist().inv_cdf(0.975) * math.sqrt(math.pi / 2 / 400)
    assert np.mean(np.abs(widths)) == pytest.approx(expected, rel=0.1)


def test_few_values_have_no_interval() -> None:
    assert median_interval([1.0] * 5) == (0.0, math.inf)
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)


def test_pairs_see_through_drift() -> None:
    drift = np.linspace(1, 3, 30)  # the machine gets three times slower; unpaired intervals overlap widely
    first, second = (measurement(list(factor * drift), joint="one call") for factor in (1, 1.05))
    assert first.high_ms > second.low_ms
    assert distinguishable(first, second).ratio == pytest.approx(1.05)
    assert distinguishable(first, second).different


def test_turns_of_two_measurements_are_no_pairs() -> None:
    """Equally many turns by chance, of one network on a machine that got slower during one and faster in the other."""
    drift = np.linspace(1, 3, 30)
    up, down = measurement(list(drift), joint="one call"), measurement(list(drift[::-1]), joint="another")
    found = distinguishable(up, down)
    assert (found.low, found.high) == (up.low_ms / up.high_ms, up.high_ms / up.low_ms)
    assert not distinguishable(replace(up, joint=""), replace(down, joint="")).different
    slower = distinguishable(measurement(list(drift)), measurement(list(drift + 0.1)))
    assert not slower.different


def test_sessions_measured_together_know_it() -> None:
    first, second = interleaved([Sleeper(1), Sleeper(1)], seconds=0.02, reference=False)
    (other,) = interleaved([Sleeper(1)], seconds=0.02, reference=False)
    assert first.joint == second.joint != other.joint
    assert "joint" not in first.to_json()


def test_noise_is_not_ranked() -> None:
    rng = np.random.default_rng(0)
    first, second = (measurement(list(rng.lognormal(0, 0.3, 25)), joint="one call") for _ in range(2))
    compared = distinguishable(first, second)
    assert not compared.different
    assert "cannot be told apart" in str(compared)
    assert first.noisy


def test_apart_without_pairs_and_never_from_few_turns() -> None:
    long, short = measurement([2.0] * 8), measurement([1.0] * 7)
    assert distinguishable(long, short).different
    assert str(distinguishable(long, short)).startswith("faster")
    few = measurement([1.0] * 3)
    assert not distinguishable(few, measurement([2.0] * 3)).different
    for one, other in ((few, long), (long, few), (few, measurement([2.0] * 4))):
        compared = distinguishable(one, other)
        assert (compared.low, compared.high) == (0.0, math.inf)


def test_quiet_is_not_noisy_but_scatter_is() -> None:
    assert not measurement([1.0, 1.001, 0.999] * 4, spread=0.1).noisy
    assert measurement([1.0, 1.001, 0.999] * 4, spread=0.5).noisy
