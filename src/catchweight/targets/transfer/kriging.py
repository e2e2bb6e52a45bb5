"""Gaussian processes over architectures: how far a device's latencies may move, and where k measurements put them."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

FREEDOM = 4.0
"""Of Student's t: low enough that one wrong probe of ten cannot bend the whole prediction."""
DOUBT = 4.0
"""What the prior's scale counts against the surprises of the k probes, in probes."""

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Covariances between two sets of architectures by origin: family, additive, smooth."""


@dataclass(frozen=True)
class Prior:
    """How far a new device may be from the known ones: variances of log latency.

    ``family`` 1 means that it differs from their mean as they do; ``additive`` and ``smooth`` are deviations in the
    price of additive features and in anything smooth; ``noise`` is that of one measurement.
    """

    family: float = 1.0
    additive: float = 0.01
    smooth: float = 0.003
    noise: float = 0.003


_NOISES = (0.0003, 0.001, 0.003, 0.01)
PRIORS = [Prior(*values) for values in product((1.0, 3.0), (0.003, 0.01, 0.03), (0.001, 0.004), _NOISES)]
_LOYALTY = 0.1
"""Log-odds lost per squared log distance from the prior that known devices chose: the k probes may argue for others."""


@dataclass(frozen=True)
class Points:
    """Architectures in one space of devices: mean log latency (n,), and coordinates whose products are covariances."""

    mean: np.ndarray
    family: np.ndarray
    additive: np.ndarray
    smooth: np.ndarray

    def take(self, index: np.ndarray) -> Points:
        return Points(self.mean[index], self.family[index], self.additive[index], self.smooth[index])

    def parts(self, other: Points) -> Parts:
        distance = cdist(self.smooth, other.smooth, "sqeuclidean")
        return self.family @ other.family.T, self.additive @ other.additive.T, np.exp(-distance / 2)

    def covariance(self, other: Points, prior: Prior) -> np.ndarray:
        return mixed(self.parts(other), prior)

    def variance(self, prior: Prior) -> np.ndarray:
        family, additive = (self.family**2).sum(1), (self.additive**2).sum(1)
        return prior.family * family + prior.additive * additive + prior.smooth


class Posterior:
    """The process given k log latencies ``observed`` at ``probes``; its factor is free (universal kriging)."""

    def __init__(self, probes: Points, observed: np.ndarray, prior: Prior, covariance: np.ndarray) -> None:
        self.prior = prior
        above = observed - probes.mean
        weights = np.ones(len(above))
        for _ in range(12):
            weights = self._reweighted(covariance, above, weights)
        # Devices differ in how well the process fits them; the probes say how well, the prior counts as four of them.
        surprise = (above - self._shift) @ self._alpha
        self._scale = (DOUBT + surprise) / (DOUBT + len(above) - 1)
        self.evidence = self._evidence(surprise, weights)

    def at(self, points: Points, cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (m,) of a measurement; ``cross`` (m, k) is the prior covariance with the probes."""
        mean = points.mean + self._shift + cross @ self._alpha
        solved = cho_solve(self._factor, cross.T)
        unexplained = 1 - self._ones @ cross.T
        variance = points.variance(self.prior) - (cross.T * solved).sum(0) + unexplained**2 / self._ones.sum()
        return mean, (np.maximum(variance, 0) + self.prior.noise) * self._scale

    def _reweighted(self, covariance: np.ndarray, above: np.ndarray, weights: np.ndarray) -> np.ndarray:
        noise = self.prior.noise / weights
        self._solve(covariance + np.diag(noise), above)
        return (FREEDOM + 1) / (FREEDOM + (noise * self._alpha) ** 2 / self.prior.noise)

    def _evidence(self, surprise: float, weights: np.ndarray) -> float:
        """Log probability of the probes and the most probable weights, up to a constant that all priors share."""
        volume = np.log(np.diag(self._factor[0])).sum() + np.log(self._ones.sum()) / 2
        return float(-surprise / 2 - volume + FREEDOM / 2 * (np.log(weights) - weights).sum())

    def _solve(self, matrix: np.ndarray, above: np.ndarray) -> None:
        self._factor = cho_factor(matrix, lower=True)
        self._ones = cho_solve(self._factor, np.ones(len(above)))
        self._shift = float(self._ones @ above / self._ones.sum())
        self._alpha = cho_solve(self._factor, above - self._shift)


class Mixture:
    """Posteriors of all the priors, weighed by how credible the probes and the known devices find each."""

    def __init__(self, probes: Points, observed: np.ndarray, parts: Parts, chosen: Prior) -> None:
        fits = [Posterior(probes, observed, prior, mixed(parts, prior)) for prior in PRIORS]
        odds = np.array([fit.evidence - _LOYALTY * distance(fit.prior, chosen) for fit in fits])
        weights = np.exp(odds - odds.max())
        kept = np.flatnonzero(weights > 1e-4)
        self._fits, self._weights = [fits[index] for index in kept], weights[kept] / weights[kept].sum()

    def at(self, points: Points, cross: Parts) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (m,) of a measurement's log latency; ``cross`` are prior covariances with the probes."""
        each = [fit.at(points, mixed(cross, fit.prior)) for fit in self._fits]
        means, variances = (np.array(values) for values in zip(*each, strict=True))
        mean = self._weights @ means
        return mean, self._weights @ (variances + (means - mean) ** 2)


def mixed(parts: Parts, prior: Prior) -> np.ndarray:
    return prior.family * parts[0] + prior.additive * parts[1] + prior.smooth * parts[2]


def distance(one: Prior, other: Prior) -> float:
    return float((np.log(np.array(astuple(one)) / np.array(astuple(other))) ** 2).sum())


def informative(covariance: np.ndarray, noise: float, k: int) -> np.ndarray:
    """Greedy choice by the drop in mean variance; ``covariance`` (m, m) is of the candidates."""
    covariance = covariance.copy()
    chosen: list[int] = []
    for _ in range(k):
        gains = (covariance**2).sum(axis=0) / (np.diag(covariance) + noise)
        gains[chosen] = -1
        best = int(np.argmax(gains))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + noise)
    return np.array(chosen)
