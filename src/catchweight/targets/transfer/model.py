"""Few-shot transfer: what many known devices say about a new one, after k whole-network measurements on it.

The new device's log latency is a Gaussian process over architectures. Its mean is the mean curve of the known devices
times an unknown factor; around it the device may move as the known devices differ from one another (their empirical
covariance, of low rank), as additive costs change (another price for one operator), and smoothly in the features.
How far each may go is chosen by leaving known devices out, then weighed by how probable it makes the k measurements.
Any of these may be an outlier: the noise is Student's t, fitted by reweighting (Lange, Little and Taylor, 1989).

Asking a few measurements of an unseen device, and judging by rank correlation, follows HELP (Lee et al., 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Kernel, WhiteKernel
from sklearn.preprocessing import StandardScaler

from ...errors import UsageError, unknown
from .kriging import PRIORS, Mixture, Points, Posterior, Prior, informative, mixed

PROBES = ("informative", "random")
"""Ways to choose the architectures to measure on the new device."""

_FLAT = 4.0
"""Variance of the factor's logarithm while probes are chosen; a fit leaves it free."""
_TUNING = 300
"""Architectures that are enough to tune the smoothing kernel on, and to judge a prior by."""
_LEAST = 20
_DRAWS = 2


class TransferModel:
    """Latency knowledge of known devices, ready to be adapted to a new one.

    Attributes (after :meth:`fit`):
        prior: chosen by leaving each known device out in turn; the default with fewer than three.
        calibration: factor on the predicted spread that made 68 % of the left-out latencies fall within one.
    """

    def __init__(self, additive: Sequence[int] | None = None, seed: int = 0) -> None:
        """``additive``: features whose cost adds up (counts of operators, ms of a block kind); None means all."""
        self.additive, self.seed = additive, seed
        self.prior, self.calibration = Prior(), 1.0

    def fit(
        self,
        features: np.ndarray,
        latencies: np.ndarray,
        devices: Sequence[Hashable] | None = None,
        probes: int = 10,
    ) -> TransferModel:
        """Learn from known devices; the cost grows with n^3, and a thousand architectures are plenty.

        Args:
            features: (n, d), any numbers known without a measurement.
            latencies: (n, D) ms, NaN where not measured; one column a device, or a device in one setting.
            devices: D names; columns of one name are one device and are left out together. None: all differ.
            probes: measurements that :meth:`adapt` is expected to get; the prior is chosen for that number, or for
                half of what is measured on a known device where that is less: the other half judges.

        Raises:
            UsageError: shapes disagree, a latency is not positive, or fewer than 20 architectures are complete.
        """
        features, latencies = _matrix(features, "features"), np.asarray(latencies, dtype=float)
        groups = _groups(features, latencies, devices)
        self._curves = _Curves(features, np.log(latencies), self.seed)
        self._columns = _columns(self.additive, features.shape[1])
        self._known = self._cells(features)
        self._space = _Space(self._known, _weights(groups))
        if len(set(groups)) >= 3:
            self.prior, self.calibration = self._tuned(np.log(latencies), groups, probes)
        return self

    def choose_probes(self, features: np.ndarray, k: int, how: str = "informative", seed: int = 0) -> np.ndarray:
        """Indices (k,) of the architectures to measure among ``features`` (m, d); no measurement is needed.

        ``informative`` takes greedily what most lowers the mean variance of all the others (A-optimal design; Seo et
        al., 2000); ``random`` draws by ``seed``.

        Raises:
            UsageError: more probes than candidates, or an unknown way.
        """
        features = self._checked(features)
        if how not in PROBES:
            raise unknown("way of choosing probes", how, PROBES)
        if not 1 <= k <= len(features):
            raise UsageError(f"cannot choose {k} probes among {len(features)} architectures")
        if how == "random":
            return np.random.default_rng(seed).choice(len(features), k, replace=False)
        points = self._space.points(self._cells(features))
        return informative(points.covariance(points, self.prior) + _FLAT, self.prior.noise, k)

    def adapt(self, features: np.ndarray, latencies: np.ndarray) -> Predictor:
        """The predictor of a new device from its measurements: ``features`` (k, d) and ``latencies`` (k,) ms.

        Raises:
            UsageError: shapes disagree, or a latency is not positive.
        """
        features, latencies = self._checked(features), np.asarray(latencies, dtype=float)
        if latencies.shape != (len(features),) or not len(latencies):
            raise UsageError(f"{len(features)} architectures, but latencies of shape {latencies.shape}")
        if not (np.isfinite(latencies) & (latencies > 0)).all():
            raise UsageError("every probe needs a positive latency in ms; leave out those that failed")
        points = self._space.points(self._cells(features))
        return Predictor(self, points, Mixture(points, np.log(latencies), points.parts(points), self.prior))

    def _points(self, features: np.ndarray) -> Points:
        return self._space.points(self._cells(self._checked(features)))

    def _cells(self, features: np.ndarray) -> _Cells:
        smooth, curves = self._curves(features)
        return _Cells(curves, features[:, self._columns], smooth)

    def _checked(self, features: np.ndarray) -> np.ndarray:
        features = _matrix(features, "features")
        if not hasattr(self, "_curves"):
            raise UsageError("the model knows no device yet: call fit first")
        if features.shape[1] != self._curves.width:
            raise UsageError(f"the model knows {self._curves.width} features, but got {features.shape[1]}")
        return features

    def _tuned(self, logs: np.ndarray, groups: Sequence[Hashable], k: int) -> tuple[Prior, float]:
        """The prior with the least error on left-out devices, and the factor that its spread needs there."""
        trials = list(self._trials(logs, groups, k))
        weights = np.array([trial.weight for trial in trials])
        errors = [weights @ [trial.misses(prior).mean() for trial in trials] for prior in PRIORS]
        best = PRIORS[int(np.argmin(errors))]
        ratios = np.array([trial.spread_due(best) for trial in trials[::_DRAWS]])
        weights = weights[::_DRAWS]
        return best, float(np.exp(weights @ np.log(ratios) / weights.sum()))

    def _trials(self, logs: np.ndarray, groups: Sequence[Hashable], k: int) -> Iterator[_Trial]:
        rng = np.random.default_rng(self.seed)
        for name in dict.fromkeys(groups):
            points = _Space(self._known, _weights(groups, without=name)).points(self._known)
            for column in [index for index, group in enumerate(groups) if group == name]:
                measured = np.flatnonzero(np.isfinite(logs[:, column]))
                most = min(k, len(measured) // 2)
                for _ in range(_DRAWS):
                    some = rng.permutation(measured)[: most + _TUNING]
                    probes, rest = points.take(some[:most]), points.take(some[most:])
                    yield _Trial(probes, rest, logs[some, column], 1 / groups.count(name))


@dataclass(frozen=True)
class Predictor:
    """Latency on one new device; made by :meth:`TransferModel.adapt`."""

    model: TransferModel
    probes: Points
    mixture: Mixture

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Median and standard deviation (m,) in ms of a measurement of each architecture (m, d)."""
        points = self.model._points(features)
        mean, variance = self.mixture.at(points, points.parts(self.probes))
        latency = np.exp(mean)
        return latency, latency * np.sqrt(variance) * self.model.calibration


@dataclass(frozen=True)
class _Cells:
    """Architectures as the model sees them: log latency on each known device (n, D) up to a factor; features."""

    curves: np.ndarray
    additive: np.ndarray
    smooth: np.ndarray


class _Curves:
    """Log latency on every known device as a smooth function of the features: measured noise must not be passed on."""

    def __init__(self, features: np.ndarray, logs: np.ndarray, seed: int) -> None:
        self.width = features.shape[1]
        self._used = features.std(axis=0) > 1e-9
        self._scaler = StandardScaler().fit(features[:, self._used])
        self._centre = np.nanmean(logs, axis=0)
        self._spread = np.maximum(np.nanstd(logs, axis=0), 1e-6)
        inputs, targets = self._scaler.transform(features[:, self._used]), (logs - self._centre) / self._spread
        kernel = _tuned_kernel(inputs, targets, seed)
        self._fits = []
        for mask, columns in _by_mask(np.isfinite(targets)):
            regressor = GaussianProcessRegressor(kernel, optimizer=None)
            self._fits.append((columns, regressor.fit(inputs[mask], targets[mask][:, columns])))

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features scaled to unit mean square (n, s), and curves (n, D)."""
        inputs = self._scaler.transform(features[:, self._used])
        curves = np.empty((len(features), len(self._centre)))
        for columns, regressor in self._fits:
            curves[:, columns] = regressor.predict(inputs).reshape(len(features), -1)
        return inputs / np.sqrt(inputs.shape[1]), curves * self._spread


class _Space:
    """Where devices weighing ``weights`` (D,) put an architecture; a device of weight 0 is not known."""

    def __init__(self, cells: _Cells, weights: np.ndarray) -> None:
        self._weights = weights
        relative = self._relative(cells)
        self._centre, self._scale = relative.mean(axis=0), np.maximum(relative.std(axis=0), 1e-9)
        self._scale *= np.sqrt(relative.shape[1])

    def points(self, cells: _Cells) -> Points:
        mean = cells.curves @ self._weights
        family = (cells.curves - mean[:, None]) * np.sqrt(self._weights)
        return Points(mean, family, (self._relative(cells) - self._centre) / self._scale, cells.smooth)

    def _relative(self, cells: _Cells) -> np.ndarray:
        """What one more ms per unit of an additive feature, or per network, changes in log latency."""
        prices = np.hstack([cells.additive, np.ones((len(cells.additive), 1))])
        return prices / np.exp(cells.curves @ self._weights)[:, None]


class _Trial:
    """A known device treated as new: probes on it, and all its other architectures to be predicted."""

    def __init__(self, probes: Points, rest: Points, observed: np.ndarray, weight: float) -> None:
        self.probes, self.rest, self.weight = probes, rest, weight
        self.seen, self.truth = observed[: len(probes.mean)], observed[len(probes.mean) :]
        self._inner, self._cross = probes.parts(probes), rest.parts(probes)

    def misses(self, prior: Prior) -> np.ndarray:
        """Absolute errors of log latency (m,) under one prior."""
        posterior = Posterior(self.probes, self.seen, prior, mixed(self._inner, prior))
        return np.abs(posterior.at(self.rest, mixed(self._cross, prior))[0] - self.truth)

    def spread_due(self, chosen: Prior) -> float:
        """What the predicted spread must be multiplied with to cover 68 % of the errors."""
        mean, variance = Mixture(self.probes, self.seen, self._inner, chosen).at(self.rest, self._cross)
        return float(np.quantile(np.abs(mean - self.truth) / np.sqrt(variance), 0.68))


def _tuned_kernel(inputs: np.ndarray, targets: np.ndarray, seed: int) -> Kernel:
    """Length scale, slope and noise that explain all the devices best, by marginal likelihood."""
    complete = np.flatnonzero(np.isfinite(targets).all(axis=1))
    if len(complete) < _LEAST:
        raise UsageError(
            f"only {len(complete)} architectures are measured on every known device; {_LEAST} are needed at least"
        )
    some = np.random.default_rng(seed).permutation(complete)[:_TUNING]
    start = np.sqrt(inputs.shape[1])
    kernel = ConstantKernel(0.3, (1e-3, 1e2)) * RBF(start, (start / 20, start * 20)) + WhiteKernel(0.03, (1e-5, 1))
    kernel += ConstantKernel(0.01, (1e-6, 1e1)) * DotProduct(1.0, "fixed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hyper-parameter at its bound is a valid answer
        return GaussianProcessRegressor(kernel).fit(inputs[some], targets[some]).kernel_


def _by_mask(measured: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Columns that were measured on the same architectures: mask (n,) and their indices."""
    masks, owner = np.unique(measured.T, axis=0, return_inverse=True)
    for index, mask in enumerate(masks):
        yield mask, np.flatnonzero(owner.ravel() == index).tolist()


def _weights(groups: Sequence[Hashable], without: Hashable | None = None) -> np.ndarray:
    """(D,) summing to 1: every device weighs the same, however many columns it has; ``without`` weighs 0."""
    sizes = {name: groups.count(name) for name in groups}
    weights = np.array([0.0 if without is not None and name == without else 1 / sizes[name] for name in groups])
    return weights / weights.sum()


def _groups(features: np.ndarray, latencies: np.ndarray, devices: Sequence[Hashable] | None) -> list[Hashable]:
    if latencies.ndim != 2 or len(latencies) != len(features):
        raise UsageError(
            f"{len(features)} architectures, but latencies of shape {latencies.shape}; (n, devices) is due"
        )
    known = ~np.isnan(latencies)
    if not (np.isfinite(latencies[known]) & (latencies[known] > 0)).all():
        raise UsageError("latencies must be positive ms, or NaN where nothing was measured")
    groups: list[Hashable] = list(range(latencies.shape[1])) if devices is None else list(devices)
    if len(groups) != latencies.shape[1] or not groups:
        raise UsageError(f"{latencies.shape[1]} columns of latencies, but {len(groups)} device names")
    return groups


def _columns(additive: Sequence[int] | None, width: int) -> list[int]:
    columns = list(range(width)) if additive is None else list(additive)
    if any(not 0 <= column < width for column in columns):
        raise UsageError(f"additive features {columns} are not all among the {width} features")
    return columns


def _matrix(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UsageError(f"{name} must be a finite (n, d) matrix, but its shape is {features.shape}")
    return features
