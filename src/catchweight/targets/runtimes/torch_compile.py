"""PyTorch compiled by Inductor: C++ on the processor, Triton on an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...errors import CatchweightError
from ..tracing.graph import evaluating
from .torch_target import CudaSession, TorchCpu, TorchCuda, TorchSession, no_gpu

_COMPILERS = ("g++", "clang++", "c++")


class CompiledSession(TorchSession):
    """The network's exported graph, compiled for exactly this input when the session is made.

    Exported first, because ``torch.compile`` caches by code and gives up on a class of which it has seen eight
    members; each exported graph has code of its own. Weights are frozen into it, norms are folded.
    """

    options: ClassVar[dict[str, Any]] = {"freezing": True}

    def __init__(
        self, net: nn.Module, threads: int, batch: int, size: tuple[int, int], precision: str = "fp32"
    ) -> None:
        super().__init__(net, threads, batch, size, precision)
        self.runtime = f"torch {torch.__version__} {self.device}, compiled"
        try:
            with evaluating(self.net):
                graph = torch.export.export(self.net, (self.image,)).module()
            self.call = torch.compile(graph, fullgraph=True, dynamic=False, options=self.options)
            with self.ready():
                self.run()
        except Exception as error:  # dynamo and inductor wrap whatever went wrong below them
            reason = [line for line in str(error).splitlines() if line.strip()][:1]
            raise CatchweightError(f"torch.compile cannot compile {type(net).__name__}: {''.join(reason)}") from error


class CompiledCudaSession(CompiledSession, CudaSession):
    """As above on the GPU, replayed as one CUDA graph so that launches cost nothing."""

    options = {"freezing": True, "triton.cudagraphs": True}


class TorchCompileCpu(TorchCpu):
    """Torch compiled to C++ for this processor; preparing a network takes seconds to a minute."""

    name = "torch-compile:cpu"
    session = CompiledSession

    @staticmethod
    def missing() -> str | None:
        named = os.environ.get("CXX")
        if any(shutil.which(compiler) for compiler in ([named] if named else _COMPILERS)):
            return None
        return f"no C++ compiler on the path ({named or ', '.join(_COMPILERS)}); Inductor needs one"

    def peak_memory(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> int | None:
        """Not measured: compiled code cannot be moved to another process."""
        return None


class TorchCompileCuda(TorchCuda):
    """Torch compiled to Triton kernels and replayed as a CUDA graph; ``fp16`` halves weights and input."""

    name = "torch-compile:cuda"
    session = CompiledCudaSession

    @staticmethod
    def missing() -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "package triton is not installed"
        return no_gpu()
