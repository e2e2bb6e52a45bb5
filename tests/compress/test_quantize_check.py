"""The int8 file against its simulation: good files pass, damaged ones do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantize_files import colour_model, noise, write

from catchweight.compress.quantize.calibrate import calibrate
from catchweight.compress.quantize.check import check_file, compare
from catchweight.compress.quantize.simulate import Tally, distance, runner, simulation, thinned
from catchweight.targets import Target
from catchweight.targets.runtimes.quantized import prepare_graph, quantized_graph
from catchweight.targets.tracing.wiring import replace_constant


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    plain = write(colour_model(), tmp_path / "float.onnx")
    prepared = prepare_graph(plain)
    return write(quantized_graph(prepared, calibrate(prepared, noise(4), "minmax")), tmp_path / "int8.onnx"), plain


def test_a_good_file_passes(files: tuple[Path, Path]) -> None:
    check = check_file(*files, noise(3, seed=1), Target.parse("onnxruntime:cpu", threads=1))
    assert check.passed, check.message
    assert check.images == 3
    assert check.agreement > 0.9
    assert check.to_json()["passed"] is True
    assert "computes what it says" in check.message


@pytest.mark.parametrize("damage", ["scale of one layer", "overflow"])
def test_kernels_that_compute_something_else_are_found(files: tuple[Path, Path], damage: str) -> None:
    int8, plain = files
    model = onnx.load(int8)
    if damage == "scale of one layer":
        scale = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("point.weight_scale"))
        replace_constant(model.graph, scale.name, 1.3 * numpy_helper.to_array(scale))
        served = simulation(model)
    else:
        served = _saturating(model)
    check = compare(served, simulation(int8), runner(plain), noise(3, seed=1))
    assert not check.passed
    assert "does not compute what it says" in check.message


def _saturating(model: onnx.ModelProto):  # noqa: ANN202 - a Logits
    """What a processor that adds products in 16 bits would do to large weights: they come out smaller."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(np.clip(values, -64, 64), tensor.name))
    return simulation(copy)


def test_figures_are_those_of_the_logits() -> None:
    expected = np.zeros((1, 2, 2, 2), np.float32)
    expected[:, 0], expected[:, 1] = 1.0, -1.0
    found = expected.copy()
    found[0, :, 0, 0] = [-1.0, 1.0]
    measured = distance([found], [expected])
    assert measured.changed == pytest.approx(0.25)
    assert measured.largest == pytest.approx(2.0)
    assert measured.error == pytest.approx((8 / 8) ** 0.5)
    found[0, 0, 0, 0] = np.nan
    assert distance([found], [expected]).error > 1e6
    assert Tally().distance.changed == 0


def test_large_logits_are_thinned_out() -> None:
    logits = np.arange(2 * 512 * 600, dtype=np.float32).reshape(1, 2, 512, 600)
    kept = thinned(logits)
    assert kept.shape[2] * kept.shape[3] <= 1 << 16
    assert kept[0, 0, 1, 1] == logits[0, 0, 3, 3]
    assert thinned(logits[:, :, :100, :100]).shape == (1, 2, 100, 100)
