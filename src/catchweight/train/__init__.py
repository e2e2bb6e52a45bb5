"""Training: recipes, the loop, and evaluation."""

from __future__ import annotations

from .distill import Distiller, DistillTerms
from .evaluate import eager_predict, evaluate
from .loop import TrainResult, train
from .recipes import RECIPES, Recipe, finetune, scratch

__all__ = [
    "RECIPES",
    "DistillTerms",
    "Distiller",
    "Recipe",
    "TrainResult",
    "eager_predict",
    "evaluate",
    "finetune",
    "scratch",
    "train",
]
