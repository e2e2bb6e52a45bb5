"""Effective receptive fields of networks whose field is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from catchweight.nets.ffnet import FFNet
from catchweight.nets.segmentation import NetSpec
from catchweight.systems.receptive import (
    centre,
    centroid,
    gradient_mass,
    mass_beyond,
    mass_radius,
    settle_norms,
)


def box(kernel: int, dilation: int = 1) -> nn.Conv2d:
    """A convolution of ones that keeps the size."""
    conv = nn.Conv2d(1, 1, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def field(net: nn.Module, size: int = 15) -> Tensor:
    return gradient_mass(lambda x: centre(net(x)).sum(1), torch.randn(2, 1, size, size))


def test_one_convolution_has_its_kernel_as_field() -> None:
    mass = field(box(3))
    expected = torch.zeros(15, 15, dtype=torch.float64)
    expected[6:9, 6:9] = 1
    assert torch.equal(mass, expected)
    assert centroid(mass) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("share", "radius"),
    [(1 / 9, 0), (1 / 9 + 0.01, 1), (0.5, 1), (5 / 9, 1), (5 / 9 + 0.01, math.sqrt(2)), (1.0, math.sqrt(2))],
)
def test_radius_of_a_3x3_box_is_exact(share: float, radius: float) -> None:
    """Of nine equal pixels one lies at distance 0, four at 1 and four at the square root of 2."""
    assert mass_radius(field(box(3)), share) == pytest.approx(radius)


def test_two_convolutions_give_the_product_of_triangles() -> None:
    line = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    mass = field(nn.Sequential(box(3), box(3)))
    assert torch.allclose(mass[5:10, 5:10], torch.outer(line, line))
    assert mass.sum() == 81
    # Within distance 1 lie 9 + 4 * 6 = 33 of 81, within sqrt(2) another 4 * 4 = 16, which passes the half.
    assert mass_radius(mass) == pytest.approx(math.sqrt(2))


def test_dilation_moves_the_mass_outwards() -> None:
    mass = field(box(3, dilation=4))
    assert mass_radius(mass) == pytest.approx(4)
    assert mass_beyond(mass, 3.9, (7, 7)) == pytest.approx(8 / 9)
    assert mass_beyond(mass, 4.0, (7, 7)) == pytest.approx(4 / 9)
    assert mass_beyond(mass, 6.0, (7, 7)) == 0


def test_mass_adds_channels_and_averages_images() -> None:
    conv = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, -3.0]).view(1, 2, 1, 1))
    mass = gradient_mass(lambda x: centre(conv(x)).sum(1), torch.randn(3, 2, 5, 5))
    assert mass[2, 2] == 5
    assert mass.sum() == 5


def test_measuring_leaves_parameters_without_gradients() -> None:
    net = box(3)
    field(net)
    assert net.weight.grad is None


def test_settled_norms_hold_the_statistics_of_the_batch() -> None:
    norm = nn.BatchNorm2d(2)
    images = torch.randn(4, 2, 8, 8) * 3 + 1
    settle_norms(norm, images)
    assert not norm.training
    assert norm.momentum == 0.1
    assert torch.allclose(norm.running_mean, images.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm(images).std((0, 2, 3)), torch.ones(2), atol=0.01)


def test_batch_statistics_would_reach_every_pixel() -> None:
    """Why norms are settled first: in training mode even one 3x3 convolution seems to see the whole image."""
    net = nn.Sequential(box(3), nn.BatchNorm2d(1))
    images = torch.randn(2, 1, 15, 15)
    assert (field(net.train()) > 0).sum() > 9
    settle_norms(net, images)
    assert (field(net) > 0).sum() == 9


def test_dilating_an_ffnet_widens_its_field() -> None:
    def radius(dilations: str) -> float:
        torch.manual_seed(0)
        options = f"blocks=1-1-1-1,strides=1-1-1-1,dilations={dilations}"
        net = FFNet(NetSpec(f"ffnet_34_abb:{options}", 3, width=0.125))
        images = torch.randn(1, 3, 160, 160)
        settle_norms(net, images)
        return mass_radius(gradient_mass(lambda x: centre(net.features(x)[-1]).sum(1), images))

    assert radius("1-1-2-4") > 1.3 * radius("1-1-1-1")
