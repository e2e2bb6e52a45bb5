"""The plan: never longer than the time there is, and nothing dropped when time is not short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from catchweight.search import fitting_plan


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=9),
    st.integers(1, 60),
    st.none() | st.floats(1, 1e5),
)
def test_a_plan_never_takes_longer_than_the_time_there_is(seconds, epochs, available):
    plan = fitting_plan(seconds, epochs, 3, available)
    assert 1 <= plan["epochs"] <= epochs
    assert 1 <= plan["candidates"] <= len(seconds)
    assert plan["rungs"][-1] == plan["epochs"]
    if available is None:
        assert (plan["candidates"], plan["epochs"]) == (len(seconds), epochs)
    elif (plan["candidates"], plan["epochs"]) != (1, 1):
        assert plan["minutes"] <= available / 60 + 0.01
