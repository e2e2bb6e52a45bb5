"""Energy of inference, from the meters that the hardware has: RAPL (processor) and NVML (NVIDIA GPU)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .rounds import Session

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """Energy of one batch.

    Attributes:
        joules: per batch, whole package or board, idle power included; None where it cannot be measured.
        watts: mean power meanwhile.
        runs: batches it was averaged over.
        source: the meter, or why there is none.
    """

    joules: float | None
    watts: float | None
    runs: int
    source: str

    def __str__(self) -> str:
        if self.joules is None or self.watts is None:
            return f"not available here: {self.source}"
        return f"{self.joules:.3g} J per batch at {self.watts:.1f} W ({self.source}, {self.runs} runs)"


class RaplMeter:
    """Running average power limit counters of the processor packages (Linux powercap), in microjoules.

    The counters wrap at ``max_energy_range_uj``; a wrap between two readings is undone.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = _packages(root)
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last = [int(counter.read_text()) for counter, _ in self._zones]
        self._joules = 0.0
        self.name = f"RAPL, {len(zones)} package{'s' if len(zones) > 1 else ''}"

    def read(self) -> float:
        """Joules since the meter was made."""
        for index, (counter, limit) in enumerate(self._zones):
            value = int(counter.read_text())
            self._joules += (value - self._last[index]) % (limit + 1) / 1e6
            self._last[index] = value
        return self._joules

    @staticmethod
    def missing(root: Path = POWERCAP) -> str | None:
        """Why there are no counters, or None."""
        zones = _packages(root)
        if not zones:
            return f"no RAPL counters of packages under {root} (virtual machines seldom have them)"
        try:
            for zone in zones:
                (zone / "energy_uj").read_text()
        except OSError as error:
            return f"RAPL counters cannot be read ({error.strerror}): they belong to root since Linux 5.10"
        return None


def _packages(root: Path) -> list[Path]:
    """The zones of whole packages: not their parts, nor ``psys``, the platform in which they are counted already."""
    zones = (zone for zone in sorted(root.glob("intel-rapl:[0-9]*")) if (zone / "name").is_file())
    return [zone for zone in zones if (zone / "name").read_text().startswith("package")]


class NvmlMeter:
    """The total energy counter of the current GPU, through NVIDIA's management library; millijoules."""

    name = "NVML, GPU board"

    def __init__(self) -> None:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self._nvml, self._device = pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) / 1000

    @staticmethod
    def missing() -> str | None:
        """Why the counter cannot be read, or None."""
        try:
            NvmlMeter().read()
        except ImportError:
            return "package nvidia-ml-py is not installed"
        except Exception as error:  # pynvml and torch raise their own families where there is no driver
            return f"NVML gives no energy ({error})"
        return None


def session_energy(session: Session, device: str, seconds: float = 5.0) -> Energy:
    """Run a session over and over for ``seconds`` and divide the meter's joules by the runs.

    The meter counts the whole package or board, other processes' work included.
    """
    meters: dict[str, type[RaplMeter] | type[NvmlMeter]] = {"cpu": RaplMeter, "cuda": NvmlMeter}
    kind = meters[device]
    if missing := kind.missing():
        return Energy(None, None, 0, missing)
    meter = kind()
    with session.ready():
        session.run()
        return metered(session.run, meter.read, meter.name, seconds)


def metered(run: Callable[[], object], read: Callable[[], float], name: str, seconds: float) -> Energy:
    """Energy of one ``run``, by a meter that gives joules."""
    runs, start, before = 0, time.perf_counter(), read()
    while runs == 0 or time.perf_counter() - start < seconds:
        run()
        runs += 1
        if runs % 64 == 0:
            read()  # a counter must not wrap twice unseen
    joules, elapsed = read() - before, time.perf_counter() - start
    return Energy(joules / runs, joules / elapsed, runs, name)
