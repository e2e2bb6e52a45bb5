"""What runtimes that read ONNX files have in common: export, quantise, open, and measure memory."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from ...budget import Cost
from ...errors import CatchweightError, UsageError
from ..clock.rounds import Session
from ..target import Target
from ..tracing.graph import fixed_input, to_onnx
from .quantized import is_quantized, quantize_for_latency


class FileTarget(Target):
    """A network is exported once, at the precision int8 quantised, and then it is a file like any other."""

    converted = ("int8",)

    @abstractmethod
    def open(self, path: Path, size: tuple[int, int] | None) -> Session:
        """Load a file as it is, with its input in place; the errors of :meth:`prepare`."""

    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> Session:
        with self.written(network, size or self.size) as path:
            return self.open(path, size or self.size)

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
        with self.written(exported or net, size) as path:
            cost = self._counted(self.open(path, size), net, size, seconds, energy)
            memory_bytes = self.file_memory(path, size) if memory else None
            return replace(cost, file_bytes=path.stat().st_size, memory_bytes=memory_bytes)

    def peak_memory(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> int | None:
        with self.written(network, size or self.size) as path:
            return self.file_memory(path, size or self.size)

    def file_memory(self, path: Path, size: tuple[int, int] | None) -> int | None:
        """:meth:`peak_memory` of a file as it is."""
        return None

    @contextmanager
    def written(self, network: nn.Module | Path, size: tuple[int, int] | None) -> Iterator[Path]:
        """The file that will be opened; what had to be written for it is gone afterwards.

        Raises:
            CatchweightError: the network cannot be exported or quantised.
            UsageError: no size to export for.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = self._exported(network, size, Path(folder))
            if self.precision == "int8" and not is_quantized(path):
                if size is None and fixed_input(path)[1] is None:
                    raise UsageError(f"{path} takes any size: give the size (H, W) to measure at")
                path = quantize_for_latency(path, Path(folder) / "int8.onnx", self.batch, size)
            yield path

    def _exported(self, network: nn.Module | Path, size: tuple[int, int] | None, folder: Path) -> Path:
        if isinstance(network, (str, Path)):
            return Path(network)
        if size is None:
            raise UsageError(f"{self}: give the size (H, W) to export {type(network).__name__} for")
        return to_onnx(network, folder / "network.onnx", size, self.batch)


def run_shape(
    path: Path, has: Sequence[int | None], batch: int, size: tuple[int, int] | None
) -> tuple[int, int, int, int]:
    """The shape to run with: what the file fixes (``has``, None for a free axis), and what was asked where it is free.

    Raises:
        UsageError: the file is for another batch or size, or takes any and none was named.
    """
    wanted = (batch, 3, *(size or (None, None)))
    for axis, (fixed, want) in enumerate(zip(has, wanted, strict=True)):
        if fixed is not None and want is not None and fixed != want:
            raise UsageError(f"{path} is for input {tuple(has)}, but {wanted} was asked: export it again")
        if fixed is None and want is None:
            raise UsageError(f"{path} takes any size (axis {axis} is free): give the size (H, W) to measure at")
    n, c, h, w = (want if fixed is None else fixed for fixed, want in zip(has, wanted, strict=True))
    assert n is not None and c is not None and h is not None and w is not None, "checked above"  # noqa: PT018
    return n, c, h, w


def not_an_image(path: Path, found: str) -> CatchweightError:
    """The error for a file whose input is not one batch of float images."""
    return CatchweightError(f"{path}: expected one float image input (B, 3, H, W), but it has {found}")
