"""Latencies of NAS-Bench-201 cells on many devices: the reader, and what a latency model may know about a cell.

The cells are those of NAS-Bench-201 (Dong and Yang, 2020); the latencies are those of HW-NAS-Bench (Li et al., 2021)
and of HELP (Lee et al., 2021). The file is a gzipped CSV table with one row a cell.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import CatchweightError

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) of a cell's six edges, in the order of the architecture string; node 0 is the input, node 3 the output."""

_NONE, _SKIP = OPERATORS.index("none"), OPERATORS.index("skip_connect")
_HW = re.compile(r"hw_(cifar100|cifar10|imagenet16_120)_(\w+)_latency")
_HELP = re.compile(r"help_(\w+)_latency")
_GPU_BATCH = re.compile(r"(\d+ti|titan\w*)_(1|32|256)")
_MACS, _PARAMS = "cifar10_flops_m", "cifar10_params_m"


@dataclass(frozen=True)
class NasBench201:
    """A table of cells and their latencies.

    ``operators`` is (n, 6), an index into :data:`OPERATORS` for each of :data:`EDGES`; ``latencies`` maps a column
    such as ``titan_rtx_32`` or ``raspi4/cifar10`` to (n,) ms, NaN where nothing was measured; ``macs`` and ``params``
    are (n,) millions, of the CIFAR-10 network; cells of equal ``unique`` string compute the same function.
    """

    cells: tuple[str, ...]
    unique: tuple[str, ...]
    operators: np.ndarray
    latencies: dict[str, np.ndarray]
    macs: np.ndarray
    params: np.ndarray

    def connected(self) -> np.ndarray:
        """(n,) bool: the output depends on the input. A compiler may remove the other networks altogether."""
        return np.any(live_edges(self.operators), axis=1)

    def columns(self, dataset: str = "cifar10") -> list[str]:
        """Every HELP column, and the HW-NAS-Bench columns of one data set: one column a device and batch size."""
        return [name for name in self.latencies if "/" not in name or name.endswith(f"/{dataset}")]

    def matrix(self, columns: Sequence[str]) -> np.ndarray:
        """(n, len(columns)) ms."""
        return np.stack([self.latencies[name] for name in columns], axis=1)


def physical_device(column: str) -> str:
    """The device behind a column: the batch sizes of one GPU, or the data sets of one device, share it.

    >>> physical_device("titan_rtx_256"), physical_device("raspi4/cifar10"), physical_device("essential_ph_1")
    ('titan_rtx', 'raspi4', 'essential_ph_1')
    """
    gpu = _GPU_BATCH.fullmatch(column)
    return gpu[1] if gpu else column.split("/")[0]


def read_nasbench201(path: Path) -> NasBench201:
    """Read the table; an empty latency field is a device on which the cell was not run.

    Raises:
        CatchweightError: no such file, not gzip, a column is missing, or a row is broken (its line is named).
    """
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as stream:
            return _table(Path(path), csv.reader(stream))
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise CatchweightError(f"{path}: not a whole gzipped CSV table ({error}); copy the file again") from error
    except OSError as error:
        raise CatchweightError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_cell(text: str) -> tuple[int, ...]:
    """Operator indices of the six edges; ValueError says what is wrong.

    >>> parse_cell("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|")
    (3, 0, 1, 0, 0, 4)
    """
    fields = [field for node in text.split("+") for field in node.strip("|").split("|")]
    sources = [field.rpartition("~") for field in fields]
    if [source for _, _, source in sources] != [str(start) for start, _ in EDGES]:
        raise ValueError(f'"{text}" is not a cell of six edges')
    unknown = [name for name, _, _ in sources if name not in OPERATORS]
    if unknown:
        raise ValueError(f'operator "{unknown[0]}" is not one of {", ".join(OPERATORS)}')
    return tuple(OPERATORS.index(name) for name, _, _ in sources)


def live_edges(operators: np.ndarray) -> np.ndarray:
    """(n, 6) bool: the edge lies on a path from input to output, so that a compiler has to run it."""
    works = np.asarray(operators) != _NONE
    reached = np.zeros((len(works), 4), dtype=bool)
    needed = reached.copy()
    reached[:, 0] = needed[:, 3] = True
    for edge, (start, end) in enumerate(EDGES):
        reached[:, end] |= works[:, edge] & reached[:, start]
    for edge, (start, end) in reversed(list(enumerate(EDGES))):
        needed[:, start] |= works[:, edge] & needed[:, end]
    starts, ends = np.array(EDGES).T
    return works & reached[:, starts] & needed[:, ends]


def cell_features(table: NasBench201) -> tuple[np.ndarray, list[int]]:
    """What is known of each cell without a clock: features (n, d) and the indices of the additive ones.

    Operators of the edges and of the live edges (one-hot), their counts, the longest chain of working operators,
    MACs and parameters. The counts are additive: a device's latency is nearly a sum of costs per operator.
    """
    operators = table.operators
    chosen = operators[:, :, None] == np.arange(len(OPERATORS))
    live = (chosen & live_edges(operators)[:, :, None])[:, :, 1:]
    counts = np.hstack([chosen[:, :, 1:].sum(1), live.sum(1)])
    rest = [chosen.reshape(len(operators), -1), live.reshape(len(operators), -1), longest_chain(operators)[:, None]]
    features = np.hstack([counts, *rest, table.macs[:, None], table.params[:, None]]).astype(float)
    return features, list(range(counts.shape[1]))


def layer_count(operators: np.ndarray) -> np.ndarray:
    """(n,) live operators that compute something: convolutions and pooling."""
    return ((np.asarray(operators) > _SKIP) & live_edges(operators)).sum(axis=1)


def longest_chain(operators: np.ndarray) -> np.ndarray:
    """(n,) most computing operators one after the other on a live path."""
    computes = (np.asarray(operators) > _SKIP) & live_edges(operators)
    depth = np.zeros((len(computes), 4), dtype=int)
    for edge, (start, end) in enumerate(EDGES):
        depth[:, end] = np.maximum(depth[:, end], depth[:, start] + computes[:, edge])
    return depth[:, 3]


def _table(path: Path, reader: Iterable[list[str]]) -> NasBench201:
    lines = iter(reader)
    header = next(lines, [])
    columns = _latency_columns(header)
    missing = [name for name in ("arch_string", "unique_string", _MACS, _PARAMS) if name not in header]
    if missing or not columns:
        raise CatchweightError(f"{path}: no column {', '.join(missing) or 'hw_*_latency or help_*_latency'}")
    rows = [_row(path, line, header, columns, fields) for line, fields in enumerate(lines, start=2)]
    if not rows:
        raise CatchweightError(f"{path}: a header, but no rows; copy the file again")
    cells, unique, operators, numbers = zip(*rows, strict=True)
    values = np.array(numbers)
    latencies = {name: values[:, index] for index, name in enumerate(columns.values(), start=2)}
    return NasBench201(cells, unique, np.array(operators, dtype=np.int8), latencies, values[:, 0], values[:, 1])


def _row(
    path: Path, line: int, header: list[str], columns: dict[str, str], fields: list[str]
) -> tuple[str, str, tuple[int, ...], list[float]]:
    """Cell, unique string, operators, and the numbers: MACs, parameters, latencies in the order of ``columns``."""
    if len(fields) != len(header):
        raise CatchweightError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}")
    row = dict(zip(header, fields, strict=True))
    try:
        operators = parse_cell(row["arch_string"])
        numbers = [_number(row, name, empty=False) for name in (_MACS, _PARAMS)]
        numbers += [_number(row, name, empty=True) for name in columns]
    except ValueError as error:
        raise CatchweightError(f"{path}, line {line}: {error}") from error
    return row["arch_string"], row["unique_string"], operators, numbers


def _number(row: dict[str, str], name: str, empty: bool) -> float:
    text = row[name]
    if not text and empty:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and (value > 0 if empty else value >= 0)):
        raise ValueError(f'{name} is "{text}", which is not a positive number')
    return value


def _latency_columns(header: Sequence[str]) -> dict[str, str]:
    """Latency columns of the header, each with our shorter name."""
    names = {}
    for column in header:
        if match := _HW.fullmatch(column):
            names[column] = f"{match[2]}/{match[1]}"
        elif match := _HELP.fullmatch(column):
            names[column] = match[1]
    return names
