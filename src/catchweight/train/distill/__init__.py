"""Distillation: one ``Distiller`` for ``fit``, for fine-tuning after pruning, and by hand."""

from __future__ import annotations

from .distiller import Distiller, DistillTerms
from .losses import channel_kl, imitation, pixel_kl
from .teacher import Teacher, load_teacher, network_hash

__all__ = [
    "DistillTerms",
    "Distiller",
    "Teacher",
    "channel_kl",
    "imitation",
    "load_teacher",
    "network_hash",
    "pixel_kl",
]
