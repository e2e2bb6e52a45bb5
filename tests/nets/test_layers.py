"""The blocks under necks and heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from catchweight.errors import UsageError
from catchweight.nets.layers import SmallMapBatchNorm, fusion_weights, halve, resize_to, round_channels
from catchweight.nets.layers.conv import activation
from catchweight.nets.layers.resize import pool_to
from catchweight.targets.tracing.graph import load_graph, to_onnx


def test_norm_is_batch_norm_where_there_are_enough_values() -> None:
    ours, reference = SmallMapBatchNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5) * 3 + 1
    assert torch.equal(ours(x), reference(x))
    for name, value in reference.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert torch.equal(ours.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 1, 1), (1, 3, 1, 3)])
def test_norm_on_few_values_uses_running_statistics(shape: tuple[int, ...]) -> None:
    norm = SmallMapBatchNorm(3)
    x = (torch.randn(shape) * 2 + 5).requires_grad_()
    y = norm(x)
    expected = (x - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var.view(1, -1, 1, 1) + norm.eps).sqrt()
    torch.testing.assert_close(y, expected)
    # An ordinary batch norm over one or two values passes no gradient at all.
    y.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs() > 1e-3).all()


def test_norm_on_few_values_learns_the_statistics_of_its_input() -> None:
    torch.manual_seed(0)
    norm = SmallMapBatchNorm(2)
    for _ in range(400):
        norm(torch.randn(3, 2, 1, 1) * 3 + 7)
    assert torch.allclose(norm.running_mean, torch.full((2,), 7.0), atol=1.5)
    assert torch.allclose(norm.running_var.sqrt(), torch.full((2,), 3.0), atol=1.0)
    assert norm.num_batches_tracked == 400


def test_norm_survives_two_forwards_before_one_backward() -> None:
    norm = SmallMapBatchNorm(2)
    x = torch.randn(1, 2, 1, 1, requires_grad=True)
    (norm(x) + norm(2 * x)).sum().backward()
    assert x.grad is not None


def test_fusion_weights_by_hand() -> None:
    v = torch.tensor([3.0, -2.0, 1.0])
    torch.testing.assert_close(fusion_weights(v), torch.tensor([3.0, 0.0, 1.0]) / 4.0001)
    assert torch.equal(fusion_weights(torch.tensor([-1.0, -1.0])), torch.zeros(2))


@pytest.mark.parametrize("height", range(1, 12))
def test_halving_rounds_up(height: int) -> None:
    assert halve(torch.randn(1, 2, height, 5)).shape == (1, 2, (height + 1) // 2, 3)


def test_resizing_hits_the_exact_size_and_keeps_equal_maps() -> None:
    like = torch.zeros(1, 1, 17, 25)
    x = torch.randn(1, 4, 9, 12)
    assert resize_to(x, like).shape == resize_to(x, like, "bilinear").shape == (1, 4, 17, 25)
    assert resize_to(x, torch.zeros(1, 1, 9, 12)) is x
    # Pooling 9x12 gives 5x6; a backbone that rounds down has 4x6.
    assert pool_to(x, torch.zeros(1, 1, 4, 6)).shape == (1, 4, 4, 6)


def test_channels_are_rounded_to_eight() -> None:
    assert [round_channels(c) for c in (1, 8, 11, 12, 43.2, 96)] == [8, 8, 8, 16, 40, 96]


def test_unknown_activation_is_named() -> None:
    with pytest.raises(UsageError, match='did you mean "silu"'):
        activation("silo")


class Pyramid(nn.Module):
    """Three levels above the image, pooled and added back: nothing but the shape arithmetic of a neck."""

    def forward(self, x: Tensor) -> Tensor:
        levels = [x]
        for _ in range(3):
            levels.append(halve(levels[-1]))
        for i in (2, 1, 0):
            levels[i] = levels[i] + resize_to(levels[i + 1], levels[i])
        return levels[0]


def test_a_file_of_free_size_does_not_remember_where_levels_were_one_pixel(tmp_path: Path) -> None:
    net = Pyramid()
    file = to_onnx(net, tmp_path / "net.onnx", (2, 3), dynamic=True)  # levels of 1x2, 1x1, 1x1
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for height, width in [(2, 3), (9, 5), (3, 21), (40, 33)]:
        x = torch.randn(2, 3, height, width)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-5)
    fixed = to_onnx(net, tmp_path / "fixed.onnx", (2, 3))
    kinds = [node.op_type for node in load_graph(fixed).graph.node]
    assert (kinds.count("MaxPool"), kinds.count("Resize")) == (2, 2), "nothing needless in a file of fixed size"
