"""FasterSeg's claim check: its parts at quick sizes, and what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from catchweight.spaces.fasterseg import Lattice
from catchweight.systems import run_check
from catchweight.systems.fasterseg import (
    FULL,
    QUICK,
    Unzoomed,
    aimed,
    collapse_score,
    counted_times,
    paired_share,
    settings_of,
    target_ms,
    wins_needed,
)
from catchweight.targets.target import Target


def record(lattice: Lattice, op: int, width: int) -> dict[str, Any]:
    """An epoch in which every layer has the same likeliest operator and width."""
    values = {name: [1 / len(options)] * len(options) for name, options in lattice.structure().items()}
    values |= {name: torch.eye(5)[op].tolist() for name in values if name.startswith("op")}
    values |= {name: torch.eye(len(lattice.widths))[width].tolist() for name in lattice.open_widths()}
    return {"student": {"probabilities": values}}


def test_collapse_is_the_share_of_skips_and_of_narrow_maps() -> None:
    lattice = Lattice(layers=8, base=2, widths=(4, 8, 12))
    assert collapse_score(record(lattice, op=0, width=0), lattice) == 1.0
    assert collapse_score(record(lattice, op=0, width=1), lattice) == 0.5
    assert collapse_score(record(lattice, op=3, width=0), lattice) == 0.5
    assert collapse_score(record(lattice, op=3, width=2), lattice) == 0.0


def test_arms_differ_in_what_is_compared_alone() -> None:
    arms = {arm: settings_of(FULL, arm, 3) for arm in ("decoupled", "coupled", "unweighted")}
    plain = {arm: found.model_dump() for arm, found in arms.items()}
    differing = {key for key in plain["coupled"] if plain["coupled"][key] != plain["decoupled"][key]}
    assert differing == {"regularisation"}
    differing = {key for key in plain["coupled"] if plain["coupled"][key] != plain["unweighted"][key]}
    assert differing == {"latency_weight"}
    assert {found.seed for found in arms.values()} == {3}


def test_search_is_aimed_at_a_latency_of_this_device() -> None:
    """Window, lambda and reference move together: the loss per share of the latency stays the published one."""
    published, here = FULL.settings, aimed(FULL.settings, 1.5)
    assert sum(here.window_ms) / 2 == pytest.approx(1.5)
    for settings in (published, here):
        middle = sum(settings.window_ms) / 2
        assert settings.latency_weight * middle == pytest.approx(0.0608, rel=1e-3)
        assert settings.window_ms[0] / middle == pytest.approx(0.9394, rel=1e-3)
        assert settings.reference_ms / middle == pytest.approx(1.365, rel=1e-3)
    assert aimed(FULL.settings, 1.5) == here
    aim = target_ms(QUICK, 4, counted_times(Target.parse("onnxruntime:cpu"), Path("unused")))
    assert 0 < aim < 1


def test_sizes_are_those_of_the_catalog() -> None:
    lattice = Lattice(FULL.settings.layers, FULL.settings.base, FULL.settings.widths, FULL.settings.width)
    assert (lattice.layers, lattice.channels(8, 12), lattice.widths) == (8, 64, (4, 8, 12))
    assert [lattice.channels(8, width) for width in (4, 8)] == [24, 40]
    assert (FULL.settings.pretrain.epochs, FULL.settings.search.epochs, len(FULL.seeds)) == (3, 6, 5)


def test_share_of_time_is_that_of_turns_in_pairs() -> None:
    """A machine that is twice as slow in the second turn, for all alike."""
    assert paired_share([3.0, 6.0, 3.0], [5.0, 10.0, 5.0], [1.0, 2.0, 1.0]) == 0.5


def test_broken_convolution_does_not_zoom() -> None:
    broken = Unzoomed(4, 4, 1).eval()
    x = torch.randn(1, 4, 6, 8)
    torch.testing.assert_close(broken(x), broken.convs(x).relu())


def test_quick_check_runs_every_part_and_resumes(tmp_path: Path) -> None:
    result = run_check("fasterseg", quick=True, out=tmp_path)
    assert result.passed is None
    assert len(result.claim) == 7
    assert len(result.control) == 4
    figures = result.figures
    assert figures["zoomed"]["maps"][0]["macs"]["plain"] == 4 * 9 * 16 * 16 * 12 * 16
    assert figures["zoomed"]["maps"][0]["macs"]["zoomed"] * 4 == figures["zoomed"]["maps"][0]["macs"]["plain"]
    assert all(0 <= score <= 1 for arm in "ab" for score in figures["collapse"]["collapse"][arm])
    assert figures["teacher"]["student"].startswith("fasterseg_student:")
    stages = tmp_path / "fasterseg-quick" / "stages"
    before = {p.name: p.stat().st_mtime_ns for p in stages.iterdir()}
    again = run_check("fasterseg", quick=True, out=tmp_path)
    assert again.figures == figures
    assert before == {p.name: p.stat().st_mtime_ns for p in stages.iterdir()}
    assert len(QUICK.seeds) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_wins_needed_are_four_of_five(count: int) -> None:
    assert wins_needed(count) == {1: 1, 5: 4}[count]
