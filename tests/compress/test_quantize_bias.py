"""Bias correction: what rounding shifts on average is gone afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantize_files import GraphBuilder, noise

from catchweight.compress.quantize.bias import corrected, inputs_of_convolutions
from catchweight.compress.quantize.calibrate import calibrate, channel_means
from catchweight.compress.quantize.simulate import runner, simulation
from catchweight.targets.runtimes.quantized import quantized_graph

SMALL = (8, 8)


def _biased(groups: int) -> onnx.ModelProto:
    """Weights of which all but the largest fall 0.4 steps above a rounding point, on images of positive mean."""
    built = GraphBuilder(SMALL)
    weight = np.full((6, 3 // groups, 1, 1), 10.4 / 127)
    weight[:, 0] = 1.0 if groups == 1 else 10.4 / 127
    if groups == 3:
        weight = np.full((6, 1, 3, 3), 10.4 / 127)
        weight[:, :, 1, 1] = 1.0
    return built.model(built.conv("image", "a", weight, np.zeros(6), groups), 6, SMALL)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_mean_of_every_channel_comes_back(groups: int) -> None:
    model = _biased(groups)
    images = [image + 3 for image in noise(8, SMALL)]
    made = quantized_graph(model, calibrate(model, images, "minmax"))
    means = channel_means(model, inputs_of_convolutions(model), images)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the border the padding counts in the mean

    def shift(graph: onnx.ModelProto) -> float:
        run, exact = simulation(graph), runner(model)
        return float(np.abs(np.mean([(run(i) - exact(i))[inner].mean(axis=(0, 2, 3)) for i in images], axis=0)).max())

    before, after = shift(made), shift(corrected(made, model, means))
    step = max(abs(value) for value in calibrate(model, images, "minmax")["a"]) / 255
    assert before > 0.01
    assert after < 0.25 * before + 0.1 * step


def test_nothing_but_biases_changes() -> None:
    model = _biased(1)
    images = noise(2, SMALL)
    made = quantized_graph(model, calibrate(model, images, "minmax"))
    after = corrected(made, model, channel_means(model, ["image"], images))
    assert [node.name for node in after.graph.node] == [node.name for node in made.graph.node]
    differing = [
        one.name for one, two in zip(made.graph.initializer, after.graph.initializer, strict=True) if one != two
    ]
    assert all("bias" in name for name in differing)
