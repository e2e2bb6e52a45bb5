"""The budget language: read, refused with the repair, and written without loss."""

from __future__ import annotations

import contextlib
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import QUANTITIES, Budget, Cost, Limit, display_unit, format_quantity
from catchweight.errors import CatchweightError, UsageError

positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
limits = st.builds(Limit, st.sampled_from(sorted(QUANTITIES)), positive)
budgets = st.lists(limits, min_size=1, max_size=6, unique_by=lambda limit: limit.name).map(tuple).map(Budget)
costs = st.builds(Cost, **{f.name: st.none() | st.floats(0, 1e12) for f in fields(Cost)})


def values(text: str) -> dict[str, float]:
    return {limit.name: limit.value for limit in Budget.parse(text).limits}


def test_units_are_read():
    assert values("latency<=15ms, params<=5M,size<=2.5MB , macs <= 2G, memory<=64MiB,energy <=0.2J,") == {
        "latency": 15.0,
        "params": 5e6,
        "size": 2.5e6,
        "macs": 2e9,
        "memory": 64 * 2**20,
        "energy": 0.2,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency<=0.02s", 20.0),
        ("latency<=1.5us", 0.0015),
        ("latency<=1.5\N{MICRO SIGN}s", 0.0015),
        ("latency\N{LESS-THAN OR EQUAL TO}15ms", 15.0),
        ("LATENCY<=15ms", 15.0),
        ("latency<=1e1ms", 10.0),
        ("params<=5m", 5e6),  # there is no thousandth of a parameter
        ("params<=5000000", 5e6),
        ("params<=5.1M", 5_100_000.0),
        ("macs<=1t", 1e12),
        ("memory<=64mb", 64e6),
        ("memory<=64Mb", 64e6),  # always bytes
        ("energy<=200mj", 0.2),
    ],
)
def test_spellings(text, value):
    assert Budget.parse(text).limits[0].value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("latency", "cannot read"),
        ("latency<=", "cannot read"),
        ("latency>=5ms", 'upper limit: write "latency<=5ms"'),
        ("latency<5ms", 'write "latency<=5ms"'),
        ("latency=<5ms", 'write "latency<=5ms"'),
        ("latency==5ms", 'write "latency<=5ms"'),
        ("latancy<=5ms", 'did you mean "latency"'),
        ("speed<=5", "Known: energy, latency, macs, memory, params, size"),
        ("latency<=5", "has no unit: write one of ms, s, us"),
        ("latency<=5fortnights", "unknown unit of latency"),
        ("latency<=5m", "minutes or milliseconds: write 5ms"),
        ("latency<=5MS", "mega"),
        ("energy<=5MJ", 'write "energy<=5mJ"'),
        ("memory<=64M", 'did you mean "MB"'),
        ("params<=5ms", "unknown unit of params"),
        ("latency<=0ms", "must be positive and finite"),
        ("latency<=-5ms", "must be positive and finite"),
        ("latency<=nanms", "must be positive and finite"),
        ("latency<=inf ms", "must be positive and finite"),
        ("latency<=1e999ms", "must be positive and finite"),
        ("params<=1e308G", "beyond the range"),
        ("latency<=1e-323us", "beyond the range"),
        ("latency<=5ms,latency<=6ms", 'twice, "latency<=5ms" and "latency<=6ms": keep "latency<=5ms"'),
        ("latency<=6ms, params<=1M, latency<=5ms", 'keep "latency<=5ms"'),
        ("latency<=1.2.3ms", "cannot read"),
        ("params<=5,000k", "separator of thousands"),
        ("latency<=5ms; params<=5M", "parted by commas"),
    ],
)
def test_malformed_budgets_are_refused_with_the_repair(text, message):
    with pytest.raises(UsageError, match=message):
        Budget.parse(text)


def test_the_same_limit_twice_contradicts_nothing():
    assert Budget.parse("latency<=5ms, latency<=0.005s") == Budget.parse("latency<=5ms")


@pytest.mark.parametrize(("name", "value"), [("latency", 0.0), ("latency", math.nan), ("latency", math.inf), ("x", 1)])
def test_a_limit_built_by_hand_is_checked_as_well(name, value):
    with pytest.raises(UsageError):
        Limit(name, value)


@given(budgets)
def test_a_budget_written_out_reads_back_without_loss(budget):
    assert Budget.parse(str(budget)) == budget


@given(st.sampled_from(sorted(QUANTITIES)), st.decimals(1, 10**6, places=4), st.data())
def test_a_limit_read_is_rounded_once(name, number, data):
    unit = data.draw(st.sampled_from(sorted(QUANTITIES[name].units)))
    exact = number * QUANTITIES[name].units[unit]
    assert Budget.parse(f"{name}<={number}{unit}").limits[0].value == float(exact)


@given(
    st.text(max_size=30) | st.from_regex(r"[a-z]{3,7}(<=|<|>=) ?[-+0-9.e]{1,8} ?[a-zA-Zµ]{0,3}(,.*)?", fullmatch=True)
)
def test_any_text_is_a_budget_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        Budget.parse(text)


@given(
    st.sampled_from(sorted(QUANTITIES)),
    st.sampled_from(["<=", " <= "]),
    st.text("0123456789.e+-", max_size=12),
    st.text("msukMGTBbiJjµ", max_size=3),
)
def test_any_near_miss_is_a_sound_budget_or_a_usage_error(name, relation, number, unit):
    with contextlib.suppress(UsageError):
        assert 0 < Budget.parse(name + relation + number + unit).limits[0].value < math.inf


@given(budgets, costs, st.data())
def test_a_smaller_cost_is_allowed_where_a_larger_one_is(budget, cost, data):
    share = st.floats(0, 1)
    smaller = Cost(**{k: None if v is None else v * data.draw(share) for k, v in cost.to_json().items()})
    wider = Budget(tuple(Limit(limit.name, limit.value * 2) for limit in budget.limits if limit.value < 1e300))
    assert budget.allows(smaller) or not budget.allows(cost)
    assert wider.allows(cost) or not budget.allows(cost)


@given(budgets)
def test_the_corner_just_makes_the_budget(budget):
    corner = budget.corner()
    assert budget.allows(corner)
    assert set(corner.stated()) == {limit.name for limit in budget.limits}
    for limit in budget.limits:
        more = math.nextafter(limit.value, math.inf)
        if more < math.inf:
            assert not budget.allows(Cost.from_json(corner.to_json() | {limit.field: more}))


def test_tightened_keeps_the_headroom_free():
    assert Budget.parse("latency<=10ms, params<=2M").tightened(0.25) == Budget.parse("latency<=7.5ms, params<=1.5M")


def test_a_violation_says_by_how_much():
    budget = Budget.parse("latency<=10ms, params<=1M")
    assert budget.violations(Cost(latency_ms=12.0, params=9e5)) == ["latency 12ms is 20% over 10ms"]
    assert budget.allows(Cost(latency_ms=10.0, params=1e6))


@given(limits, st.floats(1e-16, 1))
def test_a_violation_never_shows_two_equal_figures(limit, share):
    value = limit.value * (1 + share)
    if limit.value < value < math.inf:
        words = Budget((limit,)).violations(Cost(**{limit.field: value}))[0].split()
        assert words[1] != words[-1]


def test_an_unmeasured_cost_never_makes_the_budget():
    assert Budget.parse("latency<=10ms").violations(Cost()) == ["latency was not measured"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_cost_that_is_no_number_is_refused(value):
    with pytest.raises(CatchweightError, match=r"latency_ms is .*None if not measured"):
        Cost(latency_ms=value)


@given(costs)
def test_cost_json_round_trip(cost):
    assert Cost.from_json(cost.to_json() | {"of_a_later_version": 1}) == cost


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("params", 4_380_000, "4.38M"),
        ("params", 999_600, "1M"),
        ("latency", 6.34, "6.34ms"),
        ("latency", 999.9, "1s"),
        ("latency", 0.3457, "0.346ms"),
        ("latency", 0.0, "0ms"),
        ("size", 512, "512B"),
        ("energy", 0.25, "250mJ"),
    ],
)
def test_format_quantity(name, value, shown):
    assert format_quantity(name, value) == shown


@given(st.sampled_from(sorted(QUANTITIES)), positive.filter(lambda v: 1e-300 < v < 1e300))
def test_a_shown_quantity_is_within_its_rounding(name, value):
    shown = format_quantity(name, value)
    assert Budget.parse(f"{name}<={shown}").limits[0].value == pytest.approx(value, rel=0.00501)


def test_display_unit():
    assert display_unit("params", 4_380_000) == ("M", 1e6)
    assert display_unit("latency", 1e-6) == ("ms", 1.0)
