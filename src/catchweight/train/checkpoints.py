"""The full state of a training, stored so that it goes on exactly where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import Precision
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data import SegmentationData
from ..errors import CatchweightError, DivergedError, StorageError
from ..nets import SegmentationNet
from ..nets.tensor_file import write_tensors
from .ema import Ema
from .recipes import Recipe

# What may differ between the calls of one training: it changes how fast, not what.
FREE = ("recipe.workers", "recipe.checkpoint_every_s", "recipe.tensorboard", "recipe.accelerator")


@dataclass
class Progress:
    """How far a training is; plain values only."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimiser steps done in the epoch under way."""
    loss_total: float = 0.0
    loss_count: int = 0
    wait_s: float = 0.0
    """Seconds of this epoch spent waiting for data."""
    epoch_s: float = 0.0
    """Seconds of this epoch spent training."""
    seconds: float = 0.0
    """Seconds of the whole training, over all calls."""
    best_score: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def begin_epoch(self) -> None:
        """Forget what belongs to the epoch that ended."""
        self.step, self.loss_total, self.loss_count, self.wait_s, self.epoch_s = 0, 0.0, 0, 0.0, 0.0


class Checkpoint:
    """``last.pt`` of one training: network, average, optimiser and progress, tied to one recipe and network.

    ``precision`` is Fabric's, which scales the loss under 16-mixed by a factor that it adapts.
    """

    def __init__(self, path: Path, identity: dict[str, Any], precision: Precision) -> None:
        self.path = path
        self.identity = identity
        self.precision = precision

    def save(
        self, net: nn.Module, ema: Ema, optimizer: Optimizer, progress: Progress, beside: Mapping[str, Tensor]
    ) -> None:
        """Replace the file in one step; ``beside`` is what else is trained, such as adapters.

        Raises:
            CatchweightError: disk full or folder read-only, or a weight is not finite; the old file stays.
        """
        _require_finite(
            [*net.parameters(), *(value for value in beside.values() if value.is_floating_point())], progress
        )
        ema.copy_counters()
        state = {
            "identity": self.identity,
            "net": net.state_dict(),
            "ema": ema.net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "beside": {name: value.detach() for name, value in beside.items()},
            "progress": dict(vars(progress)),
        }
        save_state(self.path, state)

    def restore(self, net: nn.Module, ema: Ema, optimizer: Optimizer, beside: Mapping[str, Tensor]) -> Progress:
        """Bring everything back, or leave it alone and start at the beginning when there is no file.

        Raises:
            CatchweightError: the file is unreadable, or was made by another recipe, network or data set.
        """
        if not self.path.exists():
            return Progress()
        state = load_state(self.path)
        self._require_same(state.get("identity", {}))
        net.load_state_dict(state["net"])
        ema.net.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        if state.get("precision"):  # absent in files of earlier versions, empty where nothing is scaled
            self.precision.load_state_dict(state["precision"])
        with torch.no_grad():
            for name, value in beside.items():
                value.copy_(state["beside"][name])
        return Progress(**state["progress"])

    def _require_same(self, stored: dict[str, Any]) -> None:
        mine, theirs = _flat(self.identity), _flat(stored)
        differing = [
            f"{key} (stored {theirs.get(key)!r}, now {mine.get(key)!r})"
            for key in sorted(mine.keys() | theirs.keys())
            if key not in FREE and mine.get(key) != theirs.get(key)
        ]
        if differing:
            raise CatchweightError(
                f"{self.path} belongs to another training; differing: {'; '.join(differing)}. "
                "Choose another folder, or delete this one to start again"
            )


def identity(
    net: SegmentationNet,
    data: SegmentationData,
    recipe: Recipe,
    split: tuple[str, str],
    processes: int,
    objective: dict[str, Any],
) -> dict[str, Any]:
    """What a training is of: plain values that must agree when it goes on."""
    return {
        "processes": processes,
        "network": net.spec.to_json(),
        "objective": objective,
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "classes": list(data.classes.names),
            "train": f"{split[0]}: {len(data.splits[split[0]])} images",
            "val": f"{split[1]}: {len(data.splits[split[1]])} images",
        },
    }


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Plain tensors and values, in one step; errors as of :func:`.write_tensors`."""
    write_tensors(path, state)


def load_state(path: Path) -> dict[str, Any]:
    """Read plain tensors and values (never code).

    Raises:
        StorageError: not a checkpoint, or cut off.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StorageError(
            f"cannot read the checkpoint {path}: {str(error).splitlines()[0]}. Delete it to start again"
        ) from error


def all_finite(weights: Sequence[Tensor]) -> bool:
    """Whether no value of theirs is infinite or NaN; they are on one device."""
    norms = torch._foreach_norm([weight.detach() for weight in weights])
    return bool(torch.isfinite(torch.stack(norms)).all())


def _require_finite(weights: Sequence[Tensor], progress: Progress) -> None:
    if not all_finite(weights):
        raise DivergedError(
            f"weights became infinite or NaN in epoch {progress.epoch + 1}, step {progress.step}. The last good "
            "checkpoint is kept: train with a lower lr or with clip=1 in a fresh folder"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as ``{"recipe.loss.ce": 1.0}``; tuples and lists alike."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(inner) if isinstance(inner, tuple) else inner
    return flat
