"""FFNet against independent counts: closed forms, and the authors' own networks instantiated once beside it.

The authors' code was also run beside this one with copied weights, on a 97x131 image, for ffnet_101_aaa, 34_abb,
18_daac, 86s_bbb, 40s_bcc_mobile, 46n_cbb and 46ns_ccc_mobile: largest logit difference 4e-7 of the largest logit.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets.ffnet import FAMILY, FFNETS, FFNet, config_name, ffnet_config
from catchweight.nets.ffnet.blocks import GaussianHalve
from catchweight.nets.ffnet.network import HEAD_CHANNELS
from catchweight.nets.segmentation import NetSpec

AUTHORS = {
    # name: parameters, MACs at 3x128x256, output size; 19 classes
    "ffnet_150_aaa": (98843475, 16331046912, (32, 64)),
    "ffnet_101_aaa": (47545171, 10375135232, (32, 64)),
    "ffnet_50_aaa": (28553043, 7950827520, (32, 64)),
    "ffnet_34_abb": (22550163, 4055105536, (32, 64)),
    "ffnet_18_daac": (13403347, 741539840, (16, 32)),
    "ffnet_18_daaa": (15181267, 1651245056, (16, 32)),
    "ffnet_86s_bbb": (26603123, 6383337472, (32, 64)),
    "ffnet_40s_bcc_mobile": (13248659, 2870149120, (32, 64)),
    "ffnet_40s_dbbb_mobile": (13911283, 974487552, (16, 32)),
    "ffnet_78s_bcc_mobile": (26828435, 4974641152, (32, 64)),
    "ffnet_122n_cbb": (51393555, 5742919680, (32, 64)),
    "ffnet_46n_cbb": (20214035, 3242065920, (32, 64)),
    "ffnet_46ns_ccc_mobile": (12530995, 1750663168, (32, 64)),
    "ffnet_46ns_cbb_mobile": (13181203, 2635333632, (32, 64)),
    "ffnet_22s_bcc_mobile": (6827923, 1893400576, (32, 64)),
}
TINY = 0.125


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(name: str, classes: int = 5, **options: object) -> FFNet:
    torch.manual_seed(0)
    return FFNet(NetSpec(name, classes, width=TINY, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AUTHORS)
def test_parameters_macs_and_stride_equal_the_authors(name: str) -> None:
    parameters, macs, size = AUTHORS[name]
    with torch.device("meta"):
        net = FFNet(NetSpec(name, 19)).eval()
        with FlopCounterMode(display=False) as counter:
            out = net.logits(torch.empty(1, 3, 128, 256))
    # The one difference: no bias in front of the head's batch norm, which would cancel it.
    assert count(net) == parameters - HEAD_CHANNELS[ffnet_config(name).head]
    assert counter.get_total_flops() == 2 * macs
    assert out.shape == (1, 19, *size)


def test_backbone_parameters_equal_the_closed_form() -> None:
    """A basic block has 9 c (inp + c) weights and 4c of norms; a shortcut adds c inp + 2c."""

    def stage(inp: int, c: int, depth: int, stride: int) -> int:
        shortcut = c * inp + 2 * c if (inp != c or stride != 1) else 0
        return 9 * c * (inp + c) + 4 * c + shortcut + (depth - 1) * (18 * c * c + 4 * c)

    with torch.device("meta"):
        backbone = FFNet(NetSpec("ffnet_78s_bcc_mobile", 19)).backbone
    stem = 27 * 32 + 64 + 9 * 32 * 64 + 128
    stages = zip((64, 64, 128, 192), (64, 128, 192, 320), (6, 12, 12, 8), (1, 2, 2, 2), strict=True)
    assert count(backbone) == stem + sum(stage(*row) for row in stages)


def test_layer_count_is_in_the_name() -> None:
    """The published number counts the 3x3 layers of the residual stages and two more (stem and classifier)."""
    for number in ("18", "34", "56", "86", "134", "150"):
        name = next(n for n in FFNETS if n.startswith(f"ffnet_{number}_"))
        assert 2 * sum(FFNETS[name].blocks) + 2 == int(number)


@pytest.mark.parametrize("name", {name.split("_")[1]: name for name in FFNETS}.values())
def test_every_backbone_builds(name: str) -> None:
    with torch.device("meta"):
        net = FAMILY.build(NetSpec(name, 11, width=TINY), "auto")
        out = net.logits(torch.empty(1, 3, 96, 160))
    step = net.feature_info[0].stride
    assert out.shape == (1, 11, -(-96 // step), -(-160 // step))


def test_the_table_is_the_published_one_and_two_small_backbones() -> None:
    assert set(FAMILY.names) == set(FFNETS)
    desktop, mobile, ours = 16 + 14, 4 + 20 + 12, 4
    assert len(FFNETS) == desktop + mobile + ours


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (90, 121)])
@pytest.mark.parametrize(
    "name",
    ["ffnet_22s_bcc_mobile", "ffnet_18_daac", "ffnet_46n_cbb", "ffnet_40s_bbb_mobile_pre_down", "ffnet_50_aaa"],
)
def test_any_size_from_64_gives_full_size_logits(name: str, size: tuple[int, int]) -> None:
    net = tiny(name).eval()
    with torch.no_grad():
        out = net(torch.randn(1, 3, *size))
        maps = net.features(torch.randn(1, 3, *size))
    assert out.shape == (1, 5, *size)
    assert torch.isfinite(out).all()
    for found, info in zip(maps, net.feature_info, strict=True):
        assert found.shape[1:] == (info.channels, -(-size[0] // info.stride), -(-size[1] // info.stride))


@pytest.mark.parametrize("name", ["ffnet_22s_bcc_mobile", "ffnet_18_daaa", "ffnet_46n_cbb", "ffnet_50_aaa"])
def test_gradients_reach_every_parameter(name: str) -> None:
    net = tiny(name, aux=True)
    losses = [out.square().mean() for out in net.train_logits(torch.randn(2, 3, 96, 80))]
    assert len(losses) == 2
    torch.stack(losses).sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_auxiliary_head_is_not_part_of_the_forward_pass() -> None:
    net = tiny("ffnet_22s_bcc_mobile", aux=True).eval()
    x = torch.randn(1, 3, 64, 64)
    before = net(x)
    torch.nn.init.constant_(net.aux[-1].bias, 7.0)  # type: ignore[index,arg-type]
    assert torch.equal(net(x), before)
    assert len(tiny("ffnet_22s_bcc_mobile").train_logits(x.repeat(2, 1, 1, 1))) == 1


def test_bfloat16_stays_near_float32() -> None:
    net = tiny("ffnet_22s_bbb_mobile").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = net(x)
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_width_scales_every_channel_and_rounds_to_8() -> None:
    full, quarter = FFNet(NetSpec("ffnet_22s_bcc_mobile", 11)), FFNet(NetSpec("ffnet_22s_bcc_mobile", 11, width=0.25))
    assert [i.channels for i in quarter.feature_info] == [16, 32, 48, 80]
    inner = [m for m in quarter.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.out_channels % 8 == 0 for m in inner if m.out_channels != 11)
    assert 0.4e6 < count(quarter) < 0.5e6 < 0.1 * count(full)


def test_desktop_and_mobile_differ_only_in_upsampling() -> None:
    smooth, nearest = (FFNet(NetSpec(name, 3, TINY)).eval() for name in ("ffnet_86s_bbb", "ffnet_86s_bbb_mobile"))
    nearest.load_state_dict(smooth.state_dict())
    little, large = torch.tensor([[[[0.0, 1.0]]]]), torch.empty(1, 1, 1, 4)
    assert nearest.up.resize(little, large).flatten().tolist() == [0, 0, 1, 1]
    assert torch.allclose(smooth.up.resize(little, large).flatten(), torch.tensor([0, 1 / 3, 2 / 3, 1]))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, others = smooth.features(x), nearest.features(x)
    assert all(torch.equal(a, b) for a, b in zip(maps, others, strict=True))


def test_dilated_stages_keep_the_parameters_and_the_resolution() -> None:
    plain, dilated = (
        FFNet(NetSpec(f"ffnet_34_abb:blocks=1-1-1-1{more}", 3, TINY)).eval()
        for more in ("", ",strides=1-2-1-1,dilations=1-1-2-4")
    )
    assert count(plain) == count(dilated)
    maps = dilated.features(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 8, 8, 8]


def test_a_configuration_round_trips_through_its_name() -> None:
    base = FFNETS["ffnet_34_abb"]
    config = replace(base, channels=(5, 10, 20, 40), block="mixed", dilations=(1, 1, 2, 4), divisor=1)
    name = config_name("ffnet_34_abb", config)
    assert name == "ffnet_34_abb:channels=5-10-20-40,dilations=1-1-2-4,block=mixed,divisor=1"
    assert ffnet_config(name) == config
    assert config_name("ffnet_34_abb", base) == "ffnet_34_abb"
    net = FFNet(NetSpec(name, 3, width=0.5))
    assert [info.channels for info in net.feature_info] == [3, 5, 10, 20]


def test_mixed_block_has_one_3x3_where_a_basic_one_has_two() -> None:
    def kernels(block: str) -> list[tuple[int, ...]]:
        stages = FFNet(NetSpec(f"ffnet_34_abb:block={block},blocks=1-1-1-1", 3, TINY)).backbone.stages
        return [m.kernel_size for m in stages[0].modules() if isinstance(m, torch.nn.Conv2d)]

    assert kernels("basic") == [(3, 3), (3, 3)]
    assert kernels("mixed") == [(3, 3), (1, 1)]


def test_gaussian_halving_is_centred_and_keeps_the_mean() -> None:
    halve = GaussianHalve()
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    out = halve(point)
    assert out.shape == (1, 1, 5, 5)
    assert torch.allclose(out, out.flip(-1))
    assert torch.allclose(out, out.transpose(-1, -2))
    assert torch.allclose(halve(torch.full((1, 3, 10, 12), 2.5)), torch.full((1, 3, 5, 6), 2.5))
    ratio = out[0, 0, 2, 2] / out[0, 0, 2, 3]
    assert torch.isclose(ratio, torch.exp(torch.tensor(4 / (2 * 0.49))))


def test_wrong_names_options_and_weights_say_what_to_do() -> None:
    with pytest.raises(UsageError, match='did you mean "ffnet_78s_bcc_mobile"'):
        ffnet_config("ffnet_78s_bcc_mobil")
    with pytest.raises(UsageError, match='did you mean "block"'):
        ffnet_config("ffnet_18_daac:blok=basic")
    with pytest.raises(UsageError, match="blocks are basic, bottleneck, mixed"):
        ffnet_config("ffnet_18_daac:block=round")
    with pytest.raises(UsageError, match="strides must be 4 numbers"):
        ffnet_config("ffnet_18_daac:strides=1-2")
    with pytest.raises(UsageError, match="must be 1 or more"):
        ffnet_config("ffnet_18_daac:blocks=1-1-0-1")
    with pytest.raises(CatchweightError, match="no FFNet weights"):
        FAMILY.build(NetSpec("ffnet_18_daac", 5), "offline")
