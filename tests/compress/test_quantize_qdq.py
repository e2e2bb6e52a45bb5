"""The int8 graph: every layer an integer kernel, scalings folded, what is to stay float left float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_files import GraphBuilder, colour_model, noise, write

from catchweight.compress.quantize.calibrate import METHODS, calibrate, channel_means
from catchweight.compress.quantize.layers import OUTPUT, Layers, milliseconds
from catchweight.compress.quantize.simulate import answers, distance, runner, simulation
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network, network_names
from catchweight.targets import to_onnx
from catchweight.targets.runtimes.onnxruntime_target import OnnxRuntimeCpu
from catchweight.targets.runtimes.quantized import prepare_graph, quantized_graph, saturates
from catchweight.targets.target import Target


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Kernels that ONNX Runtime really runs, counted by operator."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.fixture
def prepared(tmp_path: Path) -> onnx.ModelProto:
    return prepare_graph(write(colour_model(), tmp_path / "float.onnx"))


@pytest.mark.parametrize("method", METHODS)
def test_every_way_of_choosing_ranges_gives_integer_kernels_close_to_the_float_graph(
    prepared: onnx.ModelProto, tmp_path: Path, method: str
) -> None:
    images = noise(6)
    ranges = calibrate(prepared, images, method)
    made = quantized_graph(prepared, ranges)
    kernels = optimised(made, tmp_path)
    assert kernels["QLinearConv"] == 5
    assert kernels["QLinearAdd"] == 1
    assert not {"Conv", "Add", "Mul", "QLinearMul", "Relu"} & set(kernels)
    expected = answers(runner(prepared), images)
    assert distance(answers(runner(made), images), expected).error < 0.1


def test_extremes_are_those_of_the_tensors(prepared: onnx.ModelProto) -> None:
    images = noise(3)
    low, high = calibrate(prepared, images, "minmax")["image"]
    stacked = np.stack(images)
    assert (low, high) == (pytest.approx(stacked.min()), pytest.approx(stacked.max()))
    narrow = calibrate(prepared, images, "percentile")["image"]
    assert low <= narrow[0] < 0 < narrow[1] <= high


def test_means_are_those_of_the_tensors(prepared: onnx.ModelProto) -> None:
    images = noise(3)
    found = channel_means(prepared, ["image"], images)["image"]
    assert found == pytest.approx(np.concatenate(images).mean(axis=(0, 2, 3)), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 20), st.booleans())
def test_a_scaling_is_folded_without_changing_a_number(factor: float, first: bool) -> None:
    built = GraphBuilder((8, 8))
    rng = np.random.default_rng(0)
    one = built.conv("image", "a", rng.standard_normal((4, 3, 1, 1)))
    scale = built.constant("scale", np.float32(factor))
    scaled = built.op("Mul", [scale, one] if first else [one, scale], "scaled")
    model = built.model(
        built.conv(built.op("Add", [scaled, one], "sum"), "b", rng.standard_normal((4, 4, 1, 1))), 4, (8, 8)
    )
    images = noise(2, (8, 8))
    made = quantized_graph(model, calibrate(model, images, "minmax"))
    assert "Mul" not in {node.op_type for node in made.graph.node}
    # By hand: what "a" gives in eight bits, times the factor, is what the sum must have been given.
    exact = simulation(made)(images[0])
    assert distance([exact], [runner(model)(images[0])]).error < 0.05


def test_layers_left_float_hold_no_integers(prepared: onnx.ModelProto, tmp_path: Path) -> None:
    layers = Layers.of(prepared)
    assert layers.names == ("stem", "mix", "point", "narrow", "head"), "the last upsampling is float in any case"
    ranges = calibrate(prepared, noise(3), "minmax")
    made = quantized_graph(prepared, ranges, layers.nodes(["head"]))
    kernels = optimised(made, tmp_path)
    # The sum is read by the head alone, so it is float as well.
    assert (kernels["QLinearConv"], kernels["QLinearAdd"]) == (4, 0)
    everything = quantized_graph(prepared, ranges, layers.nodes(layers.names))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in everything.graph.node}
    image = noise(1)[0]
    assert simulation(everything)(image) == pytest.approx(simulation(prepared)(image), abs=1e-6)


def test_what_follows_the_last_weights_is_a_layer_of_its_own() -> None:
    built = GraphBuilder((8, 8))
    eye = np.eye(3)[:, :, None, None]
    heads = built.op("Add", [built.conv("image", "fine", eye), built.conv("image", "coarse", eye)], "sum")
    layers = Layers.of(built.model(built.op("Relu", [heads], "ends"), 3, (8, 8)))
    assert layers.names == ("fine", "coarse", OUTPUT)
    assert layers.nodes([OUTPUT]) == {"node_sum", "node_ends"}
    assert layers.nodes(["fine"]) == {"node_fine"}
    assert layers.owners()["node_sum"] == OUTPUT


def test_time_is_attributed_to_every_layer(prepared: onnx.ModelProto) -> None:
    layers, target = Layers.of(prepared), Target.parse("onnxruntime:cpu", threads=1)
    made = quantized_graph(prepared, calibrate(prepared, noise(2), "minmax"))
    for graph in (prepared, made):
        spent = milliseconds(target, graph, layers, prepared)
        assert set(spent) == set(layers.names)
        assert all(spent[name] > 0 for name in layers.names)


def test_this_machine_computes_eight_bits_right() -> None:
    # Where this is true weights are held in 7 bits; either way the int8 file must compute what it says.
    assert saturates() in (True, False)
    built = GraphBuilder((8, 8))
    model = built.model(built.conv("image", "a", np.full((16, 3, 5, 5), 0.01)), 16, (8, 8))
    images = [np.full((1, 3, 8, 8), 2.0, np.float32), np.full((1, 3, 8, 8), -0.1, np.float32)]
    made = quantized_graph(model, calibrate(model, images, "minmax"))
    assert distance([runner(made)(images[0])], [simulation(made)(images[0])]).largest < 0.02


def test_what_cannot_be_prepared_is_refused_by_name(tmp_path: Path) -> None:
    model = colour_model()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = write(model, tmp_path / "free.onnx")
    with pytest.raises(CatchweightError, match="free.onnx leaves its batch or size free"):
        prepare_graph(path)
    assert prepare_graph(path, size=(48, 64)).graph.input[0].type.tensor_type.shape.dim[2].dim_value == 48
    with pytest.raises(UsageError, match='did you mean "entropy"'):
        calibrate(model, noise(1), "entropi")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CatchweightError, match="text.onnx"):
        prepare_graph(tmp_path / "text.onnx")


def _all_integer(name: str, folder: Path, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    path = to_onnx(build_network(name, 5), folder / "float.onnx", size)
    prepared = prepare_graph(path)
    images = noise(2, size)
    made = quantized_graph(prepared, calibrate(prepared, images, "minmax"))
    kernels = optimised(made, folder)
    weighted = sum(node.op_type == "Conv" for node in prepared.graph.node)
    assert kernels["QLinearConv"] == weighted, f"{name}: {kernels}"
    assert kernels["Conv"] == kernels["FusedConv"] == kernels["QLinearMul"] == 0
    expected = answers(runner(prepared), images)
    assert distance(answers(simulation(made), images), expected).error < 1.0, "random weights, random images"
    OnnxRuntimeCpu(1).prepare(write(made, folder / "int8.onnx")).run()


@pytest.mark.parametrize("name", ["fasterseg_student", "timm/resnet10t+bifpn:width=32,repeats=1"])
def test_whole_networks_become_integer_kernels(name: str, tmp_path: Path) -> None:
    _all_integer(name, tmp_path, (72, 88))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in network_names() if "efficientnet_b" not in name])
def test_every_network_of_ours_becomes_integer_kernels(name: str, tmp_path: Path) -> None:
    _all_integer(name, tmp_path, (96, 128))
