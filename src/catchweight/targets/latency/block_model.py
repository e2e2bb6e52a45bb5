"""Latency of blocks that were never measured: a physical first guess, corrected by two learners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from ..tracing.blocks import GROUPS, Signature
from ..tracing.runtime_steps import BLOCK

Floats = NDArray[np.float64]

_FLOOR_MS = 5e-4
"""Half of the profiler's resolution: a block measured with 0 is not infinitely fast."""
_WEIGHT = -0.2
"""Errors of the first guess count as ms to this power: -1 is relative, where tiny blocks decide, and 0 absolute."""
_KINDS = 64  # categories a tree may tell apart; kinds beyond are one
_LEAST_LINE, _LEAST_PROCESS, _MOST_PROCESS = 8, 20, 1500
"""Fewest blocks of a family for a guess and for a process of its own, and the most that a process looks at."""
_KERNEL = ConstantKernel(0.3**2, "fixed") * Matern(10.0, "fixed", nu=1.5) + ConstantKernel(0.2**2, "fixed") * RBF(
    20.0, "fixed"
)
"""On features of unit variance: smooth over many of them at once, so that sizes never seen lie between those seen."""
_NOISE = 0.05
"""Relative scatter of one measured block."""


@dataclass(frozen=True)
class Guess:
    """Predicted milliseconds of blocks, and the standard deviation of the prediction as a share of it."""

    ms: Floats
    share: Floats


class BlockModel:
    """Predicts milliseconds from signatures.

    The first guess of each family is ``a + b MACs + c elements + d weights`` with non-negative coefficients: it goes on
    growing beyond what was measured, where learners cannot follow. What it misses, as a logarithm, is predicted by
    gradient-boosted trees (Ke et al., LightGBM, 2017, as in scikit-learn) and by a Gaussian process a family
    (Rasmussen and Williams, 2006), and their mean is taken: trees see steps, processes see slopes. The process's own
    deviation and the disagreement of the two make the uncertainty.
    """

    def __init__(self, signatures: Sequence[Signature], ms: Sequence[float], seed: int = 0) -> None:
        times = np.maximum(np.asarray(ms, dtype=np.float64), _FLOOR_MS)
        self._kinds = _numbered(signature.kind for signature in signatures)
        self._contexts = _numbered(text for signature in signatures for text in (signature.before, signature.after))
        self._lines = self._fit_lines(signatures, times)
        missed = np.log(times / self._first(signatures))
        # Long blocks decide a network's latency; the root keeps short ones from being forgotten.
        self._trees = HistGradientBoostingRegressor(
            max_iter=250, learning_rate=0.06, max_leaf_nodes=24, min_samples_leaf=8, l2_regularization=1.0,
            categorical_features=[0, 1, 2], random_state=seed,
        ).fit(self._features(signatures), missed, sample_weight=np.sqrt(times))  # fmt: skip
        self._processes = _fit_processes(signatures, missed, seed)

    def __call__(self, signatures: Sequence[Signature]) -> Guess:
        """Predict; an empty sequence gives empty arrays."""
        if not signatures:
            return Guess(np.zeros(0), np.zeros(0))
        trees = np.asarray(self._trees.predict(self._features(signatures)))
        smooth, deviation = trees.copy(), np.full(len(trees), 0.5)
        for group, process in self._processes.items():
            here = _places(signatures, group)
            if len(here):
                smooth[here], deviation[here] = process([signatures[place] for place in here])
        ms = self._first(signatures) * np.exp((trees + smooth) / 2)
        return Guess(ms, np.hypot(deviation, (trees - smooth) / 2))

    def _fit_lines(self, signatures: Sequence[Signature], times: Floats) -> dict[str, Floats]:
        terms = _terms(signatures)
        lines = {"": _line(terms, times)}
        for group in GROUPS:
            here = _places(signatures, group)
            if len(here) >= _LEAST_LINE:
                lines[group] = _line(terms[here], times[here])
        return lines

    def _first(self, signatures: Sequence[Signature]) -> Floats:
        lines = np.stack([self._lines.get(signature.group, self._lines[""]) for signature in signatures])
        return np.maximum((_terms(signatures) * lines).sum(1), _FLOOR_MS)

    def _features(self, signatures: Sequence[Signature]) -> Floats:
        """The trees' features: what a block is and stands between, as categories, and its numbers."""
        other = _KINDS - 1
        rows = [
            [
                self._kinds.get(s.kind, other), self._contexts.get(s.before, other), self._contexts.get(s.after, other),
                *_numbers(s),
            ]
            for s in signatures
        ]  # fmt: skip
        return np.array(rows, dtype=np.float64)


class _Process:
    """A Gaussian process over the blocks of one family; equal ones count as one that is known better."""

    def __init__(self, signatures: Sequence[Signature], missed: Floats, rng: np.random.Generator) -> None:
        seen: dict[tuple[float, ...], list[float]] = defaultdict(list)
        for signature, value in zip(signatures, missed, strict=True):
            seen[_smooth_numbers(signature)].append(float(value))
        rows = list(seen)
        if len(rows) > _MOST_PROCESS:
            rows = [rows[place] for place in np.sort(rng.choice(len(rows), _MOST_PROCESS, replace=False))]
        features = np.array(rows)
        self._middle, self._width = features.mean(0), features.std(0) + 1e-9
        noise = np.array([_NOISE**2 / len(seen[row]) + 1e-4 for row in rows])
        process = GaussianProcessRegressor(_KERNEL, alpha=noise, optimizer=None, normalize_y=True)
        self._process = process.fit(self._scaled(features), np.array([np.mean(seen[row]) for row in rows]))

    def __call__(self, signatures: Sequence[Signature]) -> tuple[Floats, Floats]:
        """Mean and deviation of the logarithm."""
        features = np.array([_smooth_numbers(signature) for signature in signatures])
        mean, deviation = self._process.predict(self._scaled(features), return_std=True)
        return np.asarray(mean), np.asarray(deviation)

    def _scaled(self, features: Floats) -> Floats:
        return (features - self._middle) / self._width


def _fit_processes(signatures: Sequence[Signature], missed: Floats, seed: int) -> dict[str, _Process]:
    rng, found = np.random.default_rng(seed), {}
    for group in GROUPS:
        here = _places(signatures, group)
        if len(here) >= _LEAST_PROCESS:
            found[group] = _Process([signatures[place] for place in here], missed[here], rng)
    return found


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Numbers for the most frequent names."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return {name: place for place, name in enumerate(sorted(counts, key=lambda n: (-counts[n], n))[: _KINDS - 1])}


def _places(signatures: Sequence[Signature], group: str) -> NDArray[np.intp]:
    return np.flatnonzero([signature.group == group for signature in signatures])


def _terms(signatures: Sequence[Signature]) -> Floats:
    """(n, 5): one, 1e6 MACs of pointwise and of other blocks, 1e4 elements, 1e4 weights."""
    rows = []
    for s in signatures:
        macs, pointwise = _filled_macs(s) / 1e6, s.kernel == (1, 1)
        rows.append([1.0, macs * pointwise, macs * (not pointwise), s.elements / 1e4, s.weights / 1e4])
    return np.array(rows)


def _filled_macs(s: Signature) -> float:
    """Multiply-adds that a processor executes: convolutions fill their channels up to whole vectors."""
    if s.group != "conv":
        return s.macs
    channels = s.inputs[0][1] / s.groups, s.output[1]
    return s.macs * float(np.prod([_filled(c) / c for c in channels]))


def _filled(channels: float) -> float:
    return float(-(-channels // BLOCK) * BLOCK)


def _line(terms: Floats, times: Floats) -> Floats:
    """Non-negative coefficients of the least squared error, weighted by ms to the power of ``_WEIGHT``."""
    weights = times**_WEIGHT
    coefficients, _ = nnls(terms * weights[:, None], times * weights)
    return coefficients


def _smooth_numbers(s: Signature) -> tuple[float, ...]:
    """What a process sees: :func:`_numbers`, and flags for what trees see as categories."""
    flags = [
        any(act in s.kind for act in ("relu", "hardtanh", "clamp")),
        any(act in s.kind for act in ("silu", "gelu", "sigmoid", "hardswish")),
        "+add" in s.kind,
        *(group in side for side in (s.before, s.after) for group in ("conv", "depthwise", "resize", "elementwise")),
    ]
    return (*_numbers(s), *map(float, flags))


def _numbers(s: Signature) -> list[float]:
    shape_in, shape_out = (_image(shape) for shape in (s.inputs[0] if s.inputs else s.output, s.output))
    channels_in, channels_out = shape_in[0], shape_out[0]
    return [
        np.log2(s.macs + 1), np.log2(s.elements + 1), np.log2(s.weights + 1), np.log2((s.macs + 1) / (s.elements + 1)),
        np.log2(channels_in), np.log2(channels_out), np.log2(shape_out[1]), np.log2(shape_out[2]),
        channels_in / _filled(channels_in), channels_out / _filled(channels_out), (shape_out[2] % 8) / 8,
        s.kernel[0], s.kernel[1], s.stride[0], s.dilation[0], np.log2(s.groups), len(s.inputs),
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
