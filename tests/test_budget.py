"""The budget language."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import QUANTITIES, Budget, Cost, format_quantity
from catchweight.errors import UsageError


def test_units_are_read():
    budget = Budget.parse("latency<=15ms, params<=5M,size<=2.5MB , macs <= 2G")
    assert {limit.name: limit.value for limit in budget.limits} == {
        "latency": 15.0,
        "params": 5e6,
        "size": 2.5e6,
        "macs": 2e9,
    }
    assert Budget.parse("latency<=0.02s").limits[0].value == pytest.approx(20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("latency", "cannot read"),
        ("latency>=5ms", "upper limit"),
        ("latency<5ms", "upper limit"),
        ("latancy<=5ms", 'did you mean "latency"'),
        ("latency<=5", "unit"),
        ("latency<=5fortnights", "unit"),
        ("latency<=0ms", "allows nothing"),
        ("latency<=5ms,latency<=6ms", "twice"),
        ("latency<=1.2.3ms", "not a number"),
    ],
)
def test_malformed_budgets_are_explained(text, message):
    with pytest.raises(UsageError, match=message):
        Budget.parse(text)


def test_a_violation_says_by_how_much():
    budget = Budget.parse("latency<=10ms, params<=1M")
    assert budget.violations(Cost(latency_ms=12.0, params=9e5)) == ["latency 12ms is 20% over 10ms"]
    assert budget.allows(Cost(latency_ms=10.0, params=1e6))


def test_an_unmeasured_cost_never_makes_the_budget():
    assert Budget.parse("latency<=10ms").violations(Cost()) == ["latency was not measured"]


@given(st.sampled_from(sorted(QUANTITIES)), st.floats(1e-3, 1e12, allow_nan=False))
def test_a_budget_written_out_reads_back(name, value):
    unit = next(iter(QUANTITIES[name].units))
    budget = Budget.parse(f"{name}<={value}{unit}")
    again = Budget.parse(str(budget))
    assert again.limits[0].value == pytest.approx(budget.limits[0].value, rel=0.01)


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        Budget.parse(text)


def test_format_quantity():
    assert format_quantity("params", 4_380_000) == "4.38M"
    assert format_quantity("latency", 6.34) == "6.34ms"
    assert format_quantity("size", 512) == "512B"
