"""The latency table: measured milliseconds per block signature on one device, kept from run to run."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CatchweightError
from ...files import cache_folder, written_aside
from ..target import Target
from ..tracing.blocks import Signature
from .observe import Observation

_META = b"catchweight"
_TRUSTED = 20
"""So many undisturbed networks make the disturbed ones superfluous."""
_COLUMNS = pa.schema([("signature", pa.string()), ("module", pa.string()), ("ms", pa.float64())])


@dataclass(frozen=True)
class Entry:
    """What is known of one signature: mean milliseconds, how often it was seen, and the scatter of those times."""

    ms: float
    n: int
    std_ms: float


@dataclass(frozen=True)
class ProfiledNetwork:
    """One whole network of the table.

    Attributes:
        label: what was profiled, e.g. ``eseg_lite_s:levels=2-5 x0.75``.
        size: (H, W).
        whole_ms: latency of the whole, and ``noisy`` whether that is known exactly.
        signatures, ms: its blocks in order with their times in context.
        usual_ms: the reference kernel's time for which all these times hold (None: none was run).
        rest_ms: kernels that belong to no block.
        disturbed: whether the machine was not itself meanwhile, so that none of these times can be trusted.
    """

    label: str
    size: tuple[int, int]
    whole_ms: float
    noisy: bool
    signatures: tuple[Signature, ...]
    ms: tuple[float, ...]
    rest_ms: float
    usual_ms: float | None = None
    disturbed: bool = False

    def at(self, usual_ms: float) -> ProfiledNetwork:
        """The same on a machine whose reference kernel takes ``usual_ms``."""
        if self.usual_ms is None:
            return self
        scale = usual_ms / self.usual_ms
        return replace(
            self, whole_ms=self.whole_ms * scale, ms=tuple(ms * scale for ms in self.ms), rest_ms=self.rest_ms * scale,
            usual_ms=usual_ms,
        )  # fmt: skip


class LatencyTable:
    """Measured blocks of one target in a folder of Parquet files, one file a network.

    Each file is written in one step and names the device it holds for, so a killed profile loses at most the
    network in hand, several runs may add at once, and figures of another device, runtime version or number of
    threads are refused.

    Args:
        target: whose figures these are.
        folder: default: a folder of the user's cache, one for each fingerprint.
    """

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        self.target = target
        self.fingerprint = target.fingerprint()
        self.folder = Path(folder) if folder else default_folder(target)

    def path(self, label: str, size: tuple[int, int]) -> Path:
        """The file of one network."""
        digest = hashlib.sha256(f"{label} {size[0]}x{size[1]}".encode()).hexdigest()[:20]
        return self.folder / f"{digest}.parquet"

    def __contains__(self, network: tuple[str, tuple[int, int]]) -> bool:
        return self.path(*network).exists()

    def add(self, label: str, size: tuple[int, int], observed: Observation) -> None:
        """Keep one observed network; an earlier one of the same label and size is replaced."""
        rows = pa.table(
            {
                "signature": [row.signature.key for row in observed.rows],
                "module": [row.module for row in observed.rows],
                "ms": [row.ms for row in observed.rows],
            },
            schema=_COLUMNS,
        )
        about = {
            "device": self.fingerprint, "label": label, "size": list(size), "whole": observed.whole.to_json(),
            "rest_ms": observed.rest_ms, "kernels": observed.kernels, "disturbed": observed.disturbed,
        }  # fmt: skip
        with written_aside(self.path(label, size)) as temporary:
            pq.write_table(rows.replace_schema_metadata({_META: json.dumps(about).encode()}), temporary)
        self.__dict__.pop("networks", None)
        self.__dict__.pop("_entries", None)

    @cached_property
    def networks(self) -> tuple[ProfiledNetwork, ...]:
        """Every profiled network, in order of label and size, all times at one pace of the machine.

        Raises:
            CatchweightError: a file is not one of ours, or holds for another device.
        """
        found = [self._read(path) for path in sorted(self.folder.glob("*.parquet"))]
        paces = [network.usual_ms for network in found if network.usual_ms is not None]
        found = [network.at(median(paces)) for network in found] if paces else found
        return tuple(sorted(found, key=lambda network: (network.label, network.size)))

    @property
    def trusted(self) -> tuple[ProfiledNetwork, ...]:
        """The networks that were profiled while the machine was itself; all of them where those are too few."""
        found = tuple(network for network in self.networks if not network.disturbed)
        return found if len(found) >= _TRUSTED else self.networks

    def lookup(self, signature: Signature) -> Entry | None:
        """The measured entry: with the same neighbours if there is one, else the mean over all neighbours."""
        return self._entries.get(signature) or self._entries.get(signature.alone)

    def __len__(self) -> int:
        """Number of signatures (with their neighbours)."""
        return sum(1 for signature in self._entries if signature != signature.alone)

    def rows(self) -> Iterator[tuple[ProfiledNetwork, Signature, float]]:
        """Every observed block of the networks that can be trusted, one network after the other."""
        for network in self.trusted:
            for signature, ms in zip(network.signatures, network.ms, strict=True):
                yield network, signature, ms

    @cached_property
    def _entries(self) -> dict[Signature, Entry]:
        return entries((signature, ms) for _, signature, ms in self.rows())

    def _read(self, path: Path) -> ProfiledNetwork:
        try:
            table = pq.read_table(path)
            about: dict[str, Any] = json.loads((table.schema.metadata or {})[_META])
            columns = table.to_pydict()
            signatures = tuple(Signature.from_key(key) for key in columns["signature"])
        except Exception as error:  # pyarrow raises its own family; a file that is not ours lacks the key
            raise CatchweightError(f"{path} is not a part of a latency table ({error}); delete it") from error
        if about["device"] != self.fingerprint:
            raise CatchweightError(f"{path} was measured elsewhere: {_difference(about['device'], self.fingerprint)}")
        height, width = about["size"]
        whole = about["whole"]
        return ProfiledNetwork(
            about["label"], (height, width), whole["steady_ms"], whole["noisy"], signatures, tuple(columns["ms"]),
            about["rest_ms"], whole["usual_ms"], about.get("disturbed", whole["disturbed"]),
        )  # fmt: skip


def entries(rows: Iterator[tuple[Signature, float]]) -> dict[Signature, Entry]:
    """Mean time of every signature, with its neighbours and without."""
    times: dict[Signature, list[float]] = defaultdict(list)
    for signature, ms in rows:
        times[signature].append(ms)
        times[signature.alone].append(ms)
    return {signature: Entry(mean(values), len(values), pstdev(values)) for signature, values in times.items()}


def default_folder(target: Target) -> Path:
    """Below ``$CATCHWEIGHT_CACHE`` when set, else the user's cache folder, by what the figures hold for."""
    about = json.dumps(target.fingerprint(), sort_keys=True)
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    return cache_folder("latency") / f"{str(target).replace(':', '-')}-{digest}"


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    told = ", ".join(f"{key} {found.get(key)!r} instead of {wanted[key]!r}" for key in differing)
    return f"{told or 'another format'}. Tables do not carry over; profile this device into a folder of its own"
