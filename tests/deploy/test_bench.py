"""Latency tables of exported files; the machine's speed is not asserted."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from exported import CLASSES, SIZE, tiny_net
from rich.console import Console

from catchweight.deploy.bench import BenchRow, bench, comparisons, table, warnings
from catchweight.deploy.export import export
from catchweight.errors import UsageError
from catchweight.targets.clock.measure import Measurement


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return [
        export(tiny_net(), folder / "fixed.onnx", size=SIZE, classes=CLASSES),
        export(tiny_net(), folder / "free.onnx", size=SIZE, classes=CLASSES, dynamic=True),
    ]


def test_rows_with_and_without_processing(files: list[Path]) -> None:
    rows = bench(files, threads=1, seconds=0.05, image_size=(90, 120))
    assert [(row.path, row.processing) for row in rows] == [(p, w) for w in (False, True) for p in files]
    assert all(row.measured.median_ms > 0 and row.measured.threads == 1 for row in rows)
    assert json.loads(json.dumps(rows[0].to_json(), allow_nan=False))["file"] == "fixed.onnx"
    assert len(comparisons(rows)) == 2


def test_a_free_batch_is_used_and_a_fixed_one_kept(files: list[Path]) -> None:
    (row,) = bench(files[1:], threads=1, batch=3, seconds=0.02, with_processing=False)
    assert row.measured.batch == 3
    assert row.measured.images_per_second == pytest.approx(3000 / row.measured.median_ms)
    with pytest.raises(UsageError, match="fixed.onnx"):
        bench(files[:1], threads=1, batch=3, seconds=0.02)
    with pytest.raises(UsageError, match="at least one"):
        bench([])
    with pytest.raises(UsageError, match="1 or more threads, but got 0"):
        bench(files[:1], threads=0)


def row(name: str, turns: list[float]) -> BenchRow:
    middle = sorted(turns)[len(turns) // 2]
    measured = Measurement(middle, middle, middle, min(turns), max(turns), 40, 2, 1, "runtime", turns=tuple(turns))
    return BenchRow(Path(name), False, measured)


def test_no_ranking_is_pretended_on_a_noisy_machine() -> None:
    noisy = [row("a.onnx", [1.0, 2.0, 1.5, 1.2] * 4), row("b.onnx", [2.0, 1.0, 1.6, 1.1] * 4)]
    assert any("no ranking can be claimed" in note for note in warnings(noisy))
    apart = [row("a.onnx", [1.0, 1.01] * 8), row("b.onnx", [2.0, 2.01] * 8)]
    assert warnings(apart) == []
    assert str(comparisons(apart)[0][2]).startswith("slower")


def test_the_table_shows_figures_and_marks_noise() -> None:
    noted = row("a.onnx", [1.0, 2.0] * 8)
    noted = replace(noted, measured=replace(noted.measured, notes=("noisy: so it is",)))
    stream = io.StringIO()
    Console(file=stream, width=120).print(table([noted, row("b.onnx", [4.0] * 8)]))
    text = stream.getvalue()
    assert "250.0" in text  # images/s of 4 ms
    assert "2.00 ~" in text
    assert "see the warnings" in text
    assert "a.onnx: noisy: so it is" in warnings([noted])
