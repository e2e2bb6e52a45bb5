"""Deep thin networks: go wide, then narrow.

Claim check on Fashion-MNIST: a chain of 20 layers of width 16, which imitates a trained chain of width 64 layer by
layer and is then fine-tuned, against the same chain trained from scratch, and against distillation of the wide one's
logits, all with as many optimiser steps of the thin network and the same optimiser. The deliberately broken arm
imitates a wide network that was never trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.images import ImageSet, draw_images, open_images
from ..train.checkpoints import load_state, save_state
from ..train.thin import Imitator, imitate
from .result import Condition, Verdict
from .system import CheckContext, DataSource, System
from .trials import PairedTrial, paired_trial

GAIN, OVER_DISTILLED, SAME = 2.0, 0.5, 1e-4
"""Points of accuracy over training from scratch and over distillation; what merging may change, relatively."""
WINS = 2
"""Seeds in which imitation must not be worse than training from scratch."""

MEAN, STD = 0.2860, 0.3530
"""Of Fashion-MNIST's pixels, in 0..1."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    depth: int = 20
    thin: int = 16
    wide: int = 64
    images: int = 10_000
    batch: int = 128
    seeds: tuple[int, ...] = (0, 1, 2)
    wide_steps: int = 3000
    imitation_steps: int = 4000
    """Of the thin network in stage 2; with ``tuning_steps`` they are what the other arms get."""
    tuning_steps: int = 4000
    lr: float = 3e-3
    """Peak rate of Adam on labels, cosine down to 0."""
    wide_lr: float = 1e-3
    imitation_lr: float = 3e-3
    temperature: float = 4.0
    """Of the distillation that imitation is compared with; weight 0.9, and 0.1 for the labels."""


FULL = Protocol()
QUICK = Protocol(
    depth=4, thin=6, wide=12, images=200, batch=32, seeds=(0,), wide_steps=20, imitation_steps=20, tuning_steps=20
)


class Arms:
    """The trainings of one check, each done once."""

    def __init__(self, context: CheckContext, protocol: Protocol) -> None:
        assert isinstance(context.data, ImageSet), "run_check opens the system's own source"
        self.context, self.protocol = context, protocol
        images, labels = context.data.images, context.data.labels
        self.x, self.test_x = (_inputs(torch.from_numpy(images[s].copy())) for s in ("train", "test"))
        self.y, self.test_y = (torch.from_numpy(labels[s].copy()).long() for s in ("train", "test"))
        self.x, self.y = self.x[: protocol.images], self.y[: protocol.images]

    def scratch(self, seed: int) -> float:
        """Accuracy in points of the thin network trained from scratch."""
        steps = self.protocol.imitation_steps + self.protocol.tuning_steps
        return self._accuracy(f"scratch-seed{seed}", lambda: self._fitted(self.chain("thin", seed), steps, seed))

    def distilled(self, seed: int) -> float:
        """The same with the wide network's logits as targets."""
        steps = self.protocol.imitation_steps + self.protocol.tuning_steps
        teacher = self.wide(seed)
        return self._accuracy(
            f"distilled-seed{seed}", lambda: self._fitted(self.chain("thin", seed), steps, seed, teacher)
        )

    def narrowed(self, name: str, wide: Callable[[int], nn.Sequential]) -> Callable[[int], float]:
        """Imitation of a wide network, merging, fine-tuning."""

        def accuracy(seed: int) -> float:
            done: dict[str, Any] = self.context.stage(f"{name}-seed{seed}", lambda: self._narrow(wide(seed), seed))
            return float(done["accuracy"])

        return accuracy

    def wide(self, seed: int) -> nn.Sequential:
        """The trained wide network."""
        path = self.context.folder / f"wide-seed{seed}.pt"
        net = self.chain("wide", seed)

        def work() -> float:
            self._fitted(net, self.protocol.wide_steps, seed, lr=self.protocol.wide_lr)
            save_state(path, net.state_dict())
            return accuracy(net, self.test_x, self.test_y)

        self.context.stage(f"wide-seed{seed}", work)
        net.load_state_dict(load_state(path))
        return net.eval()

    def chain(self, which: str, seed: int) -> nn.Sequential:
        """An untrained network."""
        torch.manual_seed(2 * seed + (which == "thin"))
        width = self.protocol.thin if which == "thin" else self.protocol.wide
        return chain(self.x.shape[1], width, int(self.y.max()) + 1, self.protocol.depth)

    def _narrow(self, wide: nn.Sequential, seed: int) -> dict[str, float]:
        protocol, thin = self.protocol, self.chain("thin", seed)
        count = sum(p.numel() for p in thin.parameters())
        net = Imitator(list(thin), list(wide), self.x[:8])
        inputs = (self.x[index] for index in stream(len(self.x), protocol.batch, seed))
        errors = imitate(net, inputs, protocol.imitation_steps, partial(torch.optim.Adam, lr=protocol.imitation_lr))
        merged = net.eval().merged()
        with torch.no_grad():
            before, after = net(self.test_x), merged(self.test_x)
        imitated = accuracy(merged, self.test_x, self.test_y)
        changed = float((before - after).abs().max() / before.abs().max())
        added = sum(p.numel() for p in merged.parameters()) - count
        self._fitted(merged, protocol.tuning_steps, seed)
        return {
            "accuracy": accuracy(merged, self.test_x, self.test_y),
            "after_imitation": imitated,
            "last_error": errors[-1],
            "merging_changed": changed,
            "added_parameters": added,
        }

    def _accuracy(self, name: str, work: Callable[[], nn.Sequential]) -> float:
        return float(self.context.stage(name, lambda: accuracy(work(), self.test_x, self.test_y)))

    def _fitted(
        self, net: nn.Sequential, steps: int, seed: int, teacher: nn.Sequential | None = None, lr: float | None = None
    ) -> nn.Sequential:
        """Adam on labels, or mostly on a teacher's softened logits; in place."""
        peak = lr or self.protocol.lr
        optimizer = torch.optim.Adam(net.parameters(), lr=peak)
        order = stream(len(self.x), self.protocol.batch, seed)
        net.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = peak * (1 + math.cos(math.pi * step / steps)) / 2
            index = next(order)
            logits = net(self.x[index])
            loss = F.cross_entropy(logits, self.y[index])
            if teacher is not None:
                loss = 0.1 * loss + 0.9 * softened(logits, teacher, self.x[index], self.protocol.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return net


def chain(inputs: int, width: int, classes: int, depth: int) -> nn.Sequential:
    """A plain network as blocks that end in a linear layer, so that what is imitated is never cut off by a ReLU.

    He's initialisation: without it the deep chain hardly trains at all, and beating it would show little.
    """
    sizes = [inputs, *[width] * (depth - 1), classes]
    layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(
        *(nn.Sequential(nn.ReLU(), layer) if i else nn.Sequential(layer) for i, layer in enumerate(layers))
    )


def stream(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Indices of shuffled batches, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % batch].split(batch)


def softened(logits: Tensor, teacher: nn.Sequential, x: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened classes, mean over images, times the squared temperature."""
    with torch.no_grad():
        target = F.log_softmax(teacher(x) / temperature, dim=1)
    log_p = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, target, reduction="batchmean", log_target=True)


@torch.no_grad()
def accuracy(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """Points (0..100)."""
    return 100 * float((net.eval()(x).argmax(1) == y).float().mean())


def _inputs(images: Tensor) -> Tensor:
    """``(N, H, W)`` uint8 to ``(N, H W)`` float32, normalised."""
    return (images.flatten(1).float() / 255 - MEAN) / STD


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    arms = Arms(context, protocol)
    narrowed = arms.narrowed("narrowed", arms.wide)
    trials = {
        "scratch": paired_trial(narrowed, arms.scratch, protocol.seeds),
        "distilled": paired_trial(narrowed, arms.distilled, protocol.seeds),
        "untrained": paired_trial(
            arms.narrowed("untrained", lambda seed: arms.chain("wide", seed)), arms.scratch, protocol.seeds
        ),
    }
    details = {f"{name}-seed{seed}": context.run.result(f"{name}-seed{seed}")
               for name in ("wide", "narrowed", "untrained") for seed in protocol.seeds}  # fmt: skip
    return _verdict(protocol, trials, details)


def _verdict(protocol: Protocol, trials: dict[str, PairedTrial], details: dict[str, Any]) -> Verdict:
    merged = [details[f"narrowed-seed{seed}"] for seed in protocol.seeds]
    claim = (
        Condition(
            "largest relative change of an output by merging", max(m["merging_changed"] for m in merged), SAME, "<="
        ),
        Condition("parameters added", max(abs(m["added_parameters"]) for m in merged), 0, "<="),
        Condition("mean gain over training from scratch (points of accuracy)", trials["scratch"].mean, GAIN),
        Condition("seeds in which it is not worse", trials["scratch"].wins, min(WINS, len(protocol.seeds))),
        Condition("mean gain over distillation of the logits", trials["distilled"].mean, OVER_DISTILLED),
    )
    control = (Condition("untrained wide network: mean gain over scratch (points)", trials["untrained"].mean, GAIN),)
    figures = {
        "accuracy": {name: trial.to_json() for name, trial in trials.items()},
        "details": details,
        "protocol": asdict(protocol),
    }
    return Verdict(claim, control, figures, protocol.seeds)


def _draw(folder: Path) -> ImageSet:
    return draw_images(folder, {"train": QUICK.images, "test": 100})


SYSTEM = System(
    name="deep_thin",
    title="Go wide, then narrow",
    paper="Zhou et al., Go Wide, Then Narrow: Efficient Training of Deep Thin Networks, ICML",
    year=2020,
    where=("catchweight.train.thin:Imitator", "catchweight.train.thin:imitate"),
    claim=(
        "A deep thin network that first imitates a wide one layer by layer is 2 points or more more accurate than from "
        "scratch in the same steps, and 0.5 or more than by distillation of the logits."
    ),
    check=check,
    needs_data=True,
    source=DataSource(open_images, _draw),
    protocols=(FULL, QUICK),
)
