"""Configuration: overrides, YAML round trip, errors that name the nearest key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.config import Config, build, load_yaml, override, save_yaml
from catchweight.errors import UsageError


class Inner(Config):
    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 2.0)


class Outer(Config):
    lr: float = 1e-3
    epochs: int = 30
    name: str | None = None
    augment: Inner = Inner()


def test_override_reaches_nested_keys_and_reads_yaml_values():
    changed = override(Outer(), ["lr=1e-2", "augment.flip=0", "augment.scale=[0.7, 1.5]", "name=street"])
    assert changed == Outer(lr=0.01, name="street", augment=Inner(flip=0.0, scale=(0.7, 1.5)))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lr", "key=value"),
        ("lrr=1", 'did you mean "lr"'),
        ("augment.flop=1", 'did you mean "augment.flip"'),
        ("epochs=many", "epochs"),
        ("lr.x=1", "plain value"),
        ("lr=[", "cannot read the value"),
        ("lr=.inf", "lr = inf is wrong: .*finite"),
        ("lr=nan", "lr = nan is wrong: .*finite"),
        ("augment.scale=[0.5, .inf]", "augment.scale.1 = inf is wrong: .*finite"),
    ],
)
def test_wrong_assignments_are_explained(assignment, message):
    with pytest.raises(UsageError, match=message):
        override(Outer(), [assignment])


def test_unknown_key_in_a_file_names_the_nearest(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epoch: 3\n")
    with pytest.raises(UsageError, match='did you mean "epochs"'):
        load_yaml(Outer, path)
    path.write_text("augment: {flipp: 1}\n")
    with pytest.raises(UsageError, match='did you mean "augment.flip"'):
        load_yaml(Outer, path)


def test_yaml_tags_do_not_execute(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UsageError, match="not plain YAML"):
        load_yaml(Outer, path)


@given(st.builds(Outer, lr=st.floats(1e-9, 1e9), epochs=st.integers(0, 10**9), name=st.none() | st.text()))
def test_yaml_round_trip(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("y") / "c.yaml"
    save_yaml(path, config)
    assert load_yaml(Outer, path) == config


def test_build_refuses_wrong_types():
    with pytest.raises(UsageError, match="lr"):
        build(Outer, {"lr": "fast"})
