"""Recipes: how a network is trained, as typed values. A recipe is a function that returns a ``Recipe``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import Config
from ..data.loading import Augment
from ..tasks.losses import LossConfig


class Recipe(Config):
    """Everything that decides what a training does. The same recipe, network and data give the same weights."""

    epochs: int = Field(default=30, ge=1)
    """Passes over the training split; the schedule is stretched over them."""
    batch: int = Field(default=8, ge=1)
    """Images per optimiser step, over all processes and accumulation rounds."""
    size: tuple[int, int] = (180, 240)
    """Height and width in pixels that images are brought to."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov & Hutter, 2019) or SGD with Nesterov momentum."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate per step."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum; AdamW's first beta."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's second beta."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled for AdamW; never on norms, biases and other one-dimensional parameters (fusion weights)."""
    backbone_lr_scale: float = Field(default=1.0, gt=0)
    """Learning rate of pretrained parameters, as a multiple of ``lr``."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate falls after warm-up."""
    poly_power: float = Field(default=0.9, gt=0)
    """Exponent of the poly schedule, (1 - progress) ^ power (Chen et al., DeepLab, 2017)."""
    warmup: float = Field(default=1.0, ge=0)
    """Epochs in which the learning rate rises linearly from nearly 0; at most a third of ``epochs`` is used."""
    lr_end: float = Field(default=0.0, ge=0, le=1)
    """Where the schedule ends, as a share of ``lr``."""
    clip: float = Field(default=0.0, ge=0)
    """Largest L2 norm of the gradient; 0 = no clipping."""
    accumulate: int = Field(default=1, ge=1)
    """Backward passes per optimiser step; each sees ``batch / accumulate`` images."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay per step of the averaged weights that are evaluated and kept; 0 = no averaging."""

    loss: LossConfig = LossConfig()
    """The losses and their weights."""
    augment: Augment = Augment()
    """Random changes to training images."""

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Number format of the forward pass; weights stay in 32 bits."""
    channels_last: bool = True
    """Memory format NHWC, the faster one for convolutions on CPUs and tensor cores."""
    compile: bool = False
    """Compile the training step with ``torch.compile``."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device kind. Several devices are used when started by ``torchrun``."""

    seed: int = Field(default=0, ge=0)
    """The one seed of order, augmentation and dropout."""
    workers: int = Field(default=1, ge=0)
    """Loader threads that prepare batches ahead."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs between evaluations on the validation split; the last epoch is always evaluated."""
    eval_batch: int = Field(default=8, ge=1)
    """Images per evaluation batch."""
    checkpoint_every_s: float = Field(default=120.0, gt=0)
    """Seconds between checkpoints inside an epoch; each epoch's end is one as well."""
    tensorboard: bool = True
    """Write TensorBoard event files beside ``metrics.csv``."""


def scratch() -> Recipe:
    """Random initial weights: slower averaging and a longer warm-up; for networks without pretrained backbones."""
    return finetune().model_copy(update={"epochs": 60, "weight_decay": 0.02, "warmup": 2.0, "ema": 0.995})


def finetune() -> Recipe:
    """A pretrained backbone and a new neck and head, on a few hundred images (CamVid-half: 367 of 240x180).

    ``benchmarks/ingredients.py`` measures what each part brings. No auxiliary heads: they cost a third of the step.
    """
    return Recipe(
        epochs=30,
        batch=8,
        lr=3e-3,
        backbone_lr_scale=0.5,
        weight_decay=0.01,
        schedule="poly",
        warmup=1.0,
        ema=0.99,
        clip=5.0,
        loss=LossConfig(ce=1.0, lovasz=0.5, region_stride=2, aux=0.0),
    )


RECIPES = {"finetune": finetune, "scratch": scratch}
