"""Predicted latency on targets whose runtime tells no times of single blocks: from whole networks alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ...errors import CatchweightError
from ...files import read_json, write_json
from ..target import Target
from ..tracing.blocks import GROUPS, Signature, blocks
from ..tracing.trace import trace
from .block_model import Floats
from .predictor import LEAST, ErrorStatement, Prediction
from .profile import ProfileReport, Subject, Told, timed_out
from .table import default_folder


@dataclass(frozen=True)
class WholeNetwork:
    """A network as it was measured: its blocks, and milliseconds of one batch."""

    label: str
    signatures: tuple[Signature, ...]
    ms: float


class WholeTable:
    """Measured whole networks of one target, one JSON file each, in a folder of the device's own."""

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        self.target = target
        self.folder = Path(folder) if folder else default_folder(target) / "whole"

    def __contains__(self, network: tuple[str, tuple[int, int]]) -> bool:
        return self._path(*network).exists()

    def add(self, subject: Subject, signatures: Sequence[Signature], ms: float) -> None:
        """Keep one measured network."""
        row = {
            "device": self.target.fingerprint(), "label": subject.label, "ms": ms,
            "signatures": [signature.key for signature in signatures],
        }  # fmt: skip
        write_json(self._path(subject.label, subject.size), row)

    @property
    def networks(self) -> tuple[WholeNetwork, ...]:
        """All of them, in order of label.

        Raises:
            CatchweightError: a file is not one of ours, or holds for another device.
        """
        return tuple(sorted((self._read(path) for path in self.folder.glob("*.json")), key=lambda n: (n.label, n.ms)))

    def _path(self, label: str, size: tuple[int, int]) -> Path:
        return self.folder / f"{hashlib.sha256(f'{label} {size[0]}x{size[1]}'.encode()).hexdigest()[:20]}.json"

    def _read(self, path: Path) -> WholeNetwork:
        row: dict[str, Any] = read_json(path)
        try:
            if row["device"] != self.target.fingerprint():
                raise CatchweightError(f"{path} was measured elsewhere; delete it, or profile into another folder")
            return WholeNetwork(row["label"], tuple(map(Signature.from_key, row["signatures"])), float(row["ms"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CatchweightError(f"{path} is not a measured network ({error!r}); delete it") from error


def profile_whole(
    table: WholeTable,
    subjects: Sequence[Subject],
    *,
    minutes: float | None = None,
    least: int = 0,
    seconds: float = 1.0,
    told: Told = lambda done, total, text: None,
) -> ProfileReport:
    """Measure every subject on the table's target; those already there are skipped.

    Args:
        minutes, least: as of :func:`.profile`.
    """
    begun = time.monotonic()
    wanted = [subject for subject in subjects if (subject.label, subject.size) not in table]
    known, failed, done = len(subjects) - len(wanted), [], 0
    for subject in wanted:
        if timed_out(begun, minutes) and len(table.networks) >= least:
            break
        try:
            net = subject.build()
            found = blocks(trace(net, subject.size, table.target.batch), table.target.precision)
            ms = table.target.measure(net, subject.size, seconds).steady_ms
            table.add(subject, [block.signature for block in found], ms)
            text = f"{subject.label} at {subject.size[0]}x{subject.size[1]}: {ms:.2f} ms"
        except CatchweightError as error:
            failed.append((subject.label, str(error)))
            text = f"{subject.label}: skipped, {error}"
        done += 1
        told(known + done, len(subjects), text)
    return ProfileReport(done - len(failed), known, len(wanted) - done, tuple(failed), time.monotonic() - begun)


class CoarsePredictor:
    """``a + sum over families of (b count + c MACs + d elements + e weights)``, all coefficients non-negative.

    Fitted to relative errors of whole networks; the stated error leaves each network out in turn. A single block's
    time cannot be told from it, only a network's.

    Raises:
        CatchweightError: too few networks.
    """

    def __init__(self, networks: Sequence[WholeNetwork]) -> None:
        if len(networks) < LEAST:
            raise CatchweightError(f"{len(networks)} measured networks are too few to predict others: {LEAST} at least")
        features = np.stack([_features(network.signatures) for network in networks])
        measured = np.array([network.ms for network in networks])
        self._scale = np.maximum(features.max(0), 1e-12)
        self._line = _fit(features / self._scale, measured)
        everyone = np.arange(len(measured))
        blind = [_fit(features[everyone != k] / self._scale, measured[everyone != k]) for k in everyone]
        predicted = np.array([features[k] / self._scale @ line for k, line in zip(everyone, blind, strict=True)])
        self.error = ErrorStatement.of(predicted, measured)
        self._width = float(np.quantile(np.abs(np.log(np.maximum(predicted, 1e-9) / measured)), 0.9))

    def signatures(self, signatures: Sequence[Signature]) -> Prediction:
        """Latency of a network with these blocks, in any order."""
        ms = max(float(_features(signatures) / self._scale @ self._line), 1e-6)
        return Prediction(ms, ms * float(np.exp(-self._width)), ms * float(np.exp(self._width)), 0.0)


def _features(signatures: Sequence[Signature]) -> Floats:
    rows = np.zeros((len(GROUPS), 4))
    for signature in signatures:
        elements = sum(int(np.prod(shape)) for shape in (*signature.inputs, signature.output))
        rows[GROUPS.index(signature.group)] += 1, signature.macs, elements, signature.weights
    return np.append(rows.ravel(), 1.0)


def _fit(features: Floats, measured: Floats) -> Floats:
    line, _ = nnls(features / measured[:, None], np.ones_like(measured))
    return np.asarray(line)


__all__ = ["CoarsePredictor", "WholeNetwork", "WholeTable", "profile_whole"]
