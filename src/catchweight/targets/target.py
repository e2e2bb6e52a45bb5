"""Where cost is counted: a runtime on a device, with a number of threads and a batch."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
from torch import nn

from ..budget import Cost
from ..errors import UsageError
from .counts import count_macs, count_params
from .measure import Measurement, Session, interleaved

DEFAULT = "onnxruntime:cpu"


@dataclass(frozen=True)
class Target(ABC):
    """Asks a runtime what a network costs. A new runtime is a subclass in its own file and a line in ``RUNTIMES``.

    Args:
        threads: worker threads inside an operator.
        batch: images per run; latency is that of the whole batch.
    """

    threads: int
    batch: int = 1

    name: ClassVar[str]

    @staticmethod
    def parse(text: str = DEFAULT, threads: int | None = None, batch: int = 1) -> Target:
        """Read ``runtime:device``, e.g. ``onnxruntime:cpu``; threads default to this process's physical cores.

        Raises:
            UsageError: unknown, or not available here; says what is.
        """
        from . import RUNTIMES  # here: the table's entries are subclasses of this class

        kind = RUNTIMES.get(text.strip().lower())
        if kind is None or kind.missing():
            known = [name for name, runtime in RUNTIMES.items() if not runtime.missing()]
            trouble = "is unknown" if kind is None else f"is not available here ({kind.missing()})"
            raise UsageError(f'target "{text}" {trouble}. Available here: {", ".join(known)}')
        count = default_threads() if threads is None else threads
        if count < 1 or batch < 1:
            raise UsageError(f"target {text} needs 1 or more threads and images, but got {count} and {batch}")
        return kind(count, batch)

    @staticmethod
    @abstractmethod
    def missing() -> str | None:
        """What keeps this target from working here, or None when it works."""

    @abstractmethod
    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> Session:
        """Load a network, in evaluation mode, with its input (B, 3, H, W) already in place.

        Args:
            network: a network, or the path of an exported file where the runtime reads files.
            size: (H, W); needed unless the file fixes it.

        Raises:
            CatchweightError: the file or network cannot be loaded.
            UsageError: the size is missing or contradicts the file's.
        """

    @abstractmethod
    def version(self) -> str:
        """Name and version of the runtime."""

    def measure(
        self, network: nn.Module | Path, size: tuple[int, int] | None = None, seconds: float = 5.0
    ) -> Measurement:
        """Latency of one batch; the errors of :meth:`prepare`."""
        return interleaved([self.prepare(network, size)], seconds)[0]

    def cost(self, net: nn.Module, size: tuple[int, int], exported: Path | None = None, seconds: float = 5.0) -> Cost:
        """Measured latency and counted size of a network at (H, W); ``exported`` spares a second export."""
        measured = self.measure(exported or net, size, seconds)
        return Cost(
            latency_ms=measured.median_ms,
            macs=count_macs(net, size),
            params=count_params(net),
            file_bytes=exported.stat().st_size if exported else None,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What a measurement holds for: processor, cores, runtime version, threads. No name of the machine."""
        return {
            "target": self.name,
            "runtime": self.version(),
            "threads": self.threads,
            "processor": processor_name(),
            "cores": os.cpu_count() or 1,
            "machine": platform.machine(),
            "system": platform.system(),
        }

    def __str__(self) -> str:
        return self.name


def default_threads() -> int:
    """Physical cores this process may use (hyper-threads share the units that convolutions keep busy)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def processor_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
