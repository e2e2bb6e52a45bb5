"""Settings of FasterSeg's co-search; the defaults are the published ones (Chen et al., ICLR 2020)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ...config import Config
from ...data.loading import Augment
from ...spaces.fasterseg import DECOUPLED


class PhaseSettings(Config):
    """One of the two phases; an epoch passes over half of the training images."""

    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    size: tuple[int, int]
    """Height and width in pixels of the training crops."""
    lr: float = Field(gt=0)
    """SGD's learning rate in the first epoch."""


class CoSearchSettings(Config):
    """Everything that decides what a co-search does; together with data, times and seed it gives the result."""

    layers: int = 16
    base: int = 12
    widths: tuple[int, ...] = (4, 6, 8, 10, 12)
    """Options of open widths in twelfths; the student's stem and decoder have 8, the teacher's 12."""
    width: float = Field(default=1.0, gt=0)
    """Multiplies every channel count, rounded to 8."""

    pretrain: PhaseSettings = PhaseSettings(epochs=20, batch=3, size=(256, 512), lr=0.02)
    """Weights only, at the widest, the narrowest and two random widths."""
    search: PhaseSettings = PhaseSettings(epochs=30, batch=2, size=(224, 448), lr=0.01)
    """Weights and architectures in turns."""
    image_size: tuple[int, int] = (512, 1024)
    """Height and width at which validation images are scored and from which training crops are cut; half of the
    originals', as published."""
    augment: Augment = Augment(scale=(0.75, 1.25), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    """Random changes; a scale of 1 is that of ``image_size``."""
    eval_every: int = Field(default=1, ge=1)
    """Search epochs between validations; the last epoch is always validated."""
    lr_decay: float = Field(default=0.978, gt=0, le=1)
    """Factor of SGD's learning rate from epoch to epoch, in each phase anew."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    clip: float = Field(default=5.0, gt=0)
    """Largest L2 norm of the weights' gradient."""
    arch_lr: float = Field(default=3e-4, gt=0)
    """Adam's learning rate of the architecture parameters."""
    arch_betas: tuple[float, float] = (0.5, 0.999)

    latency_size: tuple[int, int] = (1024, 2048)
    """Height and width for which latency is looked up: that of deployment."""
    latency_weight: float = Field(default=1e-2, gt=0)
    """lambda: loss per millisecond of the student's expected latency, in the first epoch."""
    window_ms: tuple[float, float] = (1000 / 175, 1000 / 155)
    """Latencies between which lambda stays as it is; published as 155 to 175 frames a second."""
    regularisation: Literal["decoupled", "coupled"] = "decoupled"
    """Decoupled: operators, paths and widths one by one, weighted by ``groups``; coupled: all open at once."""
    groups: tuple[float, float, float] = DECOUPLED
    """Weights of the three groups: operators, paths, widths."""
    reference_ms: float = Field(default=8.3, gt=0)
    """Of two candidate networks the one with more mIoU x (latency / this) ^ ``trade_off`` is taken."""
    trade_off: float = Field(default=-0.07, le=0)

    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=0)
    """Loader threads that prepare batches ahead."""
    channels_last: bool = True
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """"bf16-mixed" is quicker where processor or GPU has bfloat16; losses and latencies stay in float32."""
    checkpoint_every_s: float = Field(default=300.0, gt=0)
    """Seconds between checkpoints inside an epoch; each epoch's end is one as well."""

    @model_validator(mode="after")
    def _check(self) -> CoSearchSettings:
        if not 0 <= self.window_ms[0] < self.window_ms[1]:
            raise ValueError(f"window_ms must be low,high with 0 <= low < high, but is {self.window_ms}")
        return self


def aimed(settings: CoSearchSettings, target_ms: float) -> CoSearchSettings:
    """The same search for another device and size: latencies count in shares of the one that is aimed at.

    The published window lies around its middle, and lambda times that middle stays what it was.
    """
    factor = target_ms / (sum(settings.window_ms) / 2)
    changes: dict[str, Any] = {
        "window_ms": tuple(factor * ms for ms in settings.window_ms),
        "latency_weight": settings.latency_weight / factor,
        "reference_ms": settings.reference_ms * factor,
    }
    return settings.model_copy(update=changes)


__all__ = ["CoSearchSettings", "PhaseSettings", "aimed"]
