"""Observing real networks, and the table that keeps what was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.targets.latency import profile as profiling
from catchweight.targets.latency.observe import Observation, observe, prepare
from catchweight.targets.latency.profile import Subject, profile
from catchweight.targets.latency.table import LatencyTable
from catchweight.targets.tracing.blocks import blocks
from catchweight.targets.tracing.trace import trace

SIZE = (64, 80)
CPU = Target.parse("onnxruntime:cpu", threads=1)


class Wide(nn.Module):
    """One convolution that costs far more than the two around it."""

    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.heavy = nn.Conv2d(channels, channels, 5, padding=2)
        self.head = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.heavy(self.stem(x).relu()).relu())


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Unrunnable(nn.Module):
    """Can be traced, where tensors have no data; as a whole it gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            raise RuntimeError("cannot run here")
        return self.conv(x)


@pytest.fixture(scope="module")
def wide() -> Observation:
    torch.manual_seed(0)
    return observe(CPU, Wide(), SIZE, seconds=0.3)


def test_times_go_to_the_blocks_they_belong_to(wide: Observation) -> None:
    spent = {row.module: row.ms for row in wide.rows}
    assert list(spent) == ["stem", "heavy", "head"]
    assert spent["heavy"] > 5 * max(spent["stem"], spent["head"])
    assert wide.rest_ms == 0
    assert wide.kernels >= 3
    assert wide.whole.median_ms > 0


@pytest.mark.parametrize("name", ["eseg_lite_s:levels=2-6,repeats=1", "timm/mobilenetv3_small_100+fpn"])
def test_nearly_all_time_of_a_whole_network_is_placed(name: str) -> None:
    seen = observe(CPU, build_network(name, 5, width=0.5), SIZE, seconds=0.2)
    assert seen.rest_ms < 0.02 * seen.sum_ms
    convolutions = [row for row in seen.rows if row.signature.group in ("conv", "depthwise")]
    assert all(row.ms > 0 for row in convolutions)


def test_a_prepared_network_has_the_blocks_of_its_trace(tmp_path: Path) -> None:
    prepare(Wide(), SIZE, CPU, tmp_path)
    kept = read_json(tmp_path / "blocks.json")
    assert [key for key, _ in kept["blocks"]] == [block.signature.key for block in blocks(trace(Wide(), SIZE))]
    assert set(kept["owner"].values()) <= set(range(len(kept["blocks"])))


def test_a_runtime_that_cannot_be_observed_says_so(tmp_path: Path) -> None:
    prepare(Wide(8), SIZE, CPU, tmp_path)
    from catchweight.targets.latency.observe import observe_prepared

    with pytest.raises(UsageError, match="cannot be observed kernel by kernel"):
        observe_prepared(Target.parse("torch-compile:cpu", threads=1), tmp_path)


def test_the_table_gives_back_what_was_observed(tmp_path: Path, wide: Observation) -> None:
    table = LatencyTable(CPU, tmp_path)
    assert ("wide", SIZE) not in table
    table.add("wide", SIZE, wide)
    table.add("again", SIZE, wide)
    again = LatencyTable(CPU, tmp_path)
    assert ("wide", SIZE) in again
    assert [network.label for network in again.networks] == ["again", "wide"]
    network = again.networks[0]
    assert network.size == SIZE
    assert network.whole_ms == pytest.approx(wide.whole.steady_ms)
    assert network.ms == tuple(row.ms for row in wide.rows)
    heavy = wide.rows[1].signature
    entry = again.lookup(heavy)
    assert entry is not None
    assert (entry.n, entry.ms) == (2, pytest.approx(wide.rows[1].ms))
    assert len(again) == 3
    elsewhere = Wide(88)
    assert all(again.lookup(block.signature) is None for block in blocks(trace(elsewhere, SIZE)))


def test_another_neighbour_falls_back_to_the_mean(tmp_path: Path, wide: Observation) -> None:
    table = LatencyTable(CPU, tmp_path)
    table.add("wide", SIZE, wide)
    from dataclasses import replace

    stranger = replace(wide.rows[1].signature, before="resize", after="pool")
    entry = table.lookup(stranger)
    assert entry is not None
    assert entry.ms == pytest.approx(wide.rows[1].ms)


def test_figures_of_another_device_are_refused(tmp_path: Path, wide: Observation) -> None:
    LatencyTable(CPU, tmp_path).add("wide", SIZE, wide)
    other = LatencyTable(Target.parse("onnxruntime:cpu", threads=2), tmp_path)
    with pytest.raises(CatchweightError, match="measured elsewhere: threads 1 instead of 2"):
        _ = other.networks


def test_a_stranger_among_the_parts_is_named(tmp_path: Path) -> None:
    (tmp_path / "stranger.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(CatchweightError, match=r"stranger\.parquet is not a part of a latency table"):
        _ = LatencyTable(CPU, tmp_path).networks


def test_each_device_has_a_folder_of_its_own() -> None:
    one, two = (LatencyTable(Target.parse("onnxruntime:cpu", threads=n)) for n in (1, 2))
    assert one.folder != two.folder
    assert one.folder == LatencyTable(CPU).folder


def test_a_profile_skips_what_fails_and_goes_on(tmp_path: Path) -> None:
    table = LatencyTable(CPU, tmp_path)
    subjects = [
        Subject("wide", SIZE, partial(Wide, 16)),
        Subject("moody", SIZE, Untraceable),
        Subject("unbuilt", SIZE, partial(Wide, "many")),  # type: ignore[arg-type]
    ]
    told: list[tuple[int, int]] = []
    report = profile(
        table, subjects, workers=1, seconds=0.1, again=0, told=lambda done, total, _: told.append((done, total))
    )
    assert (report.new, report.known, report.left) == (1, 0, 0)
    assert [name for name, _ in report.failed] == ["moody at 64x80", "unbuilt at 64x80"]
    assert [step for step in told if step != (0, 3)] == [(1, 3), (2, 3), (3, 3)]  # at 0 the machine's pace is learnt
    subjects[1:] = [Subject("narrow", SIZE, partial(Wide, 8))]
    report = profile(table, subjects, workers=1, seconds=0.1)
    assert (report.new, report.known) == (1, 1)
    assert len(table.networks) == 2


def test_a_profile_skips_what_cannot_be_run(tmp_path: Path) -> None:
    table = LatencyTable(Target.parse("torch:cpu", threads=1), tmp_path)
    subjects = [Subject("broken", SIZE, Unrunnable), Subject("wide", SIZE, partial(Wide, 8))]
    for new, known in ((1, 0), (0, 1)):
        report = profile(table, subjects, workers=1, seconds=0.1, again=0)
        assert (report.new, report.known, report.left) == (new, known, 0)
        assert report.failed == (("broken at 64x80", "skipped, it cannot be run: RuntimeError: cannot run here"),)
    assert [network.label for network in table.networks] == ["wide"]


def test_what_fails_when_profiled_again_stays_as_it_was(
    tmp_path: Path, wide: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of three is disturbed, and cannot be observed at the second try; at the third it can."""
    tries: list[str] = []

    def observe(target: Target, prepared: Path, seconds: float, build: Callable[[], nn.Module]) -> Observation:
        tries.append(prepared.name)
        if len(tries) == 4:
            raise CatchweightError("gone")
        return replace(wide, disturbed=len(tries) == 3)

    monkeypatch.setattr(profiling, "observe_prepared", observe)
    monkeypatch.setattr(profiling, "learn_pace", lambda *_: None)
    subjects = [Subject(f"wide {width}", SIZE, partial(Wide, width)) for width in (4, 8, 12)]
    table = LatencyTable(CPU, tmp_path / "once")
    report = profile(table, subjects, workers=1, keep=tmp_path, again=1)
    assert (report.new, report.left, report.disturbed) == (3, 0, 1)
    assert report.failed == (("wide 12 at 64x80", "skipped, gone"),)
    assert len(table.networks) == 3
    tries.clear()
    report = profile(LatencyTable(CPU, tmp_path / "twice"), subjects, workers=1, keep=tmp_path, again=2)
    assert (report.new, report.failed, report.disturbed) == (3, (), 0)


def test_no_network_is_begun_after_the_time(tmp_path: Path) -> None:
    report = profile(LatencyTable(CPU, tmp_path), [Subject("wide", SIZE, Wide)], minutes=0.0, workers=1)
    assert (report.new, report.left) == (0, 1)


def test_out_of_time_it_still_learns_what_a_prediction_needs(tmp_path: Path) -> None:
    subjects = [Subject(f"wide {n}", SIZE, partial(Wide, n)) for n in (4, 8, 12, 16)]
    table = LatencyTable(CPU, tmp_path)
    report = profile(table, subjects, minutes=0.0, least=2, seconds=0.1, workers=1)  # two at a time
    assert (report.new, report.left, len(table.networks)) == (2, 2, 2)


def test_disturbed_networks_are_profiled_again_and_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third observation is said to be disturbed, each of a network once."""
    seen: list[str] = []

    def observe(target: Target, prepared: Path, seconds: float, build: Callable[[], nn.Module]) -> Observation:
        seen.append(prepared.name)
        found = real(target, prepared, seconds, build)
        first = seen.count(prepared.name) == 1
        return replace(found, disturbed=first and len(set(seen)) == 3)

    real = profiling.observe_prepared
    monkeypatch.setattr(profiling, "observe_prepared", observe)
    table = LatencyTable(CPU, tmp_path)
    subjects = [Subject(f"wide {width}", SIZE, partial(Wide, width)) for width in (8, 16, 24)]
    report = profile(table, subjects, workers=1, seconds=0.1, again=0)
    assert (report.new, report.disturbed) == (3, 1)
    assert [network.label for network in table.networks if network.disturbed] == ["wide 24"]
    assert table.trusted == table.networks, "three networks are too few to leave one out"
    monkeypatch.setattr("catchweight.targets.latency.table._TRUSTED", 2)
    assert [network.label for network in table.trusted] == ["wide 16", "wide 8"]
    report = profile(table, subjects, workers=1, seconds=0.1)
    assert (report.new, report.known, report.disturbed) == (0, 3, 0)
    assert len(seen) == 4
    assert len(table.trusted) == 3
