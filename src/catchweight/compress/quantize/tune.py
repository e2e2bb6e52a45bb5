"""Quantisation-aware fine-tuning: training goes on with weights and activations rounded as int8 will round them.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018: gradients pass the rounding as if there were none (straight-through), and ranges follow the activations as a
moving average. What comes out is a float network like any other, which loses less when it is quantised after training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data import SegmentationData
from ...data.cache import PixelCache
from ...errors import UsageError
from ...files import copy_file, read_json, write_json
from ...nets import SegmentationNet
from ...targets.runtimes.quantized import saturates
from ...tasks.losses import SegmentationLoss
from ...train import Recipe, finetune, train
from ...train.batches import Batches, BringsBatches, MakeLoader
from ...train.distill import Distiller
from ...train.step import Objective, PlainLoss

LEVELS = 255
"""Steps of an activation's range."""
MEMORY = 0.95
"""Share of an activation's range that is kept from step to step."""
LEAST = 1e-12


@dataclass(frozen=True)
class QuantAware:
    """An ``Objective``: that of ``inner``, with the layers that have weights computed as int8 will compute them.

    Weights are rounded for each output channel, so that folding a batch norm later changes nothing; what enters a layer
    is rounded for the whole tensor.
    """

    inner: Objective = PlainLoss()

    def describe(self) -> dict[str, Any]:
        return {"kind": "int8", "inner": self.inner.describe()}

    def batches(self, make: MakeLoader, recipe: Recipe) -> Batches:
        return self.inner.batches(make, recipe) if isinstance(self.inner, BringsBatches) else make()

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        """The step as a module.

        Raises:
            UsageError: the network has no layer that int8 could round.
        """
        return RoundedStep(self.inner(net, loss, channels_last), net)


class RoundedStep(nn.Module):
    """Runs a step while the layers of ``net`` round; outside a pass the network is what it was.

    Raises:
        UsageError: there is nothing to round.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, step: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.step = step
        self.layers = tuple(m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)))
        if not self.layers:
            raise UsageError(f"{type(net).__name__} has no convolution or linear layer that int8 could round")
        self.limit = 64 if saturates() else 127
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros(len(self.layers)))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        with self.rounded():
            loss: Tensor = self.step(images, masks)
        return loss

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Inside, every layer sees rounded weights and a rounded input."""
        handles = [
            layer.register_forward_pre_hook(partial(self._enter, place)) for place, layer in enumerate(self.layers)
        ]
        try:
            for layer in self.layers:
                # An instance's own attribute hides the parameter of that name, which stays where it is.
                vars(layer)["weight"] = rounded_weight(layer.weight, _axis(layer), self.limit)
            yield
        finally:
            for layer in self.layers:
                vars(layer).pop("weight", None)
            for handle in handles:
                handle.remove()

    def _enter(self, place: int, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = inputs
        if self.training:
            self._follow(place, x.detach())
        return rounded_activation(x, self.low[place], self.high[place]), *rest

    @torch.no_grad()
    def _follow(self, place: int, x: Tensor) -> None:
        """Let the range follow what came in; the first input sets it."""
        kept = MEMORY * self.seen[place]
        self.low[place] = kept * self.low[place] + (1 - kept) * x.min().float()
        self.high[place] = kept * self.high[place] + (1 - kept) * x.max().float()
        self.seen[place] = 1.0


def rounded_weight(weight: Tensor, axis: int, limit: int) -> Tensor:
    """Symmetric integers of -``limit`` to ``limit`` along ``axis``, times their scale."""
    others = [dim for dim in range(weight.dim()) if dim != axis]
    scale = (weight.detach().abs().amax(others) / limit).clamp_min(LEAST).float()
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -limit, limit)


def rounded_activation(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """256 levels from ``low`` to ``high``, 0 among them; what lies outside is cut off."""
    bottom = low.clamp_max(0.0)
    scale = ((high.clamp_min(0.0) - bottom) / LEVELS).clamp_min(LEAST)
    zero = (-bottom / scale).round().clamp(0, LEVELS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, LEVELS).to(x.dtype)


def tuned(
    net: SegmentationNet,
    data: SegmentationData,
    size: tuple[int, int],
    folder: Path,
    *,
    epochs: int,
    lr: float,
    recipe: Recipe | None = None,
    cache: PixelCache | None = None,
    deadline: float | None = None,
) -> tuple[Path, int]:
    """Train ``net`` on, rounded, distilled from itself as it was. Killed, it goes on.

    Args:
        net: trained; left as it is.
        data: has the splits "train" and "val".
        size: input (H, W).
        epochs, lr: of this training; it is short, and its learning rate low.
        recipe: whose batches, loss and device are used; default: that of fine-tuning.
        deadline: in seconds of ``time.monotonic``; the epoch during which it passes is the last one.

    Returns:
        ``folder/model.pt``, and the epochs that it was trained for.
    """
    path = folder / "model.pt"
    if not is_tuned(folder):
        recipe = (recipe or finetune()).model_copy(
            update={"epochs": epochs, "eval_every": epochs, "lr": lr, "size": size, "tensorboard": False}
        )
        objective = QuantAware(Distiller(net))
        student = copy.deepcopy(net).train()
        done = train(
            student, data, recipe, folder / "train", cache=cache, objective=objective, deadline=deadline
        )  # fmt: skip
        copy_file(done.best, path)
        write_json(folder / "tuned.json", {"epochs": done.epochs})
    return path, int(read_json(folder / "tuned.json")["epochs"])


def is_tuned(folder: Path) -> bool:
    """Whether :func:`tuned` has ended in this folder."""
    return (folder / "tuned.json").exists()


def _axis(layer: nn.Module) -> int:
    """Where a weight has its output channels."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


__all__ = ["QuantAware", "RoundedStep", "is_tuned", "rounded_activation", "rounded_weight", "tuned"]
