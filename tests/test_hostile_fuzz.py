"""Readers of what people write fed with anything: they answer or refuse with our own error, and never otherwise.

``CATCHWEIGHT_FUZZ_MINUTES=10`` runs each test for its share of so many minutes instead of 60 examples.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catchweight.budget import QUANTITIES, Budget
from catchweight.config import Config, load_yaml, override
from catchweight.data.classes import MAX_CLASSES
from catchweight.data.readers.classes_file import KEYS, read_classes_file
from catchweight.errors import CatchweightError, UsageError
from catchweight.front import Front

MINUTES = float(os.environ.get("CATCHWEIGHT_FUZZ_MINUTES", "0"))
TESTS = 7
LONGEST_MESSAGE = 20_000

fuzz = settings(
    max_examples=2000 if MINUTES else 60,
    derandomize=False,  # else the same examples over and over
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def long(test):
    """The test, over and over with new examples for its share of CATCHWEIGHT_FUZZ_MINUTES."""

    def run():
        end = time.monotonic() + 60 * MINUTES / TESTS
        test()
        while time.monotonic() < end:
            test()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return pytest.mark.timeout(60 * MINUTES + 300)(run)


class Inner(Config):
    """Nested settings."""

    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 2.0)


class Outer(Config):
    """Settings of every kind."""

    lr: float = 0.1
    epochs: int = 3
    name: str = "x"
    names: tuple[str, ...] = ()
    on: bool = True
    inner: Inner = Inner()
    free: dict[str, float] = {}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.integers(-3, 300)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
keys = st.sampled_from(sorted(KEYS)) | st.text(max_size=10)
YAML_PIECES = [
    *("classes", "names", "palette", "lr", "inner", ":", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a"),
    *("!!int ", "!!set ", "!!binary ", "!!timestamp ", "!!omap ", "!!pairs ", "!!float ", "!!bool ", "<<: ", "? "),
    *("2024-13-45", "0x", "0b", "1e999", "-.inf", "1:60", "~", '"', "'", "|", ">", "%YAML 1.1", "---", "...", "#"),
    *("\t", "\x00", "é"),
]
BUDGET_PIECES = [
    *QUANTITIES, *("<=", "≤", "<", "=", "5", "1e3", "1e999", "1e-999", "-1", "nan", "inf", "ms", "M", "MB", "MiB", "b"),
    *(",", " ", ".", "0", "٣", "µs", "m"),
]  # fmt: skip
KEY_PIECES = ["lr", "names", "inner", "inner.flip", "free.a", ".", "", "inner.", "lr.x"]


def pieces(parts: list[str], most: int):
    return st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=most).map("".join)


yamlish = pieces(YAML_PIECES, 25)
candidates = st.dictionaries(st.sampled_from(["arch", "cost", "score", "note", "epochs"]), values, max_size=5)


def brief(error: CatchweightError) -> bool:
    """Whether a person can read the message."""
    return len(str(error)) < LONGEST_MESSAGE


def readable(file: str, content: bytes, read) -> None:
    """Read a file of this content; only our own error may come, with a message that a person can read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(content)
        try:
            read(path)
        except CatchweightError as error:
            refusal = error
        else:
            refusal = None
        assert refusal is None or (file in str(refusal) and brief(refusal))
        assert os.listdir(folder) == [file]


def answered(ask):
    """The answer, or None where it was refused as bad usage."""
    try:
        return ask()
    except UsageError as error:
        refusal = error
    assert brief(refusal)
    return None


def classes(path: Path) -> None:
    found = read_classes_file(path)
    names = found.classes.names
    assert 1 <= len(names) <= MAX_CLASSES
    assert len(set(names)) == len(names) == len(found.classes.colors)
    assert set(found.labels.values.values()) <= {*range(len(names)), 255}


@long
@fuzz
@given(st.sampled_from(["json", "yaml", "txt"]), st.binary(max_size=300) | yamlish.map(str.encode))
def test_classes_files_of_any_bytes(suffix, content):
    readable(f"classes.{suffix}", content, classes)


@long
@fuzz
@given(st.sampled_from(["json", "yaml"]), values | st.dictionaries(keys, values, max_size=5))
def test_classes_files_of_any_values(suffix, value):
    text = json.dumps(value) if suffix == "json" else yaml.safe_dump(value, allow_unicode=True)
    readable(f"classes.{suffix}", text.encode("utf-8", "surrogatepass"), classes)


@long
@fuzz
@given(st.text(max_size=60) | pieces(BUDGET_PIECES, 9))
def test_budgets_of_any_text(text):
    budget = answered(lambda: Budget.parse(text))
    if budget is None:
        return
    assert Budget.parse(str(budget)) == budget
    assert all(0 < limit.value < math.inf for limit in budget.limits)


@long
@fuzz
@given(st.binary(max_size=200) | yamlish.map(str.encode))
def test_settings_files_of_any_bytes(content):
    readable("settings.yaml", content, lambda path: load_yaml(Outer, path))


@long
@fuzz
@given(st.dictionaries(st.sampled_from([*Outer.model_fields, "lrr", ""]), values, max_size=4))
def test_settings_files_of_any_values(value):
    text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    readable("settings.yaml", text, lambda path: load_yaml(Outer, path))


@long
@fuzz
@given(pieces(KEY_PIECES, 2), st.sampled_from(["=", "", "=="]), yamlish)
def test_overrides_of_any_text(key, equals, text):
    changed = answered(lambda: override(Outer(), [f"{key}{equals}{text}"]))
    assert changed is None or isinstance(changed, Outer)


@long
@fuzz
@given(values | st.fixed_dictionaries({"candidates": values | st.lists(candidates, max_size=3)}))
def test_fronts_of_any_values(value):
    text = json.dumps(value).encode("utf-8", "surrogatepass")
    readable("front.json", text, Front.read)
