"""Reader of the NAS-Bench-201 table, and the features of its cells."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from catchweight.errors import CatchweightError
from catchweight.targets.transfer.nasbench201 import (
    cell_features,
    layer_count,
    live_edges,
    longest_chain,
    parse_cell,
    physical_device,
    read_nasbench201,
)

HEADER = (
    "arch_index,arch_string,unique_string,cifar10_params_m,cifar10_flops_m,cifar10_test_acc_200ep,"
    "hw_cifar10_raspi4_latency,hw_cifar100_raspi4_latency,hw_cifar10_eyeriss_energy,hw_cifar10_edgetpu_latency,"
    "help_titan_rtx_32_latency"
)
CHAIN = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
CUT = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|none~2|"
ROWS = [
    f"4,{CHAIN},one,0.1,18.0,85.9,24.5,25.5,3.0,1.5,10.25",
    f"7,{CUT},two,0.2,30.0,10.0,0.01,0.02,3.0,,4.5",
]


def written(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "table.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))
    return path


def test_reads_cells_and_latencies(tmp_path: Path) -> None:
    table = read_nasbench201(written(tmp_path, ROWS))
    assert table.cells == (CHAIN, CUT)
    assert table.unique == ("one", "two")
    assert table.operators.tolist() == [[3, 0, 1, 0, 0, 4], [3, 2, 0, 0, 0, 0]]
    assert sorted(table.latencies) == ["edgetpu/cifar10", "raspi4/cifar10", "raspi4/cifar100", "titan_rtx_32"]
    assert table.columns() == ["raspi4/cifar10", "edgetpu/cifar10", "titan_rtx_32"]
    np.testing.assert_array_equal(
        table.matrix(["titan_rtx_32", "edgetpu/cifar10", "raspi4/cifar100"]), [[10.25, 1.5, 25.5], [4.5, np.nan, 0.02]]
    )
    assert (table.macs.tolist(), table.params.tolist()) == ([18.0, 30.0], [0.1, 0.2])
    assert table.connected().tolist() == [True, False]


def test_live_edges_layers_and_chain() -> None:
    operators = np.array(
        [
            parse_cell(CHAIN),
            parse_cell(CUT),
            [3, 3, 3, 3, 3, 3],  # everything lives, 0-1-2-3 is the longest chain
            [3, 0, 0, 2, 0, 3],  # node 1 leads nowhere, node 2 is fed by nothing: one 1x1 from input to output
        ]
    )
    assert live_edges(operators).tolist() == [
        [True, False, True, False, False, True],
        [False] * 6,
        [True] * 6,
        [False, False, False, True, False, False],
    ]
    assert layer_count(operators).tolist() == [2, 0, 6, 1]
    assert longest_chain(operators).tolist() == [2, 0, 3, 1]


def test_features_know_what_differs(tmp_path: Path) -> None:
    features, additive = cell_features(read_nasbench201(written(tmp_path, ROWS)))
    # skip, 1x1, 3x3, pool: first as written, then those alive.
    assert features[:, additive].tolist() == [[1, 0, 1, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert features[:, -2:].tolist() == [[18.0, 0.1], [30.0, 0.2]]


@pytest.mark.parametrize(
    ("column", "device"),
    [
        ("titanxp_256", "titanxp"),
        ("2080ti_1", "2080ti"),
        ("essential_ph_1", "essential_ph_1"),
        ("gold_6226", "gold_6226"),
        ("fpga/imagenet16_120", "fpga"),
    ],
)
def test_physical_device(column: str, device: str) -> None:
    assert physical_device(column) == device


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ROWS[0].replace("avg_pool_3x3", "max_pool_3x3"), 'operator "max_pool_3x3" is not one of none, skip_connect'),
        (ROWS[0].replace("|avg_pool_3x3~2|", "|"), "is not a cell of six edges"),
        (ROWS[0].replace("skip_connect~1", "skip_connect~0"), "is not a cell of six edges"),
        (ROWS[0].rpartition(",")[0], "10 fields, but the header has 11"),
        (ROWS[0].replace("24.5", "fast"), 'hw_cifar10_raspi4_latency is "fast"'),
        (ROWS[0].replace("10.25", "-1"), 'help_titan_rtx_32_latency is "-1"'),
        (ROWS[0].replace("10.25", "inf"), 'help_titan_rtx_32_latency is "inf"'),
        (ROWS[0].replace("18.0", ""), 'cifar10_flops_m is ""'),
    ],
)
def test_broken_row_is_named(tmp_path: Path, broken: str, message: str) -> None:
    path = written(tmp_path, [ROWS[0], broken, ROWS[1]])
    with pytest.raises(CatchweightError) as caught:
        read_nasbench201(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


def test_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    with pytest.raises(CatchweightError, match=r"table\.csv\.gz: cannot be read"):
        read_nasbench201(path)
    path.write_text("arch_string\n")
    with pytest.raises(CatchweightError, match="not a whole gzipped CSV table"):
        read_nasbench201(path)
    whole = written(tmp_path, ROWS * 200).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CatchweightError, match="not a whole gzipped CSV table"):
        read_nasbench201(path)
    with pytest.raises(CatchweightError, match="a header, but no rows"):
        read_nasbench201(written(tmp_path, []))
    with pytest.raises(CatchweightError, match="no column unique_string"):
        read_nasbench201(written(tmp_path, [], HEADER.replace("unique_string", "other")))
    with pytest.raises(CatchweightError, match=r"no column hw_\*_latency or help_\*_latency"):
        read_nasbench201(written(tmp_path, [], HEADER.replace("_latency", "_time")))
