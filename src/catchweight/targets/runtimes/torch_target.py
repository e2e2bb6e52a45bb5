"""Eager PyTorch, on the processor and on an NVIDIA GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from ...errors import CatchweightError, UsageError
from ..clock.memory import module_memory
from ..clock.rounds import Session
from ..target import Target
from ..tracing.graph import evaluating

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchSession:
    """The network as it is, called in evaluation mode without gradients, in channels-last layout."""

    device = "cpu"

    def __init__(
        self, net: nn.Module, threads: int, batch: int, size: tuple[int, int], precision: str = "fp32"
    ) -> None:
        self.net, self.threads, self.batch = converted(net, precision, self.device), threads, batch
        self.runtime = f"torch {torch.__version__} {self.device}"
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(batch, 3, *size, generator=generator)
        self.image = image.to(self.device, DTYPES[precision]).contiguous(memory_format=torch.channels_last)
        self.call: Callable[[torch.Tensor], object] = self.net

    def run(self) -> None:
        self.call(self.image)

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


class CudaSession(TorchSession):
    """A copy of the network on the GPU, timed by events on its stream: launches included, copies to the host not."""

    device = "cuda"

    def run(self) -> None:
        self.call(self.image)
        torch.cuda.synchronize()

    def timed_run(self) -> float:
        """Seconds between an event before the first kernel and one after the last."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self.call(self.image)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


class TorchCpu(Target):
    """Eager torch: what a network costs before any runtime has worked on it.

    ``bf16`` and ``fp16`` are weights, activations and input in that type, not autocast.
    """

    name = "torch:cpu"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    reads_files = False
    session: ClassVar[type[TorchSession]] = TorchSession

    @staticmethod
    def missing() -> str | None:
        return None  # torch is among the package's own requirements

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> Session:
        net, size = self._module(network, size or self.size)
        session = self.session(net, self.threads, self.batch, size, self.precision)
        if self.precision != "fp32":
            _try(self, session)
        return session

    def peak_memory(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> int | None:
        """Weights, activations, input and output together, of the network as torch.export traces it."""
        net, size = self._module(network, size or self.size)
        return module_memory(converted(net, self.precision, "cpu"), size, self.batch, self.threads).total_bytes

    def _module(self, network: nn.Module | Path, size: tuple[int, int] | None) -> tuple[nn.Module, tuple[int, int]]:
        if isinstance(network, (str, Path)):
            raise UsageError(f"{self} runs networks, not files: {network} can be measured on onnxruntime:{self.device}")
        if size is None:
            raise UsageError(f"{self}: give the size (H, W) to run {type(network).__name__} at")
        return network, size


class TorchCuda(TorchCpu):
    """Eager torch on the current GPU, channels-last; ``fp16`` halves weights and input, it is not autocast."""

    name = "torch:cuda"
    precisions = ("fp32", "fp16", "bf16")
    session = CudaSession

    @staticmethod
    def missing() -> str | None:
        return no_gpu()

    def version(self) -> str:
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"

    def peak_memory(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> int | None:
        """The allocator's own peak: weights, activations, input and output; in this process, for nothing else."""
        net, size = self._module(network, size or self.size)
        before = torch.cuda.memory_allocated()
        session = self.session(net, self.threads, self.batch, size, self.precision)
        with session.ready():
            session.run()  # libraries take their workspaces with the first run
            torch.cuda.reset_peak_memory_stats()
            session.run()
        return torch.cuda.max_memory_allocated() - before


def converted(net: nn.Module, precision: str, device: str) -> nn.Module:
    """``net`` itself where it already is what is asked, else a copy in that type, on that device, channels-last."""
    if precision == "fp32" and device == "cpu":
        return net
    moved = copy.deepcopy(net).to(device=device, dtype=DTYPES[precision])
    return moved.to(memory_format=torch.channels_last)


def no_gpu() -> str | None:
    """Why there is no NVIDIA GPU for torch, or None."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    return None if torch.cuda.is_available() else "no NVIDIA GPU is visible to torch"


def _try(target: Target, session: Session) -> None:
    try:
        with session.ready():
            session.run()
    except Exception as error:  # whatever the network's own code raises in another precision
        reason = str(error).strip().splitlines()[:1]
        raise CatchweightError(f"{target}: the network cannot run in {target.precision} ({''.join(reason)})") from error
