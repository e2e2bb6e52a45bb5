"""Observing eager networks, operator by operator, on the processor; a GPU only changes the clock."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from catchweight.errors import CatchweightError
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.targets.latency.observe import observe, observe_prepared, prepare
from catchweight.targets.latency.observers import NOWHERE, OBSERVERS
from catchweight.targets.latency.observers.eager import Marks, marked
from catchweight.targets.latency.profile import Subject, profile
from catchweight.targets.latency.table import LatencyTable
from catchweight.targets.tracing.trace import trace

SIZE = (64, 80)
EAGER = Target.parse("torch:cpu", threads=1)


class Wide(nn.Module):
    """One convolution that costs far more than the two around it."""

    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.heavy = nn.Conv2d(channels, channels, 5, padding=2)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.heavy(self.stem(x).relu())).relu_())


def test_times_go_to_the_blocks_they_belong_to() -> None:
    seen = observe(EAGER, Wide(), SIZE, seconds=0.2)
    spent = {row.module: row.ms for row in seen.rows}
    assert list(spent) == ["stem", "heavy", "head"]
    assert spent["heavy"] > 5 * max(spent["stem"], spent["head"])
    assert seen.rest_ms < 0.05 * seen.sum_ms
    assert seen.whole.median_ms > 0


@pytest.mark.parametrize("name", ["eseg_lite_s:levels=2-6,repeats=1", "ffnet_22s_bcc_mobile", "timm/resnet18+bifpn"])
def test_marks_change_nothing_that_is_computed(name: str) -> None:
    net = build_network(name, 5, width=0.5).eval()
    image = torch.randn(1, 3, *SIZE)
    graph, names = marked(trace(net, SIZE).program, "cpu")
    with torch.inference_mode():
        assert torch.equal(graph.eval()(image), net(image))
    marks = graph.get_submodule("catchweight_marks")
    assert isinstance(marks, Marks)
    intervals = marks.intervals()
    assert len(intervals) == len(names)
    assert min(intervals) > 0


def test_every_block_of_a_whole_network_gets_its_time() -> None:
    seen = observe(EAGER, build_network("eseg_lite_s:levels=2-6,repeats=1", 5, width=0.5), SIZE, seconds=0.2)
    assert all(row.ms > 0 for row in seen.rows)
    # Fusion weights are computed anew at every run, for the sum that reads them.
    assert seen.rest_ms < 0.02 * seen.sum_ms


def test_half_precision_is_told_in_the_signatures(tmp_path: Path) -> None:
    target = Target.parse("torch:cpu:bf16", threads=1)
    prepare(Wide(8), SIZE, target, tmp_path)
    seen = observe_prepared(target, tmp_path, 0.05, partial(Wide, 8))
    assert {row.signature.precision for row in seen.rows} == {"bf16"}
    assert seen.kernels >= 5


def test_the_network_itself_is_needed(tmp_path: Path) -> None:
    prepare(Wide(8), SIZE, EAGER, tmp_path)
    with pytest.raises(CatchweightError, match="torch:cpu runs networks, not files"):
        observe_prepared(EAGER, tmp_path, 0.05)


def test_a_profile_of_eager_networks_fills_a_table(tmp_path: Path) -> None:
    table = LatencyTable(EAGER, tmp_path)
    report = profile(table, [Subject("wide", SIZE, partial(Wide, 16))], seconds=0.05, again=0)
    assert (report.new, report.failed) == (1, ())
    (network,) = table.networks
    assert len(network.signatures) == 3


def test_operators_outside_the_trace_belong_nowhere(tmp_path: Path) -> None:
    prepare(Wide(8), SIZE, EAGER, tmp_path)
    seen = OBSERVERS["torch:cpu"].kernels(EAGER, tmp_path, SIZE, {})
    assert {place for place, _ in seen.times} == {NOWHERE}
