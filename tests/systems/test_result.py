"""Verdicts, gating and storage of check results."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from catchweight.errors import CatchweightError
from catchweight.systems import CheckResult, Condition, Verdict, latest

HOLDS = Condition("gain", 1.2, 1.0)
FAILS = Condition("gain", 0.3, 1.0)


def verdict(*claim: Condition, control: tuple[Condition, ...] = (FAILS,)) -> Verdict:
    return Verdict(claim, control, {"gain": 1.2}, seeds=(0, 1, 2))


def test_condition_includes_its_bound_and_nan_never_holds() -> None:
    assert Condition("", 1.0, 1.0).met
    assert Condition("", 1.0, 1.0, "<=").met
    assert not Condition("", 1.1, 1.0, "<=").met
    assert not Condition("", math.nan, 1.0).met
    assert not Condition("", math.nan, 1.0, "<=").met
    assert str(FAILS) == "gain: 0.3 >= 1 FAILS"


def test_claim_needs_every_condition() -> None:
    assert verdict(HOLDS, HOLDS).passed is True
    assert verdict(HOLDS, FAILS).passed is False
    assert verdict().passed is False


@pytest.mark.parametrize("control", [(HOLDS,), (FAILS, HOLDS), ()])
def test_a_control_that_passes_anywhere_or_is_missing_voids_the_check(control: tuple[Condition, ...]) -> None:
    for claim in (HOLDS, FAILS):
        void = verdict(claim, control=control)
        assert void.control_failed is False
        assert void.passed is None


def test_result_says_in_one_word_what_came_out() -> None:
    words = [
        CheckResult.of("x", v, 1.0, quick).word
        for v, quick in [
            (verdict(HOLDS), False),
            (verdict(FAILS), False),
            (verdict(HOLDS, control=(HOLDS,)), False),
            (verdict(HOLDS), True),
        ]
    ]
    assert words == ["holds", "fails", "void", "quick run"]
    assert CheckResult.of("x", verdict(HOLDS), 1.0, quick=True).passed is None


def test_result_survives_a_round_trip(tmp_path: Path) -> None:
    result = CheckResult.of("eseg", verdict(HOLDS, FAILS), 12.345, quick=False, data="camvid")
    result.save(tmp_path / "eseg.json")
    assert CheckResult.load(tmp_path / "eseg.json") == result
    stored = json.loads((tmp_path / "eseg.json").read_text())
    assert stored["claim"][1] == {"text": "gain", "value": 0.3, "bound": 1.0, "kind": ">=", "met": False}
    assert stored["seeds"] == [0, 1, 2]
    assert stored["data"] == "camvid"
    assert {"date", "commit", "machine", "seconds", "control_failed"} <= stored.keys()


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "eseg.json"
    path.write_text('{"name": "eseg"}')
    with pytest.raises(CatchweightError, match=r"eseg\.json is not a check result"):
        CheckResult.load(path)


def test_the_newer_of_shipped_and_own_result_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    monkeypatch.setattr("catchweight.systems.result.SHIPPED", shipped)
    assert latest("x", own) is None
    older = dataclasses.replace(CheckResult.of("x", verdict(HOLDS), 1, False), date="2024-01-01T00:00:00+00:00")
    newer = dataclasses.replace(older, date="2024-02-01T00:00:00+00:00", passed=False)
    older.save(own / "x.json")
    assert latest("x", own) == older
    newer.save(shipped / "x.json")
    assert latest("x", own) == newer
