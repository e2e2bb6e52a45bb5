"""From block times to a network's latency, with an error that was measured on networks kept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from ...errors import CatchweightError
from ..tracing.blocks import GROUPS, Signature, blocks
from ..tracing.trace import trace
from .block_model import BlockModel, Floats
from .table import Entry, LatencyTable, ProfiledNetwork, entries

LEAST = 10
"""Fewer profiled networks than this allow no statement of error."""
_FOLDS = 5


@dataclass(frozen=True)
class ErrorStatement:
    """How far predictions were off on ``n`` whole networks that the prediction had not seen.

    Attributes:
        rmspe: root mean squared error as a share of the latency.
        median: median absolute error as a share.
        within5, within10: share of the networks within 5 % and 10 %.
        tau: Kendall's tau-b between predicted and measured.
    """

    n: int
    rmspe: float
    median: float
    within5: float
    within10: float
    tau: float

    @classmethod
    def of(cls, predicted: Sequence[float] | Floats, measured: Sequence[float] | Floats) -> ErrorStatement:
        """Compare; both in ms, in the same order."""
        truth = np.asarray(measured, dtype=np.float64)
        off = np.abs(np.asarray(predicted, dtype=np.float64) / truth - 1)
        tau = float(kendalltau(predicted, truth).statistic) if len(truth) > 1 else float("nan")
        return cls(
            len(truth), float(np.sqrt(np.mean(off**2))), float(np.median(off)), float(np.mean(off <= 0.05)),
            float(np.mean(off <= 0.10)), tau,
        )  # fmt: skip

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"on {self.n} networks kept out: median error {self.median:.1%}, RMSPE {self.rmspe:.1%}, "
            f"{self.within5:.0%} within 5 %, {self.within10:.0%} within 10 %, Kendall tau {self.tau:.3f}"
        )


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of one batch.

    Attributes:
        ms: the prediction; ``low_ms`` and ``high_ms`` hold the truth in about 9 of 10 cases.
        known: share of the predicted time that comes from measured signatures, not from the block model.
    """

    ms: float
    low_ms: float
    high_ms: float
    known: float


class LatencyPredictor:
    """Predicts from a :class:`LatencyTable`: measured blocks where there are any, modelled ones elsewhere.

    Blocks do not add up to the network: the profiler's own work is in their times, caches are colder or warmer,
    a session has a cost of its own. So their sum is corrected linearly: a factor for each family of blocks, a cost
    for each block, a constant; ridge regression on relative errors keeps factors near 1 that the data do not move.
    The correction and the stated error come from profiled networks predicted by tables that lack them
    (cross-validation over networks).

    Raises:
        CatchweightError: the table has too few networks.
    """

    def __init__(self, table: LatencyTable, seed: int = 0) -> None:
        networks = table.trusted
        if len(networks) < LEAST:
            raise CatchweightError(
                f"the latency table in {table.folder} knows {len(networks)} networks, and {LEAST} are the least that "
                f"allow a statement of error: run catchweight profile --target {table.target}"
            )
        self.target = table.target
        measured = np.array([network.whole_ms for network in networks])
        blind = self._blind_features(networks, seed)
        self._blocks = _BlockTimes(networks, seed)
        self._correction = _Correction(blind, measured)
        predicted = _cross_validated(blind, measured)
        self.error = ErrorStatement.of(predicted, measured)
        self._scatter = float(np.quantile(np.abs(np.log(np.maximum(predicted, 1e-9) / measured)), 0.9))

    def signatures(self, signatures: Sequence[Signature]) -> Prediction:
        """Latency of a network with these blocks, in any order."""
        times = self._blocks(signatures)
        ms = max(float(self._correction(_features(signatures, times.ms)[None])[0]), 1e-6)
        known = float(times.ms[times.known].sum() / max(times.ms.sum(), 1e-12))
        unsure = float(np.sqrt(np.sum((times.ms * times.share) ** 2)) / max(times.ms.sum(), 1e-12))
        width = np.hypot(self._scatter, 1.64 * unsure * (1 - known))
        return Prediction(ms, ms * float(np.exp(-width)), ms * float(np.exp(width)), known)

    def network(self, net: nn.Module, size: tuple[int, int]) -> Prediction:
        """Latency of any network at (H, W); it is traced, not run. The errors of :func:`.trace.trace`."""
        traced = trace(net, size, self.target.batch)
        return self.signatures([block.signature for block in blocks(traced, self.target.precision)])

    def latencies(self, signatures: Sequence[Signature]) -> Tensor:
        """Each block's share (n,) float64 of the predicted latency in ms: their sum and :attr:`constant_ms` make it."""
        times = self._blocks(signatures)
        return torch.from_numpy(self._correction.shares(signatures, times.ms))

    @property
    def constant_ms(self) -> float:
        """What a network costs before its first block."""
        return self._correction.constant

    @staticmethod
    def _blind_features(networks: Sequence[ProfiledNetwork], seed: int) -> Floats:
        """Features of every network from tables that do not hold it."""
        fold = np.random.default_rng(seed).permutation(len(networks)) % _FOLDS
        rows: list[Floats | None] = [None] * len(networks)
        for number in range(_FOLDS):
            known = _BlockTimes([n for n, f in zip(networks, fold, strict=True) if f != number], seed)
            for place in np.flatnonzero(fold == number):
                signatures = networks[int(place)].signatures
                rows[place] = _features(signatures, known(signatures).ms)
        return np.stack([row for row in rows if row is not None])


def expected_latency(latencies: Tensor, *probabilities: Tensor) -> Tensor:
    """Expectation of a table of latencies under independent choices: a scalar, differentiable in all.

    Args:
        latencies: ``(n1, ..., nk)``, ms of each combination of options.
        probabilities: k vectors ``(n1,), ..., (nk,)``. With one-hot vectors the result equals that entry exactly.
    """
    result = latencies
    for vector in probabilities:
        # Sum over the leading axis; zeros contribute exactly nothing, so one-hot vectors pick an entry bit by bit.
        result = (vector.to(result.dtype).reshape(-1, *[1] * (result.dim() - 1)) * result).sum(0)
    return result


@dataclass(frozen=True)
class _Times:
    ms: Floats
    share: Floats
    known: np.ndarray


class _BlockTimes:
    """Times of signatures: looked up where measured, modelled elsewhere."""

    def __init__(self, networks: Sequence[ProfiledNetwork], seed: int) -> None:
        pairs = [pair for network in networks for pair in zip(network.signatures, network.ms, strict=True)]
        self._entries: dict[Signature, Entry] = entries(iter(pairs))
        seen = [(signature, entry) for signature, entry in self._entries.items() if signature != signature.alone]
        self._model = BlockModel([signature for signature, _ in seen], [entry.ms for _, entry in seen], seed)

    def __call__(self, signatures: Sequence[Signature]) -> _Times:
        entry = [self._entries.get(signature) for signature in signatures]
        missing = [place for place, found in enumerate(entry) if found is None]
        guess = self._model([signatures[place] for place in missing])
        ms = np.array([found.ms if found else 0.0 for found in entry])
        share = np.array([found.std_ms / max(found.ms, 1e-9) if found else 0.0 for found in entry])
        ms[missing], share[missing] = guess.ms, guess.share
        return _Times(ms, share, np.array([found is not None for found in entry], dtype=bool))


def _features(signatures: Sequence[Signature], ms: Floats) -> Floats:
    """Milliseconds per family, number of blocks, and one."""
    place = {group: number for number, group in enumerate(GROUPS)}
    row = np.zeros(len(GROUPS) + 2)
    for signature, spent in zip(signatures, ms, strict=True):
        row[place[signature.group]] += spent
    row[-2:] = len(signatures) / 100, 1.0
    return row


class _Correction:
    """Linear in the features; fitted to relative error, pulled towards the plain sum."""

    def __init__(self, features: Floats, measured: Floats) -> None:
        plain = features[:, : len(GROUPS)].sum(1)
        ridge = RidgeCV(alphas=np.logspace(-5, 1, 25), fit_intercept=False)
        ridge.fit(features / measured[:, None], 1 - plain / measured)
        self._weights = ridge.coef_ + np.r_[np.ones(len(GROUPS)), 0.0, 0.0]

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(features @ self._weights)

    @property
    def constant(self) -> float:
        return float(self._weights[-1])

    def shares(self, signatures: Sequence[Signature], ms: Floats) -> Floats:
        place = {group: number for number, group in enumerate(GROUPS)}
        factors = np.array([self._weights[place[signature.group]] for signature in signatures])
        return np.asarray(factors * ms + self._weights[-2] / 100)


def _cross_validated(features: Floats, measured: Floats) -> Floats:
    """Every network predicted by a correction that was fitted without it."""
    predicted = np.empty(len(measured))
    for place in range(len(measured)):
        others = np.arange(len(measured)) != place
        predicted[place] = _Correction(features[others], measured[others])(features[place : place + 1])[0]
    return predicted


__all__ = ["ErrorStatement", "LatencyPredictor", "Prediction", "expected_latency"]
