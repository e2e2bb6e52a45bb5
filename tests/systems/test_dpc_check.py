"""DPC's check end to end at quick sizes, and that it goes on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchweight.nets.dpc import CELLS, Cell, cell_macs
from catchweight.search.proxy import Proxy
from catchweight.systems import run_check
from catchweight.systems.dpc import FULL, QUICK


class StopError(Exception):
    """The check is stopped in the middle of a training."""


def test_a_stopped_check_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole = run_check("dpc", quick=True, out=tmp_path / "whole")
    trainings = iter(range(5))
    score = Proxy.score

    def stopping(*arguments):  # type: ignore[no-untyped-def]
        if next(trainings, None) is None:
            raise StopError
        return score(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Proxy, "score", stopping)
        with pytest.raises(StopError):
            run_check("dpc", quick=True, out=tmp_path / "stopped")
    resumed = run_check("dpc", quick=True, out=tmp_path / "stopped")
    assert resumed.figures == whole.figures
    assert resumed.passed is None
    assert len(whole.claim) == 4
    assert len(whole.control) == 2
    assert len(whole.figures["ranks"]["permuted_labels"]["short"]) == QUICK.ranked
    assert len(whole.figures["ranks"]["short"]) == QUICK.ranked
    assert whole.figures["local_and_uniform"].keys() == {"a", "b", "differences", "mean", "wins"}
    (found,) = whole.figures["cells"].values()
    channels, size = 512, (6, 8)
    macs = [cell_macs(cell, channels, QUICK.config.filters, size) for cell in (Cell.parse(found), CELLS["aspp"])]
    assert macs[0] <= macs[1]
    assert whole.claim[2]["value"] == pytest.approx(macs[0] / macs[1])


def test_the_full_check_has_the_catalogued_sizes() -> None:
    assert (FULL.evaluations, FULL.steps, len(FULL.seeds)) == (60, 300, 5)
    assert (FULL.ranked, FULL.short, FULL.long) == (25, 100, 600)
    assert len(FULL.local_seeds) == 10
