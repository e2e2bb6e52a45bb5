"""The elastic space: the contract of every space at a tiny size, and what is special about this one."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from catchweight.errors import UsageError
from catchweight.nets import build_network, load_network, save_network
from catchweight.nets.elastic import sort_channels
from catchweight.nets.eseg import ESEGS
from catchweight.spaces import SPACES
from catchweight.spaces.elastic_pyramid import ElasticPyramid, Options
from catchweight.spaces.segmentation import SegmentationSpace
from catchweight.spaces.testing import SpaceContract, image, trained

TINY = Options(depths=2, widths=(0.5, 1.0), expand=(0.5, 1.0), coarsest=(5, 7), neck=(0.125, 0.25), repeats=(0, 2))
SIZES = ((64, 96), (65, 101))


def tiny(backbone: str = "mobilenetv2_035", options: Options = TINY, classes: int = 4) -> ElasticPyramid:
    torch.manual_seed(0)
    return ElasticPyramid(classes, [SIZES[0]], backbone=backbone, options=options)


class TestElasticPyramid(SpaceContract):
    sizes = SIZES
    members = 2

    def make(self) -> ElasticPyramid:
        return tiny()


FPN = Options(depths=2, widths=(0.5, 1.0), expand=(0.5, 1.0), coarsest=(5, 7), neck=(0.125, 0.25), repeats=(0, 0))


class TestElasticFpn(SpaceContract):
    sizes = SIZES
    members = 2

    def make(self) -> ElasticPyramid:
        return tiny(options=FPN)


@pytest.mark.parametrize(
    "backbone", ["test_efficientnet", "mobilenetv3_small_050", "tf_efficientnet_lite0", "tf_efficientnetv2_b0"]
)
def test_members_of_other_backbones_compute_what_the_supernet_does(backbone: str) -> None:
    """Squeeze-and-excite, fused bottlenecks, stages that share a width, TensorFlow's padding."""
    space, rng = trained(tiny(backbone), SIZES[0]), random.Random(1)
    for arch in (space.smallest(), space.largest(), space.sample(rng), space.sample(rng)):
        for size in SIZES:
            with torch.no_grad(), space.activate(arch):
                ours = space(image(size))
            with torch.no_grad():
                torch.testing.assert_close(space.subnet(arch)(image(size)), ours, rtol=1e-5, atol=1e-5)


def test_the_default_is_open_as_documented() -> None:
    space = ElasticPyramid(11, [(192, 256), (96, 128)])
    options = space.choices()
    assert 20 <= len(options) <= 30
    assert all(len(values) > 1 for values in options.values())
    assert options["coarsest"] == (5, 6, 7, 8, 9)
    widths = [values for name, values in options.items() if name.startswith(("width", "stem", "neck"))]
    assert all(width % 8 == 0 for values in widths for width in values)
    assert {"width3": (40, 64, 80), "expand3": (3.0, 4.0, 6.0), "depth5": (2, 3, 4)}.items() <= options.items()
    assert space.size() > 1e10
    assert isinstance(SPACES["elastic"](3, [(64, 64)]), SegmentationSpace)


def test_eseg_lite_s_is_a_member() -> None:
    space = ElasticPyramid(11, [(64, 64)])
    config = ESEGS["eseg_lite_s"]
    arch = {**space.largest(), "neck": config.width, "repeats": config.repeats, "coarsest": config.max_level}
    assert space.network_name(arch) == "elastic/tf_efficientnet_lite0"
    eseg = build_network("eseg_lite_s", 11)
    eseg.load_state_dict(space.subnet(arch).state_dict())
    x = image((64, 80))
    with torch.no_grad():
        torch.testing.assert_close(eseg.eval()(x), space.subnet(arch).eval()(x), rtol=0, atol=0)


def test_without_bifpn_layers_a_member_is_a_feature_pyramid() -> None:
    """The same numbers as timm's backbone under an FPN, whose head is a plain sum as this one's is at first."""
    space = tiny("test_efficientnet").eval()
    member = space.subnet(space.canonical({**space.largest(), "repeats": 0, "coarsest": 5})).eval()
    fpn = build_network(f"timm/test_efficientnet+fpn:width={member.neck.width}", 4).eval()
    state = {name.replace("neck.layers.outputs", "neck.outputs"): x for name, x in member.state_dict().items()}
    del state["head.v"]
    fpn.load_state_dict(state)
    x = image(SIZES[1])
    with torch.no_grad():
        torch.testing.assert_close(member(x), fpn(x), rtol=1e-4, atol=1e-4)


def test_sorting_changes_the_order_and_not_the_result() -> None:
    torch.manual_seed(0)
    net = build_network("elastic/test_efficientnet:neck=16", 4, aux=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x, before = image(SIZES[1]), copy.deepcopy(net.backbone.net.conv_stem.weight)
    with torch.no_grad():
        expected = [*net.eval().train_logits(x), net(x)]
        sort_channels(net)
        found = [*net.train_logits(x), net(x)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(net.backbone.net.conv_stem.weight, before)


def test_the_supernet_saved_is_its_largest_member(tmp_path: Path) -> None:
    space = trained(tiny(), SIZES[0])
    save_network(tmp_path / "supernet.pt", space)
    net, _ = load_network(tmp_path / "supernet.pt")
    assert not isinstance(net, SegmentationSpace)
    with torch.no_grad(), space.activate(space.largest()):
        torch.testing.assert_close(net(image(SIZES[1])), space(image(SIZES[1])), rtol=1e-5, atol=1e-5)


def test_a_step_of_several_members_has_gradients_and_moves_shared_statistics() -> None:
    """As the sandwich rule does: all forwards before the backward, one of them on maps of a single value."""
    space = tiny().train()
    before = copy.deepcopy(space.state_dict())
    losses = []
    bare = space.canonical({**space.largest(), "repeats": 0})
    for arch in (space.largest(), space.smallest(), space.sample(random.Random(2)), bare):
        with space.activate(arch):
            losses.append(space.train_logits(image(SIZES[0])[:1])[0].square().mean())
    torch.stack(losses).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in space.parameters())
    after = space.state_dict()
    moved = [name for name in after if name.endswith("running_mean") and not torch.equal(after[name], before[name])]
    assert len(moved) == sum(name.endswith("running_mean") for name in after)


def test_a_narrow_norm_without_momentum_takes_the_mean_over_all_batches() -> None:
    """That is how statistics are taken anew for a member."""
    space = tiny()
    norm = space.backbone.net.bn1
    norm.reset_running_stats()
    norm.momentum = None
    maps = [torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    for x in maps:
        norm.train()(x)
    expected = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean[:8], expected)
    assert not norm.running_mean[8:].any()


def test_what_came_pretrained_is_the_backbone() -> None:
    space = tiny()
    assert space.pretrained_parameters() == set()
    space.pretrained = True
    names = space.pretrained_parameters()
    assert names == {name for name, _ in space.named_parameters() if name.startswith("backbone.")}
    assert space.subnet(space.smallest()).pretrained


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv4_conv_small", "mixnet_s"])
def test_other_backbones_are_refused_by_name(backbone: str) -> None:
    with pytest.raises(UsageError, match=f"{backbone} cannot be made elastic.*tf_efficientnet_lite0"):
        ElasticPyramid(4, [(64, 64)], backbone=backbone)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"widths": (0.5, 0.75)}, "widths"),
        ({"expand": (1.0, 2.0)}, "expand"),
        ({"coarsest": (4, 5)}, "coarsest"),
        ({"neck": ()}, "neck"),
        ({"repeats": (3, 2)}, "repeats"),
        ({"depths": 0}, "depths"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Options(**wrong)
