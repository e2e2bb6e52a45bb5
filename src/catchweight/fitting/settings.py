"""Everything about ``fit`` that ``--set`` reaches: ``search.*`` and ``train.*``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..config import Config
from ..search import strategy_named
from ..spaces.whole import NETWORKS
from ..train import Recipe, finetune
from ..train.supernet import Sandwich


def _known_strategy(name: str) -> str:
    strategy_named(name)  # raises for an unknown one, naming the nearest
    return name


class SearchSettings(Config):
    """How the network is looked for."""

    strategy: Literal["one-shot", "random", "whole"] = "one-shot"
    """"one-shot": a supernet is trained, its members are searched, the best trained on. "random": random members of
    the space race each other, each trained alone. "whole": so do published networks at several widths and sizes."""
    scales: tuple[float, ...] = (1.0, 0.8, 0.6, 0.45)
    """Input sizes as shares of the base size."""
    headroom: float = Field(0.04, ge=0, lt=1)
    """Share of the budget kept free in the search, so that noise does not break the promise at the end."""
    finalists: int = Field(2, ge=1)
    """One-shot: so many members of the supernet are raced against each other, at growing length."""
    eta: int = Field(3, ge=2)
    """After each rung of a race one candidate in ``eta`` goes on."""

    space: str = "elastic"
    """One-shot: the search space; a name in ``catchweight.spaces.SPACES``."""
    backbone: str = "tf_efficientnet_lite0"
    """One-shot: the timm backbone that is made elastic."""
    profiled: int = Field(60, ge=10)
    """One-shot: members of the space that are timed on the target, so that the others can be predicted."""
    profile_minutes: float = Field(6.0, gt=0)
    """One-shot: no member is timed after that, once the least number is reached."""
    supernet_epochs: int = Field(25, ge=1)
    """One-shot: length of the supernet's training."""
    sandwich: Sandwich = Sandwich()
    """One-shot: which members learn in a step, and from what."""
    explore: Annotated[str, AfterValidator(_known_strategy)] = "evolution"
    """One-shot: who proposes members; a name in ``catchweight.search.STRATEGIES``."""
    evaluations: int = Field(160, ge=1)
    """One-shot: members that are scored with the supernet's weights."""
    distill: float = Field(1.0, ge=0)
    """One-shot: weight of the distillation from the largest member while a finalist trains; 0 leaves it out."""

    networks: tuple[str, ...] = NETWORKS
    """Whole: names of networks (``catchweight networks`` lists them)."""
    widths: tuple[float, ...] = (1.0, 0.5)
    """Whole: multipliers of the channels that are not pretrained."""
    per_ladder: int = Field(1, ge=1)
    """Whole: how many input sizes of one network and width may be trained, from the largest within the budget."""
    most: int = Field(8, ge=1)
    """Whole and random: at most so many candidates are trained; of whole ones the slowest within the budget."""


class FitSettings(Config):
    """Everything ``--set`` reaches: ``search.*`` and ``train.*``."""

    search: SearchSettings = SearchSettings()
    train: Recipe = finetune()
