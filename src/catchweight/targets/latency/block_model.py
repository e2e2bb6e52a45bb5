"""Latency of blocks that were never measured: a physical first guess, corrected by gradient boosting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.ensemble import HistGradientBoostingRegressor

from ..tracing.blocks import GROUPS, Signature

Floats = NDArray[np.float64]

_FLOOR_MS = 5e-4
"""Half of the profiler's resolution: a block measured with 0 is not infinitely fast."""
_MEMBERS = 5
_KINDS = 64  # categories a tree may tell apart; kinds beyond are one


@dataclass(frozen=True)
class Guess:
    """Predicted milliseconds of blocks, and the standard deviation of the prediction as a share of it."""

    ms: Floats
    share: Floats


class BlockModel:
    """Predicts milliseconds from signatures.

    The first guess of each family is ``a + b MACs + c elements + d weights`` with non-negative coefficients: it
    goes on growing beyond what was measured, where trees cannot follow. A bag of gradient-boosted trees (Ke et al.,
    LightGBM, 2017, as in scikit-learn) predicts the logarithm of what the guess misses. The scatter of the bag and
    the error on what each member did not see make the uncertainty.
    """

    def __init__(self, signatures: Sequence[Signature], ms: Sequence[float], seed: int = 0) -> None:
        times = np.maximum(np.asarray(ms, dtype=np.float64), _FLOOR_MS)
        kinds: dict[str, int] = {}
        for signature in signatures:
            kinds[signature.kind] = kinds.get(signature.kind, 0) + 1
        common = sorted(kinds, key=lambda kind: (-kinds[kind], kind))[: _KINDS - 1]
        self._kinds = {kind: place for place, kind in enumerate(common)}
        contexts = sorted({text for signature in signatures for text in (signature.before, signature.after)})
        self._contexts = {text: place for place, text in enumerate(contexts[: _KINDS - 1])}
        self._lines = self._fit_lines(signatures, times)
        missed = np.log(times / self._first(signatures))
        self._bag, self._error = self._fit_bag(self._features(signatures), missed, times, seed)

    def __call__(self, signatures: Sequence[Signature]) -> Guess:
        """Predict; an empty sequence gives empty arrays."""
        if not signatures:
            return Guess(np.zeros(0), np.zeros(0))
        features = self._features(signatures)
        votes = np.stack([member.predict(features) for member in self._bag])
        ms = self._first(signatures) * np.exp(votes.mean(0))
        return Guess(ms, np.hypot(votes.std(0), self._error))

    def _fit_lines(self, signatures: Sequence[Signature], times: Floats) -> dict[str, Floats]:
        groups = np.array([signature.group for signature in signatures])
        terms = _terms(signatures)
        lines = {"": _relative_nnls(terms, times)}
        for group in GROUPS:
            here = groups == group
            if here.sum() >= 2 * terms.shape[1]:
                lines[group] = _relative_nnls(terms[here], times[here])
        return lines

    def _first(self, signatures: Sequence[Signature]) -> Floats:
        lines = np.stack([self._lines.get(signature.group, self._lines[""]) for signature in signatures])
        return np.maximum((_terms(signatures) * lines).sum(1), _FLOOR_MS)

    def _fit_bag(
        self, features: Floats, missed: Floats, times: Floats, seed: int
    ) -> tuple[list[HistGradientBoostingRegressor], float]:
        rng = np.random.default_rng(seed)
        # Long blocks decide a network's latency; the root keeps short ones from being forgotten.
        weights = np.sqrt(times)
        bag, errors = [], []
        for member in range(_MEMBERS):
            drawn = rng.integers(0, len(missed), len(missed))
            unseen = np.setdiff1d(np.arange(len(missed)), drawn)
            model = HistGradientBoostingRegressor(
                max_iter=250, learning_rate=0.06, max_leaf_nodes=24, min_samples_leaf=8, l2_regularization=1.0,
                categorical_features=[0, 1, 2], random_state=seed + member,
            ).fit(features[drawn], missed[drawn], sample_weight=weights[drawn])  # fmt: skip
            bag.append(model)
            if len(unseen):
                errors.append(
                    np.average((model.predict(features[unseen]) - missed[unseen]) ** 2, weights=weights[unseen])
                )
        return bag, float(np.sqrt(np.mean(errors))) if errors else 0.0

    def _features(self, signatures: Sequence[Signature]) -> Floats:
        other = _KINDS - 1
        rows = [
            [
                self._kinds.get(s.kind, other), self._contexts.get(s.before, other), self._contexts.get(s.after, other),
                *_numbers(s),
            ]
            for s in signatures
        ]  # fmt: skip
        return np.array(rows, dtype=np.float64)


def _terms(signatures: Sequence[Signature]) -> Floats:
    """(n, 4): one, 1e6 MACs, 1e4 elements, 1e4 weights."""
    return np.array([[1.0, s.macs / 1e6, s.elements / 1e4, s.weights / 1e4] for s in signatures])


def _relative_nnls(terms: Floats, times: Floats) -> Floats:
    """Non-negative coefficients of the least squared relative error."""
    coefficients, _ = nnls(terms / times[:, None], np.ones(len(times)))
    return coefficients


def _numbers(s: Signature) -> list[float]:
    shape_in, shape_out = (_image(shape) for shape in (s.inputs[0] if s.inputs else s.output, s.output))
    channels_in, channels_out = shape_in[0], shape_out[0]
    return [
        np.log2(s.macs + 1), np.log2(s.elements + 1), np.log2(s.weights + 1), np.log2((s.macs + 1) / (s.elements + 1)),
        np.log2(channels_in), np.log2(channels_out), np.log2(shape_out[1]), np.log2(shape_out[2]),
        channels_in % 8 == 0, channels_out % 8 == 0, channels_in % 16 == 0, channels_out % 16 == 0,
        shape_out[2] % 8, s.kernel[0], s.kernel[1], s.stride[0], s.dilation[0], np.log2(s.groups), len(s.inputs),
        shape_out[1] * shape_out[2] / max(shape_in[1] * shape_in[2], 1),
    ]  # fmt: skip


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, rows, columns) of any shape; tokens (B, N, C) are C channels of N rows."""
    if len(shape) == 4:
        return max(shape[1], 1), max(shape[2], 1), max(shape[3], 1)
    if len(shape) == 3:
        return max(shape[2], 1), max(shape[1], 1), 1
    flat = int(np.prod(shape)) if shape else 1
    return max(flat, 1), 1, 1
