"""`catchweight front`: the table, the figures beside it, the files, and what it refuses to compare."""

from __future__ import annotations

import json
from functools import partial

import pytest
from PIL import Image

from catchweight.budget import Cost
from catchweight.front import Arch, Candidate, Front


def write_run(folder, rows, **request):
    """A run folder as `fit` leaves it, as far as fronts go."""
    folder.mkdir()
    found = [
        Candidate(Arch(network=name, size=[64, 96], width=1.0), Cost(latency_ms=ms, params=1e6), s)
        for name, ms, s in rows
    ]
    (folder / "front.json").write_text(json.dumps(Front(tuple(found)).to_json()))
    (folder / "run.json").write_text(json.dumps({"format": 1, "request": {"target": "onnxruntime:cpu", **request}}))
    return folder


@pytest.fixture
def front(cli, monkeypatch, tmp_path):
    """``catchweight front`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(cli, "front")


def test_runs_become_one_front_with_plots(front, tmp_path):
    one = write_run(tmp_path / "one", [("fast", 1.0, 0.2), ("beaten", 5.0, 0.3)], data="d")
    two = write_run(tmp_path / "two", [("bend", 2.0, 0.6), ("slow", 10.0, 0.7), ("untrained", 3.0, None)], data="d")
    code, out, _ = front(one, two / "front.json", "--budget", "latency<=5ms", "--out", "f.html", "--png", "f.png")
    assert code == 0
    rows = [line for line in out.splitlines() if "64x96" in line and "│" in line]
    assert [name in row for name, row in zip(("fast", "bend", "slow"), rows, strict=True)] == [True] * 3
    assert [str(run) in row for run, row in zip((one, two, two), rows, strict=True)] == [True] * 3
    assert "3 of 5 candidates are on the front in latency, score" in out
    assert "knee in latency: bend, size 64x96, width 1.0" in out
    assert "hypervolume 5 up to 10ms, score 0" in out  # 1 * 0.2 + 8 * 0.6
    assert "best in latency<=5ms: 0.6000, bend" in out
    assert "hypervolume 2 up to 5ms, score 0" in out  # 1 * 0.2 + 3 * 0.6
    assert "<!doctype html>" in (tmp_path / "f.html").read_text()[:20]
    assert Image.open(tmp_path / "f.png").format == "PNG"


def test_other_costs_and_budgets_nobody_makes(front, tmp_path):
    run = write_run(tmp_path / "run", [("fast", 1.0, 0.2), ("slow", 5.0, 0.3)], data="d")
    code, out, _ = front(run, "--cost", "params", "--budget", "latency<=0.5ms")
    assert code == 0
    assert "1 of 2 candidates are on the front in params, score" in out
    assert "best in latency<=0.5ms: no candidate makes it" in out


def test_an_unfinished_front_is_told_in_words(front, tmp_path):
    code, out, _ = front(write_run(tmp_path / "run", [("fast", 1.0, None)], data="d"), "--png", "f.png")
    assert (code, "0 of 1 candidates" in out, (tmp_path / "f.png").exists()) == (0, True, True)


def test_figures_that_do_not_compare_are_refused(front, tmp_path):
    one = write_run(tmp_path / "one", [("a", 1.0, 0.2)], data="street")
    two = write_run(tmp_path / "two", [("a", 1.0, 0.2)], data="field")
    code, _, err = front(one, two, "--png", "f.png")
    assert (code, (tmp_path / "f.png").exists()) == (1, False)
    assert "data is street there and field here" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 1, "nowhere does not exist"),
        (("RUN", "--budget", "latency<5ms"), 2, "upper limit"),
        (("RUN", "--cost", "latancy"), 2, 'did you mean "latency"'),
        ((), 2, "Missing"),
    ],
)
def test_bad_input_gets_one_message(front, tmp_path, arguments, code, message):
    run = write_run(tmp_path / "run", [("a", 1.0, 0.2)], data="d")
    found, out, err = front(*(run if word == "RUN" else word for word in arguments))
    assert (found, message in err, "Traceback" in out + err) == (code, True, False)
