"""Eager PyTorch on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..errors import UsageError
from .graph import evaluating
from .target import Target


class TorchSession:
    """The network as it is, called in evaluation mode without gradients, in channels-last layout."""

    def __init__(self, net: nn.Module, threads: int, batch: int, size: tuple[int, int]) -> None:
        self.net, self.threads, self.batch = net, threads, batch
        self.runtime = f"torch {torch.__version__} cpu"
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(batch, 3, *size, generator=generator)
        self._image = image.contiguous(memory_format=torch.channels_last)

    def run(self) -> None:
        self.net(self._image)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """torch's threads are a setting of the whole process: set for this session's turn, then put back."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with evaluating(self.net), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads)


class TorchCpu(Target):
    """Eager torch: what a network costs before any runtime has worked on it."""

    name = "torch:cpu"

    @staticmethod
    def missing() -> str | None:
        return None  # torch is among the package's own requirements

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> TorchSession:
        if isinstance(network, (str, Path)):
            raise UsageError(f"{self} runs networks, not files: {network} can be measured on onnxruntime:cpu")
        if size is None:
            raise UsageError(f"{self}: give the size (H, W) to run {type(network).__name__} at")
        return TorchSession(network, self.threads, self.batch, size)
