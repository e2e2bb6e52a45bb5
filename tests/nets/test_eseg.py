"""ESeg: its table, its free configurations, and its reach."""

from __future__ import annotations

import pytest
import torch

from catchweight.nets import build_network
from catchweight.nets.eseg import ESEGS, EsegConfig, config_name, eseg

FREE = EsegConfig("test_efficientnet", width=16, repeats=2, act="relu")


@pytest.mark.parametrize("name", sorted(ESEGS))
def test_every_member_is_what_its_row_says(name: str) -> None:
    config = ESEGS[name]
    with torch.device("meta"):
        net = build_network(name, 11)
    assert net.backbone.name == config.backbone
    assert (net.neck.width, net.neck.levels, len(net.neck.layers)) == (config.width, 8, config.repeats)
    assert config_name(config) == name
    assert [f.stride for f in net.feature_info] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FREE, "timm/test_efficientnet+bifpn:levels=2-9,width=16,repeats=2"),
        (EsegConfig("tf_efficientnet_lite0", 60, 3, max_level=5, act="relu"), "eseg_lite_s:levels=2-5,width=60"),
        (EsegConfig("tf_efficientnet_b0", 64, 3, resize="bilinear"), "eseg_s:resize=bilinear"),
    ],
)
def test_free_configurations_have_a_name_that_builds_them(config: EsegConfig, name: str) -> None:
    net = eseg(config, 3)
    assert net.spec.name == config_name(config) == name
    again = build_network(name, 3)
    again.load_state_dict(net.state_dict())
    assert again.decoder == net.decoder == config.decoder()


def test_long_range_reaches_the_whole_image() -> None:
    """A pixel's logit depends on the far corner with P2-P9; the same neck on P2-P4 does not see it.

    The backbone must have no squeeze-excitation: its global pooling sees everything by itself.
    """
    torch.manual_seed(0)
    far = {}
    for last in (4, 9):
        net = eseg(EsegConfig("resnet10t", 16, 1, max_level=last, act="relu"), 3).eval()
        x = torch.randn(1, 3, 320, 320, requires_grad=True)
        net.logits(x)[0, :, 0, 0].sum().backward()
        assert x.grad is not None
        far[last] = float(x.grad[..., 288:, 288:].abs().sum())
    assert far[4] == 0
    assert far[9] > 0
