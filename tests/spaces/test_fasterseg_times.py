"""Times of FasterSeg's parts on a target: measured ones in a file, and the carriers they are seen in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from catchweight.errors import CatchweightError, UsageError
from catchweight.spaces.fasterseg import MeasuredTimes, Part
from catchweight.spaces.fasterseg.parts import build
from catchweight.spaces.fasterseg.times import PARTS_AT_ONCE, Carrier, carriers, owner
from catchweight.targets.target import Target
from catchweight.targets.tracing.blocks import blocks
from catchweight.targets.tracing.trace import trace

PARTS = [
    Part("conv", 24, 32, 8, 8),
    Part("zoomed_2x", 24, 32, 8, 16),
    Part("skip", 24, 32, 8, 16, 2),
    Part("join", 24, 32, 16, 8),
    Part("lift", 24, 32, 16, 8),
    Part("fuse", 24, 32, 16, 16),
    Part("classify", 24, 32, 16, 3),
    Part("conv_2x", 24, 32, 32, 64),
]


@pytest.fixture
def target() -> Target:
    return Target.parse("onnxruntime:cpu", threads=1)


def test_measured_times_are_positive_stored_and_not_measured_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = MeasuredTimes(target, tmp_path / "times.json")
    ms = times([*PARTS, PARTS[0]])
    assert ms[0] == ms[-1]
    assert all(value > 0 for value in ms)
    assert ms[7] > ms[0]  # 54 times the multiply-adds
    monkeypatch.setattr(MeasuredTimes, "_measured", lambda *_: pytest.fail("measured again"))
    assert MeasuredTimes(target, tmp_path / "times.json")(PARTS) == ms[:-1]
    stored = json.loads((tmp_path / "times.json").read_text())
    assert len(stored["parts"]) == len(PARTS)
    stored["device"]["processor"] = "another"
    (tmp_path / "times.json").write_text(json.dumps(stored))
    with pytest.raises(CatchweightError, match="another device"):
        MeasuredTimes(target, tmp_path / "times.json")


def test_every_block_of_a_part_is_found_in_its_carrier() -> None:
    """Multiply-adds by part, from the carrier's blocks, are those of the part alone."""
    carrier = Carrier(PARTS)
    found = [0] * len(PARTS)
    for block in blocks(trace(carrier, (24, 32))):
        place = owner(block.module)
        if place is not None:
            found[place] += block.signature.macs
    for part, macs in zip(PARTS, found, strict=True):
        places = {"skip": 12 * 16, "zoomed_2x": 12 * 16}.get(part.op, 24 * 32)
        weights = sum(p.numel() for p in build(part).parameters() if p.ndim == 4)
        assert macs == places * weights


def test_carriers_hold_parts_of_one_size_and_not_too_many() -> None:
    many = [Part("conv", 8, 8, 8, out) for out in range(1, PARTS_AT_ONCE + 2)] + [Part("conv", 4, 4, 8, 8)]
    groups = list(carriers(many))
    assert sorted(map(len, groups)) == [1, 1, PARTS_AT_ONCE]
    assert all(len({(p.height, p.width) for p in group}) == 1 for group in groups)
    assert sorted(p for group in groups for p in group) == sorted(many)


def test_unknown_part_is_named() -> None:
    with pytest.raises(UsageError, match='did you mean "zoomed"'):
        build(Part("zomed", 8, 8, 8, 8))


def test_carrier_reads_every_map_that_its_parts_want() -> None:
    with torch.no_grad():
        assert Carrier(PARTS).eval()(torch.zeros(2, 3, 24, 32)).shape == (2, 1)
