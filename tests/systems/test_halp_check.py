"""HALP's claim check: the two parts without training in full, its control, and the machinery at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchweight.systems import run_check
from catchweight.systems.halp import (
    INSTANCES,
    SHARE_OVER_IMPORTANCE,
    SHARE_OVER_UNIFORM,
    SIDES,
    SYNTHETIC_SEEDS,
    WIDTHS,
    StairCosts,
    optimal_instances,
    synthetic_shares,
)


def test_every_random_knapsack_is_solved_to_the_optimum() -> None:
    assert optimal_instances(INSTANCES) == INSTANCES


@pytest.fixture(scope="module")
def shares() -> dict[str, list[float]]:
    return synthetic_shares(SYNTHETIC_SEEDS[:4])  # the check itself runs all ten


def test_more_importance_is_kept_in_every_seed(shares: dict[str, list[float]]) -> None:
    assert min(a - b for a, b in zip(shares["halp"], shares["uniform"], strict=True)) >= SHARE_OVER_UNIFORM
    assert min(a - b for a, b in zip(shares["halp"], shares["importance"], strict=True)) >= SHARE_OVER_IMPORTANCE


def test_with_shuffled_latencies_the_claim_fails(shares: dict[str, list[float]]) -> None:
    assert min(a - b for a, b in zip(shares["shuffled"], shares["uniform"], strict=True)) < SHARE_OVER_UNIFORM
    assert sum(a > b for a, b in zip(shares["halp"], shares["shuffled"], strict=True)) == len(shares["halp"])


def test_the_chain_costs_by_hand() -> None:
    costs = StairCosts(chained=True)
    by_hand = sum(
        9e-6 * side**2 * before * after
        for side, before, after in zip(SIDES, (16, *WIDTHS[:-1]), WIDTHS, strict=True)  # 3 round up to 16
    )
    assert costs.total({}) == pytest.approx(by_hand)
    assert costs.total({"6": 497}) == costs.total({"6": 512}), "a stair of 16 is flat"
    curve = costs.curves({"3": [128, 64]}, {})["3"]
    assert curve[0] - curve[1] == pytest.approx(costs.total({}) - costs.total({"3": 64}))
    assert costs.in_macs().total({"6": 497}) < costs.in_macs().total({})


@pytest.mark.slow
def test_quick_check_runs_every_part_and_goes_on(tmp_path: Path) -> None:
    result = run_check("halp", quick=True, out=tmp_path)
    assert result.passed is None
    assert len(result.claim) == 8
    assert len(result.control) == 1
    assert not result.control[0]["met"]
    assert result.figures["trained"][0]["halp"] > 0
    again = run_check("halp", quick=True, out=tmp_path)
    assert again.figures == result.figures
