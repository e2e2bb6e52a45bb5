"""Paired trials and equal-cost matching against closed forms."""

from __future__ import annotations

import pytest

from catchweight.errors import CatchweightError
from catchweight.systems.trials import match_cost, paired_trial


def test_paired_trial_reports_each_difference_the_mean_and_the_wins() -> None:
    trial = paired_trial(lambda seed: 10.0 + seed, lambda seed: 10.0 + 2 * seed - 1, (0, 1, 2))
    assert trial.differences == (1.0, 0.0, -1.0)
    assert trial.mean == 0.0
    assert trial.wins == 2
    assert trial.to_json()["differences"] == [1.0, 0.0, -1.0]


def test_arms_run_pair_by_pair() -> None:
    order: list[str] = []

    def arm(name: str):  # type: ignore[no-untyped-def]
        return lambda seed: float(order.append(f"{name}{seed}") or 0)

    paired_trial(arm("a"), arm("b"), (3, 4))
    assert order == ["a3", "b3", "a4", "b4"]


@pytest.mark.parametrize("target", [9, 64, 100, 137, 255])
def test_match_finds_the_nearest_size_of_a_quadratic_cost(target: int) -> None:
    match = match_cost(lambda size: (size / target) ** 2, 8, 256)
    assert match.size == target
    assert match.ratio == 1.0
    assert match.within(0.0)


def test_match_respects_the_step_and_says_how_far_off_it_is() -> None:
    match = match_cost(lambda size: size / 50, 8, 128, step=8)
    assert match.size == 48
    assert match.ratio == pytest.approx(0.96)
    assert match.within(0.05)
    assert not match.within(0.03)


def test_match_stops_at_the_tolerance() -> None:
    asked: list[int] = []
    match_cost(lambda size: float(asked.append(size) or size / 65), 0, 128, tolerance=0.05)
    assert asked == [64]


def test_match_takes_logarithmically_many_measurements() -> None:
    asked: list[int] = []
    match_cost(lambda size: float(asked.append(size) or size / 777), 1, 1024)
    assert len(asked) <= 11


@pytest.mark.parametrize("target", [1, 10_000])
def test_a_reference_out_of_reach_is_an_error(target: int) -> None:
    with pytest.raises(CatchweightError, match="no size from 8 to 256"):
        match_cost(lambda size: size / target, 8, 256)


def test_one_size_alone_comes_back_whatever_it_costs() -> None:
    match = match_cost(lambda size: 3.0, 8, 8, tolerance=0.05)
    assert (match.size, match.ratio) == (8, 3.0)
