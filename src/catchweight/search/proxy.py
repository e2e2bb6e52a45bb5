"""Scoring what stands behind a fixed backbone: its features are computed once, only the rest is trained.

The proxy task of the search for dense prediction cells (Chen et al., NeurIPS 2018). What makes the features valid for
all candidates: the backbone and its norms are frozen, and images are not augmented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.loading import EvalBatch
from ..errors import CatchweightError
from ..files import written_aside
from ..quiet import give_way
from ..tasks.losses import cross_entropy, log_probabilities
from ..tasks.metrics import confusion_matrix, mean_iou

POWER = 0.9
"""Of the polynomial learning rate, as in all of DeepLab's trainings."""


@dataclass(frozen=True)
class Features:
    """One split as the backbone sees it.

    Attributes:
        maps: (N, C, h, w) float16.
        labels: (N, H, W) uint8, at the size at which loss and score are taken; on the same device.
    """

    maps: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def device(self) -> torch.device:
        """Where they lie, and what stands behind the backbone is trained."""
        return self.maps.device

    def to(self, device: str | torch.device) -> Features:
        """The same on another device."""
        return Features(self.maps.to(device), self.labels.to(device))

    def part(self, indices: Sequence[int]) -> Features:
        """Some of the images."""
        return Features(self.maps[list(indices)], self.labels[list(indices)])

    def permuted(self, seed: int = 0) -> Features:
        """Every image with the labels of another one: nothing is left to learn but where things usually are."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        partners = torch.empty_like(order)
        partners[order] = order.roll(1)
        return Features(self.maps, self.labels[partners])


def cached_features(
    file: Path,
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[EvalBatch],
    label_size: tuple[int, int],
    key: dict[str, Any],
) -> Features:
    """The features of a split from ``file``, or computed and stored there.

    Args:
        encode: uint8 images (B, 3, H, W) to maps (B, C, h, w).
        label_size: (H, W) of the stored labels; masks are sampled at the nearest pixel.
        key: what the features depend on (data, backbone, size...), JSON-able; a file of another key is replaced.
    """
    said = json.dumps(key, sort_keys=True)
    if file.exists() and (known := _read(file, said)) is not None:
        return known
    maps, labels = [], []
    with torch.no_grad():
        for batch in batches:
            give_way()
            maps.append(encode(batch.images).to(torch.float16).cpu())
            labels += [_nearest(mask, label_size) for mask in batch.masks]
    found = Features(torch.cat(maps), torch.stack(labels))
    if not bool(found.maps.isfinite().all()):
        raise CatchweightError("a backbone's features are beyond the range of float16: does it have trained weights?")
    with written_aside(file) as aside:
        save_file({"maps": found.maps, "labels": found.labels}, aside, {"key": said})
    return found


def _read(file: Path, key: str) -> Features | None:
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            return Features(stored.get_tensor("maps"), stored.get_tensor("labels"))
    except (SafetensorError, OSError) as error:
        raise CatchweightError(f"{file} cannot be read ({error}): remove it, it is computed again") from error


def _nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(torch.uint8)


@dataclass(frozen=True)
class Proxy:
    """A short training on features, and its score, on the device where the features lie.

    Attributes:
        train, val: what is learnt from, and where the score is taken.
        classes: number of classes K.
        batch: images a step.
        lr: at the first step; it falls polynomially to 0 at the last one.
        weight_decay: 0.00004 is that of the released code.
    """

    train: Features
    val: Features
    classes: int
    batch: int = 8
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5

    def score(self, make: Callable[[], nn.Module], steps: int, seed: int) -> float:
        """mIoU (0..1) on ``val`` after so many steps.

        Args:
            make: the module, (B, C, h, w) -> logits (B, K, h', w'); its weights are drawn from the seed.
            seed: also of dropout and of the order of the images.
        """
        torch.manual_seed(seed)
        # Channels last: separable convolutions are 1.5 times as fast.
        module = make().train().to(self.train.device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            give_way()
            optimiser.param_groups[0]["lr"] = self.lr * (1 - step / steps) ** POWER
            self._step(module, optimiser, generator)
        return self._scored(module.eval())

    def _step(self, module: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
        chosen = torch.randperm(len(self.train), generator=generator)[: self.batch].to(self.train.device)
        labels = self.train.labels[chosen].long()
        logits = module(_laid_out(self.train.maps[chosen]))
        loss = cross_entropy(log_probabilities(logits, labels.shape[-2:]), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def _scored(self, module: nn.Module) -> float:
        total = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        for begin in range(0, len(self.val), self.batch):
            labels = self.val.labels[begin : begin + self.batch]
            logits = module(_laid_out(self.val.maps[begin : begin + self.batch]))
            guess = log_probabilities(logits, labels.shape[-2:]).argmax(1).to(torch.uint8)
            total += confusion_matrix(guess, labels, self.classes).cpu()
        return mean_iou(total.numpy())


def _laid_out(maps: Tensor) -> Tensor:
    return maps.float().contiguous(memory_format=torch.channels_last)


__all__ = ["Features", "Proxy", "cached_features"]
