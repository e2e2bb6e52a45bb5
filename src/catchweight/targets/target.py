"""Where cost is counted: a runtime on a device, a precision, a number of threads, a batch."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
from torch import nn

from ..budget import Cost
from ..errors import UsageError, unknown
from .clock.energy import Energy, session_energy
from .clock.measure import Measurement, interleaved
from .clock.processor import processor_name
from .clock.rounds import Session
from .counts import count_macs, count_params

DEFAULT = "onnxruntime:cpu"


@dataclass(frozen=True)
class Target(ABC):
    """Asks a runtime what a network costs. A new runtime is a subclass in its own file and a line in ``RUNTIMES``.

    Written ``runtime:device`` or ``runtime:device:precision``; ``str`` gives what :meth:`parse` reads.

    Args:
        threads: worker threads inside an operator.
        batch: images per run; latency is that of the whole batch.
        precision: one of the class's ``precisions``; the first is the default and left out of the name.
        size: (H, W) of the input where a call names none.
    """

    threads: int
    batch: int = 1
    precision: str = "fp32"
    size: tuple[int, int] | None = None

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    converted: ClassVar[tuple[str, ...]] = ()
    """Precisions for which an exported file is converted first, so that it is a copy that runs and not the file."""
    reads_files: ClassVar[bool] = True
    """Whether it runs exported files; otherwise networks alone."""

    @staticmethod
    def parse(
        text: str = DEFAULT, threads: int | None = None, batch: int = 1, size: tuple[int, int] | None = None
    ) -> Target:
        """Read ``runtime:device[:precision]``, e.g. ``onnxruntime:cpu:int8``; threads default to the physical cores.

        Raises:
            UsageError: unknown, or not available here; says what is missing and what is available.
        """
        from . import RUNTIMES  # here: the table's entries are subclasses of this class

        name, precision = _split(text)
        kind = RUNTIMES.get(name)
        here = ", ".join(full for full, missing in listing().items() if missing is None)
        if kind is None:
            raise UsageError(f"{unknown('target', text, listing())}. Available here: {here}")
        if precision and precision not in kind.precisions:
            raise UsageError(f'target "{text}": {unknown(f"precision of {name}", precision, kind.precisions)}')
        if missing := kind.missing():
            raise UsageError(f'target "{text}" is not available here ({missing}). Available here: {here}')
        count = default_threads() if threads is None else threads
        if count < 1 or batch < 1:
            raise UsageError(f"target {text} needs 1 or more threads and images, but got {count} and {batch}")
        return kind(count, batch, precision or kind.precisions[0], size)

    @property
    def runtime(self) -> str:
        """The first part of the name, e.g. ``onnxruntime``."""
        return self.name.split(":")[0]

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.name.split(":")[1]

    @staticmethod
    @abstractmethod
    def missing() -> str | None:
        """What keeps this target from working here, or None when it works."""

    @abstractmethod
    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> Session:
        """Load a network, in evaluation mode, with its input (B, 3, H, W) already in place.

        Args:
            network: a network, or the path of an exported file where the runtime reads files.
            size: (H, W); needed unless the file or the target fixes it.

        Raises:
            CatchweightError: the file or network cannot be loaded.
            UsageError: the size is missing or contradicts the file's.
        """

    @abstractmethod
    def version(self) -> str:
        """Name and version of the runtime."""

    def measure(
        self,
        network: nn.Module | Path | Session,
        size: tuple[int, int] | None = None,
        seconds: float = 5.0,
        cpus: Sequence[int] | None = None,
    ) -> Measurement:
        """Latency of one batch of a network, a file, or what :meth:`prepare` gave; the errors of :meth:`prepare`.

        ``cpus`` pins this process to these cores meanwhile.
        """
        session = self.prepare(network, size) if isinstance(network, (nn.Module, str, Path)) else network
        return interleaved([session], seconds, cpus=cpus)[0]

    def cost(
        self,
        net: nn.Module,
        size: tuple[int, int],
        exported: Path | None = None,
        seconds: float = 5.0,
        *,
        memory: bool = False,
        energy: bool = False,
    ) -> Cost:
        """Measured latency and counted size of a network at (H, W).

        Where other work disturbed the measurement, the latency is brought to the machine's usual pace by what the
        reference kernel took meanwhile: a search on a busy machine must not throw good networks away. What is
        promised is measured by :meth:`measure`, uncorrected.

        Args:
            exported: the network's file, which spares a second export.
            memory: also measure peak memory, in a process of its own (:meth:`peak_memory`).
            energy: also measure energy, for another ``seconds``; stays None where no meter can be read.
        """
        session = self.prepare(exported or net, size)
        cost = self._counted(session, net, size, seconds, energy)
        return replace(cost, memory_bytes=self.peak_memory(exported or net, size) if memory else None)

    def _counted(self, session: Session, net: nn.Module, size: tuple[int, int], seconds: float, energy: bool) -> Cost:
        """What a prepared session and its network tell: all but file and memory."""
        (measured,) = interleaved([session], seconds)
        return Cost(
            latency_ms=measured.told_ms,
            macs=count_macs(net, size),
            params=count_params(net),
            energy_j=self.energy(session, seconds).joules if energy else None,
        )

    def peak_memory(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> int | None:
        """Peak memory of inference in bytes, measured in a fresh process; None where that is not supported."""
        return None

    def energy(self, session: Session, seconds: float = 5.0) -> Energy:
        """Energy of one batch, running ``session`` over and over; says why not where no meter can be read."""
        return session_energy(session, self.device, seconds)

    def fingerprint(self) -> dict[str, Any]:
        """What a measurement holds for: processor, cores, runtime version, threads. No name of the machine."""
        return {
            "target": str(self),
            "runtime": self.version(),
            "threads": self.threads,
            "processor": processor_name(),
            "cores": os.cpu_count() or 1,
            "machine": platform.machine(),
            "system": platform.system(),
            **({"batch": self.batch} if self.batch > 1 else {}),
        }

    def __str__(self) -> str:
        return self.name if self.precision == self.precisions[0] else f"{self.name}:{self.precision}"


def listing() -> dict[str, str | None]:
    """Every target's full name, and what is missing for it here (None: nothing)."""
    from . import RUNTIMES

    return {
        name if precision == kind.precisions[0] else f"{name}:{precision}": kind.missing()
        for name, kind in RUNTIMES.items()
        for precision in kind.precisions
    }


def default_threads() -> int:
    """Physical cores this process may use (hyper-threads share the units that convolutions keep busy)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _split(text: str) -> tuple[str, str]:
    """``a:b:c`` to (``a:b``, ``c``); what is not written so stays whole, and is unknown."""
    parts = text.strip().lower().split(":")
    return (":".join(parts[:2]), parts[2]) if len(parts) == 3 else (":".join(parts), "")
