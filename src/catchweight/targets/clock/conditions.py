"""The machine's condition while something is measured: what others took, throttling, clock frequency."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .affinity import allowed_cpus

CONTENTION = 0.1
"""Share of the threads' time that other processes may take before a measurement counts as disturbed."""

_SHORTEST = 0.3  # seconds: the kernel accounts processor time in ticks of 10 ms
_CPU_STAT = ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat", "sys/fs/cgroup/cpu,cpuacct/cpu.stat")


@dataclass(frozen=True)
class Conditions:
    """Counters of the machine at one moment; :meth:`since` reads them again and tells what happened.

    Attributes:
        wall: seconds on the monotonic clock.
        own: processor seconds of this process.
        busy, stolen: processor seconds worked on, and taken by the hypervisor, over the cores allowed to us.
        throttled: periods in which a container's limit stopped it, or None where that cannot be read.
    """

    wall: float
    own: float
    busy: float
    stolen: float
    throttled: int | None

    @classmethod
    def now(cls) -> Conditions:
        cpus = psutil.cpu_times(percpu=True)
        cores = [cpus[index] for index in allowed_cpus() if index < len(cpus)]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
        stolen = sum(getattr(core, "steal", 0.0) for core in cores)
        total = sum(sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0) for core in cores)
        return cls(time.monotonic(), time.process_time(), total - idle - stolen, stolen, _throttled_periods())

    def since(self, threads: int) -> tuple[str, ...]:
        """What disturbed a measurement with ``threads`` threads from then until now, one sentence each.

        Other processes count only as far as the cores they used were not free anyway.
        """
        now = Conditions.now()
        wall, cores = now.wall - self.wall, len(allowed_cpus())
        notes = []
        if wall >= _SHORTEST:
            others = (now.busy - self.busy - (now.own - self.own)) / wall
            missing = min(max(others - max(cores - threads, 0), 0.0) / min(threads, cores), 1.0)
            if missing > CONTENTION:
                notes.append(f"other processes kept {others:.1f} of {cores} cores busy meanwhile")
            stolen = (now.stolen - self.stolen) / wall / cores
            if stolen > CONTENTION:
                notes.append(f"the hypervisor took {stolen:.0%} of the cores meanwhile")
        if now.throttled is not None and self.throttled is not None and now.throttled > self.throttled:
            notes.append(f"the container's limit stopped it in {now.throttled - self.throttled} periods meanwhile")
        return tuple(notes)


def clock_notes(root: Path = Path("/")) -> tuple[str, ...]:
    """Frequency governor and current frequency of the cores, where the system tells them (virtual machines do not)."""
    notes = []
    governors = {text for path in root.glob(_GOVERNORS) if (text := _read(path))}
    if governors:
        notes.append(f"governor {', '.join(sorted(governors))}")
    megahertz = [int(text) / 1000 for path in root.glob(_FREQUENCIES) if (text := _read(path)) and text.isdigit()]
    if megahertz:
        low, high = min(megahertz), max(megahertz)
        notes.append(f"clock {low:.0f} MHz" if low == high else f"clock {low:.0f} to {high:.0f} MHz")
    return tuple(notes)


_GOVERNORS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
_FREQUENCIES = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"


def _throttled_periods(root: Path = Path("/")) -> int | None:
    """``nr_throttled`` of the control group, version 2 or 1."""
    for name in _CPU_STAT:
        for line in _read(root / name).splitlines():
            if line.startswith("nr_throttled "):
                return int(line.split()[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
