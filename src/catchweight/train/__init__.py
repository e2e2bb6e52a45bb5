"""Training: recipes, the loop, and evaluation."""

from __future__ import annotations

from .evaluate import eager_predict, evaluate
from .loop import TrainResult, train
from .recipes import RECIPES, Recipe, finetune, scratch

__all__ = ["RECIPES", "Recipe", "TrainResult", "eager_predict", "evaluate", "finetune", "scratch", "train"]
