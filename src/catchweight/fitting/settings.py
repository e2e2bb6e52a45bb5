"""Everything about ``fit`` that ``--set`` reaches: ``search.*`` and ``train.*``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from ..compress import HalpSettings
from ..compress.quantize import TOLERANCE, QuantizeSettings
from ..compress.tables import VARIANTS
from ..config import Config, override
from ..errors import UsageError
from ..search import strategy_named
from ..spaces.whole import NETWORKS
from ..train import Recipe, finetune, scratch
from ..train.supernet import Sandwich

Factor = Annotated[float, Field(gt=0)]


def _known_strategy(name: str) -> str:
    strategy_named(name)  # raises for an unknown one, naming the nearest
    return name


class GradientSettings(Config):
    """FasterSeg's co-search; by default its space and its epochs are the published ones."""

    layers: int = 16
    """Cells of a branch, at most."""
    base: int = 12
    """Channels: 8, 16 and 32 times as many at these strides."""
    widths: tuple[int, ...] = (4, 6, 8, 10, 12)
    """Open widths in twelfths; 8 and 12, those of the two decoders, must be among them."""
    pretrain_epochs: int = Field(20, ge=1)
    """Of the supernet's weights; an epoch passes over half of the training images."""
    search_epochs: int = Field(30, ge=1)
    """Of weights and architectures in turns, for each budget."""
    batch: int = Field(4, ge=1)
    """Crops of a step, of half of each side of the image."""
    distill: float = Field(1.0, ge=0)
    """Weight of the KL divergence from the co-searched teacher; 0: no teacher is trained."""


class SearchSettings(Config):
    """How the network is looked for."""

    later: ClassVar[tuple[str, ...]] = ("gradient", "storage")

    strategy: Literal["auto", "one-shot", "gradient", "random", "whole"] = "auto"
    """"auto": "one-shot", or "whole" where ``--time`` leaves too little for a supernet, or the budget limits nothing
    that can be predicted of its members. "one-shot": a supernet is trained, its members are searched, the best trained
    on. "gradient": FasterSeg's co-search finds a student and its teacher. "random": random members of the space race
    each other, each trained alone. "whole": so do published networks at several widths and sizes."""
    scales: tuple[Factor, ...] = (1.0, 0.8, 0.6, 0.45)
    """Input sizes as shares of the base size."""
    headroom: float = Field(0.04, ge=0, lt=1)
    """Share of the budget kept free in the search, so that noise does not break the promise at the end."""
    finalists: int = Field(2, ge=1)
    """One-shot: so many members of the supernet are raced against each other, at growing length."""
    eta: int = Field(3, ge=2)
    """After each rung of a race one candidate in ``eta`` goes on."""

    space: str = "elastic-fpn"
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
    explore: Annotated[str, AfterValidator(_known_strategy)] = "graded-evolution"
    """One-shot: who proposes members; a name in ``catchweight.search.STRATEGIES``."""
    evaluations: int = Field(160, ge=1)
    """One-shot: members that are scored with the supernet's weights."""
    distill: float = Field(0.0, ge=0)
    """One-shot: weight of the distillation from the supernet's largest member while a finalist trains. Left out by
    default: with the weights of the supernet that member is a weaker network than a finalist becomes, and holds it back
    (on CamVid by 1.5 points after 10 epochs and more later)."""
    beside: tuple[str, ...] | None = None
    """One-shot: published networks that race beside the finalists, each at the largest input that makes the budget and
    trained as the recipe says: one of them is taken where it is ahead when the race ends. By default the backbone under
    a feature pyramid, ``timm/<backbone>+fpn``; an empty list leaves them out."""

    storage: str | None = None
    """One-shot: a database that keeps the exploration, as postgresql+psycopg://user@host/name, so that workers on other
    machines join in (``catchweight join``); by default a journal in the run folder."""

    gradient: GradientSettings = GradientSettings()
    """Gradient: the co-search."""

    networks: tuple[str, ...] = NETWORKS
    """Whole: names of networks (``catchweight networks`` lists them)."""
    widths: tuple[Factor, ...] = (1.0, 0.5)
    """Whole: multipliers of the channels that are not pretrained."""
    per_ladder: int = Field(1, ge=1)
    """Whole: how many input sizes of one network and width may be trained, from the largest within the budget."""
    most: int = Field(8, ge=1)
    """Whole and random: at most so many candidates are trained; of whole ones the slowest within the budget."""


class CompressionSettings(Config):
    """What is done to the network that won under a relaxed budget, to bring it into the one that was asked for."""

    steps: Literal["none", "int8", "prune", "all"] = "none"
    """"none": networks are as they were trained. Otherwise the search runs a second time under a relaxed latency, and
    its winner is pruned, quantised, or both; what comes out is taken if it beats the network found without."""
    relax_int8: float = Field(1.6, gt=1)
    """The relaxed latency as a multiple of the one asked for, by what int8 will win back. Dense convolutions gain 2 and
    more here; depthwise ones and layers that stay in float gain less, and pruning must make up for what is missing."""
    relax_prune: float = Field(1.4, gt=1)
    """The same for pruning; with both steps the two are multiplied. HALP's networks lose nothing at about half of their
    latency, but they are much larger than ours, so a good quarter is asked of pruning."""
    tolerance: float = Field(TOLERANCE, ge=0)
    """Points of val mIoU that a step may cost; otherwise it is refused, and its input goes on."""
    prune_tolerance: float | None = Field(None, ge=0)
    """The same for pruning alone; by default ``tolerance``."""
    epochs: int = Field(30, ge=1)
    """Of fine-tuning after pruning; the recipe is that of ``train``."""
    distill: float = Field(1.0, ge=0)
    """Weight of the distillation from the network as it was before pruning; 0 leaves it out."""
    variants: int = Field(VARIANTS, ge=0)
    """Prunings of the network that are timed on the target, so that the others can be predicted."""
    ablation: Literal["cheap", "full"] = "cheap"
    """"full": fine-tune once more without distillation, to tell what that gave."""
    prune: HalpSettings = HalpSettings()
    """The pruning schedule."""
    int8: QuantizeSettings = QuantizeSettings()
    """How int8 is made."""

    @property
    def prunes(self) -> bool:
        return self.steps in ("prune", "all")

    @property
    def quantises(self) -> bool:
        return self.steps in ("int8", "all")

    @property
    def relaxation(self) -> float:
        """By how much the latency is relaxed in all; 1 without compression."""
        return (self.relax_int8 if self.quantises else 1.0) * (self.relax_prune if self.prunes else 1.0)

    @property
    def pruning_tolerance(self) -> float:
        return self.tolerance if self.prune_tolerance is None else self.prune_tolerance


class FitSettings(Config):
    """Everything ``--set`` reaches: ``search.*``, ``train.*`` and ``compress.*``."""

    search: SearchSettings = SearchSettings()
    train: Recipe = finetune()
    compress: CompressionSettings = CompressionSettings()

    def asked(self) -> dict[str, Any]:
        """As a run folder remembers them. Without compression its keys are left out, so that the request is the very
        one of versions that had none.

        Raises:
            UsageError: settings of a compression that is not wanted.
        """
        values = super().asked()
        if self.compress.steps == "none":
            if self.compress != CompressionSettings():
                raise UsageError(
                    "settings below compress. change nothing without compression: add --compress int8, prune or all"
                )
            del values["compress"]
        return values


AUXILIARY = 0.2
"""Weight of FasterSeg's auxiliary heads while a student trains (Chen et al., ICLR 2020)."""


def defaults(set_: Sequence[str]) -> FitSettings:
    """The settings before ``set_`` changes them. FasterSeg's networks, found by gradient or drawn at random, begin with
    random weights, so that their recipe is ``scratch``, with auxiliary heads as published.

    Raises:
        UsageError: a setting is unknown or malformed.
    """
    search = override(FitSettings(), set_).search
    if search.strategy != "gradient" and (search.strategy, search.space) != ("random", "fasterseg"):
        return FitSettings()
    recipe = scratch()
    return FitSettings(train=recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"aux": AUXILIARY})}))


__all__ = ["CompressionSettings", "FitSettings", "GradientSettings", "SearchSettings", "defaults"]
