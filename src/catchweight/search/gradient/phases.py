"""The two phases of a co-search as loops with a state on disk: killed and called again, they go on exactly."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...data import SegmentationData
from ...data.cache import PixelCache
from ...data.loading import Batch, EvalLoader
from ...errors import CatchweightError
from ...files import read_json, write_json
from ...quiet import give_way
from ...spaces.fasterseg import FasterSegLatency
from ...train.checkpoints import all_finite, load_state, save_state
from ...train.epoch import step_seed
from ..strategy import Say
from .controller import LambdaController
from .halves import HalfLoader, pairs
from .result import CoSearchResult, chosen, epoch_record, pair_scores
from .settings import CoSearchSettings
from .steps import CoSearch

SAY_EVERY_S = 30.0
_PRETRAIN_KEYS = {
    "layers", "base", "widths", "width", "pretrain", "image_size", "augment", "lr_decay", "momentum", "weight_decay",
    "clip", "seed", "precision",
}  # fmt: skip
"""Settings that the pre-trained weights depend on."""
_LATER = {"image_size", "precision"}
"""Those of them that earlier versions did not write down."""
_FREE = {"workers", "checkpoint_every_s"}
"""Settings that change how fast a search is, not what it finds."""


@dataclass
class Progress:
    """How far a phase is; plain values."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    """Sum over the steps of the epoch under way."""
    seconds: float = 0.0
    """Over all calls."""
    history: list[dict[str, Any]] = field(default_factory=list)


class Phase(ABC):
    """Epochs of steps. A subclass says what a step is and what is recorded of an epoch.

    Args:
        folder: takes ``about.json``, ``epochs/*.json`` and, until the phase has ended, ``state.pt``.
        deadline: in seconds of ``time.monotonic``; the epoch during which it passes is the last one.
    """

    name: str
    halves: tuple[int, ...]
    """Which halves of the images it needs: 0 of the weights, 1 of the architectures."""

    def __init__(
        self, data: SegmentationData, settings: CoSearchSettings, folder: Path, search: CoSearch,
        cache: PixelCache | None, say: Say, deadline: float | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.folder, self.search, self.say = settings, folder, search, say
        self.deadline, self.late = deadline, False
        self.about = about(self.name, data, settings)
        self.plan = settings.pretrain if self.name == "pretrain" else settings.search
        self.loaders = [HalfLoader(data, self.plan, settings, half, cache) for half in self.halves]
        self.steps = min(map(len, self.loaders))
        self.sgd = torch.optim.SGD(
            search.weights, self.plan.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.progress = Progress()
        self._began = self._saved = self._said = time.monotonic()

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """What is left of the epoch under way."""

    @abstractmethod
    def step(self, batch: Any) -> float:
        """Move what is to be moved; the loss of the weights."""

    @abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """What is recorded of epoch ``epoch``, from 1."""

    @abstractmethod
    def finish(self) -> None:
        """Write what the phase was for."""

    def run(self) -> None:
        """All that is left to do.

        Raises:
            CatchweightError: a loss or a weight is not finite, or the state in the folder is another search's.
        """
        self._resume()
        while self.progress.epoch < self.plan.epochs and not self.late:
            self._epoch()
        if self.progress.epoch < self.plan.epochs:
            self.say(f"{self.name}: stopped after epoch {self.progress.epoch} of {self.plan.epochs}, its time was up")
        self.finish()
        self._state.unlink(missing_ok=True)

    def stored(self) -> dict[str, Any]:
        """Everything that moves."""
        return {"weights": self.search.space.state_dict(), "sgd": self.sgd.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`stored`."""
        self.search.space.load_state_dict(state["weights"])
        self.sgd.load_state_dict(state["sgd"])

    def describe(self, row: dict[str, Any]) -> str:
        """An epoch in a few words."""
        return f"loss {row['loss']:.3f}"

    def move_weights(self) -> None:
        """An SGD step, the gradient's norm bounded."""
        torch.nn.utils.clip_grad_norm_(self.search.weights, self.settings.clip)
        self.sgd.step()

    def checked(self, loss: float) -> float:
        """``loss``, if it is a number."""
        if loss != loss or abs(loss) == float("inf"):
            raise self._diverged(f"the loss became {loss}", self.progress.step + 1)
        return loss

    def _require_finite(self) -> None:
        """A gradient that overflows, though its loss is a number, must not end up in a file."""
        if not (all_finite(self.search.weights) and all_finite(self.search.architecture)):
            raise self._diverged("weights became infinite or NaN", self.progress.step)

    def _diverged(self, what: str, step: int) -> CatchweightError:
        lr = f"{self.name}.lr" if all_finite(self.search.architecture) else "arch_lr"
        return CatchweightError(
            f"{what} in epoch {self.progress.epoch + 1}, step {step} of the {self.name} phase. "
            f"The last good state is kept: search with a lower {lr} in a fresh folder"
        )

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _epoch(self) -> None:
        progress = self.progress
        for group in self.sgd.param_groups:
            group["lr"] = self.plan.lr * self.settings.lr_decay**progress.epoch
        self.search.space.train()
        for batch in self.batches():
            give_way()
            at = progress.epoch * self.steps + progress.step
            # What is drawn depends on the step alone, so a resumed phase draws the same.
            torch.manual_seed(step_seed(self.settings.seed, at, len(self.halves)))
            progress.loss += self.step(batch)
            progress.step += 1
            self._within()
        self._require_finite()
        self.late = self.deadline is not None and time.monotonic() >= self.deadline
        epoch = progress.epoch + 1
        row = {"epoch": epoch, "loss": progress.loss / self.steps, **self.end_epoch(epoch)}
        progress.history.append(row)
        progress.epoch, progress.step, progress.loss = epoch, 0, 0.0
        # The record comes before the state: an epoch that is done again writes the same one.
        write_json(self.folder / "epochs" / f"{epoch:03d}.json", row)
        self._save()
        self.say(f"{self.name} epoch {epoch}/{self.plan.epochs}: {self.describe(row)}, {self._left()}")
        self._said = time.monotonic()

    def _within(self) -> None:
        now, progress = time.monotonic(), self.progress
        if progress.step == self.steps:
            return
        if now - self._said > SAY_EVERY_S:
            self.say(f"{self.name} epoch {progress.epoch + 1}, step {progress.step}/{self.steps}, {self._left()}")
            self._said = now
        if now - self._saved > self.settings.checkpoint_every_s:
            self._save()

    def _left(self) -> str:
        """How long it will take from here, by how long it took so far."""
        done = self.progress.epoch * self.steps + self.progress.step
        spent = self.progress.seconds + time.monotonic() - self._began
        left = spent / max(done, 1) * (self.plan.epochs * self.steps - done)
        return f"about {left / 60:.1f} min left" if left >= 60 else f"about {left:.0f} s left"

    def _save(self) -> None:
        self._require_finite()
        now = time.monotonic()
        self.progress.seconds += now - self._began
        self._began = self._saved = now
        write_json(self.folder / "about.json", self.about)
        save_state(self._state, {**self.stored(), "progress": dict(vars(self.progress))})

    def _resume(self) -> None:
        refuse_other(self.folder, self.about)
        if self._state.exists():
            state = load_state(self._state)
            self.restore(state)
            self.progress = Progress(**state["progress"])
        self._began = self._saved = self._said = time.monotonic()


class Pretraining(Phase):
    """Weights alone; ends with ``weights.pt``."""

    name, halves = "pretrain", (0,)

    def batches(self) -> Iterator[Batch]:
        return self.loaders[0].epoch(self.progress.epoch, self.progress.step)

    def step(self, batch: Batch) -> float:
        loss = self.checked(self.search.pretrain_gradient(batch))
        self.move_weights()
        return loss

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        return {}

    def finish(self) -> None:
        save_state(self.folder / "weights.pt", {"weights": self.search.space.state_dict()})


class Searching(Phase):
    """Architectures and weights in turns; ends with ``result.json``."""

    name, halves = "search", (0, 1)

    def __init__(
        self, data: SegmentationData, settings: CoSearchSettings, folder: Path, search: CoSearch,
        cache: PixelCache | None, say: Say, latency: FasterSegLatency, deadline: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(data, settings, folder, search, cache, say, deadline)
        self.data, self.latency, search.latency = data, latency, latency
        self.adam = torch.optim.Adam(search.architecture, settings.arch_lr, betas=settings.arch_betas)
        self.controller = LambdaController(settings.latency_weight, settings.window_ms)
        self.validation = EvalLoader(data, "val", settings.image_size, 8, cache, workers=settings.workers)

    def batches(self) -> Iterator[tuple[Batch, Batch]]:
        first, second = self.loaders
        return pairs(first, second, self.progress.epoch, self.progress.step)

    def step(self, batch: tuple[Batch, Batch]) -> float:
        for_weights, for_architecture = batch
        self.checked(self.search.architecture_gradient(for_architecture, self.controller.weight))
        self.adam.step()
        loss = self.checked(self.search.weights_gradient(for_weights))
        self.move_weights()
        return loss

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Read both networks off, then let lambda follow the student's latencies."""
        search, roles = self.search, {"teacher": self.search.teacher, "student": self.search.student}
        scores = {}
        if epoch % self.settings.eval_every == 0 or epoch == self.plan.epochs or self.late:
            scores = {
                role: pair_scores(search.space, logits.likeliest(), role, self.validation, self.data.classes)
                for role, logits in roles.items()
            }
        record = epoch_record(search.space, roles, self.latency, scores)
        used = self.controller.weight
        after = self.controller.update([c["ms"] for c in record["student"]["candidates"].values()])
        return {"expected_ms": search.latency_ms, "lambda": used, "next_lambda": after, **record}

    def describe(self, row: dict[str, Any]) -> str:
        student = row["student"]["candidates"].values()
        scores = [f"{c['miou']:.3f}" for c in student if c["miou"] is not None]
        told = f", mIoU {' and '.join(scores)}" if scores else ""
        latencies = " and ".join(f"{c['ms']:.2f}" for c in student)
        return f"loss {row['loss']:.3f}, student {latencies} ms{told}, lambda {row['lambda']:.3g}"

    def stored(self) -> dict[str, Any]:
        return {
            **super().stored(),
            "teacher": self.search.teacher.state_dict(),
            "student": self.search.student.state_dict(),
            "adam": self.adam.state_dict(),
            "lambda": self.controller.weight,
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.search.teacher.load_state_dict(state["teacher"])
        self.search.student.load_state_dict(state["student"])
        self.adam.load_state_dict(state["adam"])
        self.controller.weight = state["lambda"]

    def finish(self) -> None:
        last, settings = self.progress.history[-1], self.settings
        teacher, student = (chosen(last[r], settings.reference_ms, settings.trade_off) for r in ("teacher", "student"))
        result = CoSearchResult(
            student=student["name"], teacher=teacher["name"], width=settings.width, student_ms=student["ms"],
            latency_weight=last["next_lambda"], seconds=self.progress.seconds, history=tuple(self.progress.history),
        )  # fmt: skip
        write_json(self.folder / "result.json", result.to_json())


def about(phase: str, data: SegmentationData, settings: CoSearchSettings) -> dict[str, Any]:
    """What must agree when a phase goes on."""
    said = settings.model_dump(mode="json")
    keys = _PRETRAIN_KEYS if phase == "pretrain" else said.keys() - _FREE
    return {"phase": phase, "data": data.fingerprint(), **{key: said[key] for key in said if key in keys}}


def refuse_other(folder: Path, asked: dict[str, Any]) -> None:
    """Raises CatchweightError when a folder holds a phase of other settings or data."""
    path = folder / "about.json"
    known = {key: asked[key] for key in _LATER & asked.keys()} | read_json(path) if path.exists() else asked
    differing = sorted(key for key in known.keys() | asked.keys() if known.get(key) != asked.get(key))
    if differing:
        key = differing[0]
        raise CatchweightError(
            f"{folder} holds a search with {key}={known.get(key)!r}, not {asked.get(key)!r} (differs in: "
            f"{', '.join(differing)}); choose another folder, or the same settings to go on"
        )


__all__ = ["Phase", "Pretraining", "Progress", "Searching", "about", "refuse_other"]
