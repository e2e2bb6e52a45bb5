"""Affinity, the machine's condition, the reference kernel, energy: read where it can be, said where not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_measure import Sleeper

from catchweight.errors import UsageError
from catchweight.targets import Target, interleaved
from catchweight.targets.clock import conditions as room
from catchweight.targets.clock import reference as kernels
from catchweight.targets.clock.affinity import allowed_cpus, pinned
from catchweight.targets.clock.conditions import Conditions, clock_notes
from catchweight.targets.clock.energy import POWERCAP, Energy, RaplMeter, metered, session_energy
from catchweight.targets.clock.pace import UsualPace
from catchweight.targets.clock.reference import handover_graph, reference_graph, references

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins threads")


@linux
def test_every_thread_is_pinned_and_restored() -> None:
    before, core = os.sched_getaffinity(0), min(allowed_cpus())
    seen: list[set[int]] = []
    go, end = threading.Event(), threading.Event()

    def old() -> None:
        go.wait()
        seen.append(os.sched_getaffinity(0))
        end.wait()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=old)
    thread.start()
    with pinned([core]):
        assert os.sched_getaffinity(0) == {core}
        go.set()
        while not seen:
            pass
    end.set()
    thread.join()
    assert seen == [{core}, before]
    assert os.sched_getaffinity(0) == before


@linux
def test_pinning_survives_errors_and_refuses_foreign_cores() -> None:
    before, core = os.sched_getaffinity(0), min(allowed_cpus())
    with pytest.raises(RuntimeError), pinned([core]):
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    for cpus in ([10_000], []):
        with pytest.raises(UsageError, match="cannot pin"), pinned(cpus):
            pass
    with pinned(None):
        assert os.sched_getaffinity(0) == before


@linux
def test_a_pinned_measurement_says_so() -> None:
    core = min(allowed_cpus())
    (one,) = interleaved([Sleeper(1)], seconds=0.02, cpus=[core])
    assert f"pinned to cores [{core}]" in one.conditions
    assert one.to_json()["conditions"] == list(one.conditions)


def test_the_reference_takes_turns_but_is_not_returned() -> None:
    with_it = interleaved([Sleeper(1), Sleeper(2)], seconds=0.1)
    assert len(with_it) == 2
    for one in with_it:
        assert one.reference_ms is not None
        assert one.relative is not None
        assert one.relative > 0
    (alone,) = interleaved([Sleeper(1)], seconds=0.02, reference=False)
    assert alone.reference_ms is None
    assert alone.relative is None


def test_the_reference_is_the_same_work_everywhere() -> None:
    assert reference_graph().SerializeToString() == reference_graph().SerializeToString()
    assert handover_graph().SerializeToString() == handover_graph().SerializeToString()
    assert references("cpu", 2) is references("cpu", 2)
    assert len(references("cpu", 1)) == 1  # a single thread hands nothing over
    for kernel in references("cpu", 2):
        kernel.run()
        out = kernel._binding.get_outputs()[0].numpy()
        assert np.isfinite(out).all()
        assert 1e-6 < out.std() < 1e3, "no denormals, which would be slow for a reason of their own"


def test_each_gpu_has_a_kernel_and_a_pace_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs beside one processor; their matrices stay on the processor, for nothing is run."""
    gpus, current = ["NVIDIA Small", "NVIDIA Large"], 0
    monkeypatch.setattr(kernels, "_kernels", functools.cache(kernels._kernels.__wrapped__))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpus[current])
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    (small,) = references("cuda", 2)
    UsualPace(small.runtime, "processor", 2, tmp_path).learn([8.0] * 12)
    current = 1
    (large,) = references("cuda", 2)
    assert UsualPace(large.runtime, "processor", 2, tmp_path).usual([1.0] * 12) == 1.0
    current = 0
    assert references("cuda", 2) == (small,)
    assert UsualPace(small.runtime, "processor", 2, tmp_path).known == 1


def _cores(busy: float, idle: float, steal: float = 0.0) -> list[SimpleNamespace]:
    class Times(tuple):
        pass

    times = Times((busy, idle, steal))
    times.idle, times.steal = idle, steal  # type: ignore[attr-defined]
    return [times]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("busy", "own", "steal", "expected"),
    [(10.0, 9.9, 0.0, ""), (10.0, 5.0, 0.0, "other processes"), (5.0, 5.0, 3.0, "hypervisor")],
)
def test_what_others_took_is_told(monkeypatch: pytest.MonkeyPatch, busy, own, steal, expected) -> None:
    """On one core in ten seconds: the machine's counters are given, the reading of them is ours."""
    monkeypatch.setattr(room, "allowed_cpus", lambda: {0})
    monkeypatch.setattr(room.psutil, "cpu_times", lambda percpu: _cores(busy, 10 - busy - steal, steal))
    monkeypatch.setattr(room.time, "monotonic", lambda: 10.0)
    monkeypatch.setattr(room.time, "process_time", lambda: own)
    notes = Conditions(wall=0.0, own=0.0, busy=0.0, stolen=0.0, throttled=None).since(threads=1)
    assert [expected in note for note in notes] == ([True] if expected else [])


def test_free_cores_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "allowed_cpus", lambda: {0, 1})
    monkeypatch.setattr(room.psutil, "cpu_times", lambda percpu: _cores(10, 0) + _cores(10, 0))
    monkeypatch.setattr(room.time, "monotonic", lambda: 10.0)
    monkeypatch.setattr(room.time, "process_time", lambda: 10.0)
    start = Conditions(wall=0.0, own=0.0, busy=0.0, stolen=0.0, throttled=None)
    assert start.since(threads=1) == ()
    assert "other processes kept 1.0 of 2 cores busy" in start.since(threads=2)[0]


def test_a_loaded_machine_raises_the_flag() -> None:
    """Two busy processes for each core, for real."""
    command = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(command) for _ in range(2 * len(allowed_cpus()))]
    try:
        session = Target.parse("onnxruntime:cpu", threads=len(allowed_cpus()))
        kernel, *_ = references("cpu", session.threads)
        (one,) = interleaved([kernel], seconds=1.5, min_runs=10_000)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert one.noisy
    assert one.disturbed
    assert any("other processes" in note for note in one.notes)


def test_clock_notes_come_from_sysfs(tmp_path: Path) -> None:
    assert clock_notes(tmp_path) == ()
    for cpu, frequency in ((0, 2_400_000), (1, 3_100_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("powersave\n")
        (folder / "scaling_cur_freq").write_text(f"{frequency}\n")
    assert clock_notes(tmp_path) == ("governor powersave", "clock 2400 to 3100 MHz")


@pytest.mark.parametrize("folder", ["sys/fs/cgroup", "sys/fs/cgroup/cpu"])
def test_throttling_is_read_from_either_kind_of_control_group(tmp_path: Path, folder: str) -> None:
    assert room._throttled_periods(tmp_path) is None
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "cpu.stat").write_text("nr_periods 9\nnr_throttled 4\nthrottled_time 12\n")
    assert room._throttled_periods(tmp_path) == 4


def _zone(root: Path, number: str, name: str, microjoules: int, limit: int = 9_999_999) -> Path:
    zone = root / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text(f"{limit}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


def test_rapl_adds_packages_and_undoes_a_wrap(tmp_path: Path) -> None:
    first, second = _zone(tmp_path, "0", "package-0", 9_000_000), _zone(tmp_path, "1", "package-1", 1_000_000)
    # What would be counted twice: the cores inside a package, and the platform around all of them.
    core, platform = _zone(tmp_path, "0:0", "core", 0), _zone(tmp_path, "2", "psys", 0)
    assert RaplMeter.missing(tmp_path) is None
    meter = RaplMeter(tmp_path)
    assert meter.name == "RAPL, 2 packages"
    first.write_text("2000000")
    second.write_text("1500000")
    core.write_text("2000000")
    platform.write_text("4000000")
    assert meter.read() == pytest.approx(3.0 + 0.5)
    second.write_text("2500000")
    assert meter.read() == pytest.approx(4.5)


def test_a_package_that_cannot_be_read_is_missed_whatever_else_can(tmp_path: Path) -> None:
    _zone(tmp_path, "0", "psys", 0)
    assert "no RAPL counters of packages" in (RaplMeter.missing(tmp_path) or "")
    _zone(tmp_path, "1", "package-0", 0).unlink()
    assert "cannot be read" in (RaplMeter.missing(tmp_path) or "")


def test_energy_is_the_meter_over_the_runs() -> None:
    joules = 0.0

    def run() -> None:
        nonlocal joules
        joules += 0.25

    energy = metered(run, lambda: joules, "test", seconds=0.01)
    assert energy.joules == pytest.approx(0.25)
    assert energy.runs >= 1
    assert "J per batch" in str(energy)


@pytest.mark.skipif(POWERCAP.exists() or RaplMeter.missing() is None, reason="there are RAPL counters here")
def test_without_a_meter_energy_says_why(tmp_path: Path) -> None:
    energy = session_energy(Sleeper(1), "cpu", 0.01)
    assert energy == Energy(None, None, 0, energy.source)
    assert str(energy).startswith("not available here: no RAPL counters")
    assert str(session_energy(Sleeper(1), "cuda", 0.01)).startswith("not available here: ")
