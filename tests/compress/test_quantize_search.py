"""Which layers go back to float: the order, and the fewest that are enough."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from catchweight.compress.quantize.search import Sensitivity, order, sensitivities, shortest_prefix


def test_most_error_per_millisecond_goes_first() -> None:
    layers = [
        Sensitivity("dear", error=0.2, saved_ms=2.0),
        Sensitivity("harmless", error=0.0, saved_ms=0.1),
        Sensitivity("cheap", error=0.1, saved_ms=0.1),
        Sensitivity("slower in int8", error=0.02, saved_ms=-0.5),
    ]
    assert order(layers) == ["slower in int8", "cheap", "dear", "harmless"]


def test_figures_of_a_layer_are_put_together() -> None:
    found = sensitivities({"a": 0.1, "b": 0.2}, {"a": 2.0, "b": 1.0}, {"a": 0.5})
    assert found == [Sensitivity("a", 0.1, 1.5), Sensitivity("b", 0.2, 1.0)]
    (alone,) = sensitivities({"a": 0.1}, {}, {})
    assert alone.saved_ms == 1.0, "without a profile every layer saves the same"


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 80))
def test_the_shortest_prefix_that_holds_is_found(length: int, needed: int, most: int) -> None:
    layers = [str(i) for i in range(length)]
    asked: list[int] = []

    def holds(prefix: Sequence[str]) -> bool:
        assert list(prefix) == layers[: len(prefix)]
        asked.append(len(prefix))
        return len(prefix) >= needed

    found = shortest_prefix(layers, holds, most)
    possible = max(needed, 1) <= min(most, length)
    assert found == (layers[: max(needed, 1)] if possible else None)
    assert len(asked) == len(set(asked)) <= 2 * max(length, 1).bit_length() + 1


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_is_returned_holds_even_when_longer_prefixes_do_not(answers: list[bool]) -> None:
    layers = [str(i) for i in range(len(answers))]
    found = shortest_prefix(layers, lambda prefix: answers[len(prefix) - 1], len(layers))
    assert found is None or answers[len(found) - 1]
