"""Channel groups: what couples, what must stay, and that a wrong coupling is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from catchweight.compress import ChannelGroup, Groups, find_groups
from catchweight.compress.groups import network_outputs
from catchweight.compress.proof import NOT_COUPLED, refuted
from catchweight.errors import CatchweightError
from catchweight.nets import SegmentationNet, build_network, load_network, pruned_spec, save_network
from catchweight.nets.shrink import shapes

NETWORKS = {
    "ffnet_22s_bcc_mobile": 0.25,
    "timm/test_resnet+bifpn:levels=2-6,width=16,repeats=1": 1.0,
    "timm/test_efficientnet+fpn:width=16": 1.0,
    "fasterseg_student": 0.25,
    "elastic/test_efficientnet:neck=16,repeats=1": 1.0,
    "elastic/test_efficientnet:neck=16,repeats=0": 1.0,
    "dpc/test_resnet:filters=16": 1.0,
    "eseg_lite_s:width=16,repeats=1,levels=2-6": 1.0,
}
SIZE = (64, 64)


def halved(groups: Groups) -> dict[str, np.ndarray]:
    return {group.name: np.arange(0, group.units, 2) for group in groups.groups}


class Plain(nn.Module):
    """Convolution, norm, and whatever stands between them and the next convolution."""

    def __init__(self, between: nn.Module, wider: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.between = between
        self.two = nn.Conv2d(16 // wider, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.between(self.norm(self.one(self.stem(x)).relu())))


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def shuffled(x: Tensor) -> Tensor:
    """Channel shuffle (Zhang et al., CVPR 2018), which Torch-Pruning takes for an element-wise operator."""
    b, c, h, w = x.shape
    return x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)


@pytest.mark.parametrize("name", NETWORKS)
def test_our_networks_prune_train_save_and_load(name: str, tmp_path: Path) -> None:
    net = build_network(name, 5, width=NETWORKS[name], aux=True)
    groups = find_groups(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    left = groups.prune(net, halved(groups))
    assert sum(p.numel() for p in net.parameters()) < 0.5 * sum(v.numel() for v in before.values())
    assert left.widths == {group.name: -(-group.units // 2) for group in groups.groups}
    net.spec = pruned_spec(net)
    image = torch.randn(2, 3, *SIZE)
    sum(y.square().mean() for y in net.train().train_logits(image)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())
    save_network(tmp_path / "net.pt", net, {"size": list(SIZE)})
    again, _ = load_network(tmp_path / "net.pt")
    assert again.spec == net.spec
    with torch.no_grad():
        assert torch.equal(again(image), net.eval()(image))


def test_groups_go_on_being_right_after_a_pruning() -> None:
    """Pruned twice by the groups that the first pruning leaves, as the schedule does; then proven once more."""
    net = build_network("timm/test_resnet+fpn:width=16,levels=2-3", 5)
    groups = find_groups(net)
    rng = np.random.default_rng(0)
    for _ in range(2):
        keep = {g.name: rng.choice(g.units, -(-2 * g.units // 3), replace=False) for g in groups.groups}
        groups = groups.prune(net, keep)
        assert net(torch.randn(1, 3, *SIZE)).shape == (1, 5, *SIZE)
    assert not refuted(net, [group for group in groups.groups if group.units > 1], SIZE, network_outputs)
    fresh = find_groups(net)
    assert {g.name: g.units for g in fresh.groups} == {n: u for n, u in groups.widths.items() if n in fresh.widths}


def test_removing_silent_channels_changes_nothing() -> None:
    """Channels whose norm gives zero are removed: the outputs stay, so just those and their consumers' inputs went."""
    torch.manual_seed(0)
    net = build_network("timm/test_resnet+fpn:width=16,levels=2-3", 4).eval()
    groups = find_groups(net)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    for group in groups.groups:
        for (name, _), indices in group.slices.items():
            if isinstance(net.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d) and name.endswith(
                ("weight", "bias")
            ):
                net.get_parameter(name).data[torch.from_numpy(indices[1::2].reshape(-1))] = 0
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = net(image)
        groups.prune(net, halved(groups))
        assert torch.allclose(net(image), before, atol=1e-5)


def test_output_and_first_layer_stay_and_say_why() -> None:
    net = Plain(nn.ReLU())
    found = find_groups(net, SIZE)
    assert found.widths == {"one": 16}
    assert found.fixed == {"stem": "first layer", "two": "part of the network's output"}
    assert find_groups(net, SIZE, first=True).widths == {"stem": 8, "one": 16}
    assert find_groups(net, SIZE, keep=["one"]).fixed["one"] == "asked to stay"


def test_a_head_that_applies_its_classifier_by_hand_does_not_freeze_the_neck() -> None:
    net = build_network("timm/test_resnet+bifpn:levels=2-6,width=16,repeats=1", 5)
    groups = find_groups(net)
    assert any(group.name.startswith("neck.") for group in groups.groups)
    assert [name for name, why in groups.fixed.items() if why == "part of the network's output"] == ["head.classifier"]


@pytest.mark.parametrize("between", [Function(shuffled), Function(lambda x: x.cumsum(1))], ids=["shuffle", "cumsum"])
def test_what_mixes_channels_is_found_out(between: nn.Module) -> None:
    found = find_groups(Plain(between), SIZE)
    assert not found.groups
    assert found.fixed["one"] in (NOT_COUPLED, "channel numbers that do not fit")


def test_numbers_in_the_code_are_found_out() -> None:
    """Cut at 8 of 16: with fewer channels the second part would be another one."""
    found = find_groups(Plain(Function(lambda x: torch.cat([x[:, :8], x[:, 8:]], 1))), SIZE)
    assert not found.groups


class Auxiliary(Plain):
    """Gives a second output in training alone, as PSPNet and BiSeNet do; part of it may go by chance meanwhile."""

    def __init__(self, dropped: float = 0.0) -> None:
        super().__init__(nn.ReLU())
        self.aux = nn.Sequential(
            nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Dropout(0.1), nn.Conv2d(12, 5, 1)
        )
        self.dropped = dropped

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        y = self.norm(self.one(self.stem(x)).relu())
        y = F.dropout(y, self.dropped, self.training)
        return (self.two(y), self.aux(y)) if self.training else self.two(y)


@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_what_a_users_network_gives_in_training_alone_is_cut_along(dropped: float) -> None:
    net = Auxiliary(dropped)
    found = find_groups(net, SIZE)
    assert found.widths == {"one": 16, "aux.0": 12}
    assert {found.fixed[name] for name in ("two", "aux.3")} == {"part of the network's output"}
    found.prune(net, halved(found))
    main, aux = net.train()(torch.randn(2, 3, *SIZE))
    assert main.shape == aux.shape == (2, 5, *SIZE)


class Detector(Plain):
    """Wants targets in training, and keeps statistics of its own."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())
        self.register_buffer("centre", torch.zeros(()))

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        y = self.norm(self.one(self.stem(x)).relu()) - self.centre
        if not self.training:
            return self.two(y)
        self.centre = 0.9 * self.centre + 0.1 * y.detach().mean()
        return F.mse_loss(self.two(y), targets)  # type: ignore[arg-type]


def test_a_network_that_wants_more_in_training_is_pruned_by_what_it_gives() -> None:
    net = Detector()
    assert find_groups(net, SIZE).widths == {"one": 16}
    assert net.training, "left as it was"
    assert not net.centre


@pytest.mark.parametrize("normed", [weight_norm, spectral_norm])
def test_layers_whose_weights_are_computed_stay(normed: Callable[[nn.Module], nn.Module]) -> None:
    """They and what they read; the rest is pruned."""
    between = nn.Sequential(normed(nn.Conv2d(16, 16, 1, bias=False)), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1))
    net = Plain(between)
    found = find_groups(net, SIZE)
    assert found.widths == {"between.1": 16, "between.2": 16}
    assert found.fixed["one"] == found.fixed["between.0"] == "its weights are computed from others"
    found.prune(net, halved(found))
    assert net(torch.randn(1, 3, *SIZE)).shape == (1, 5, *SIZE)


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 16), nn.PReLU(16), nn.InstanceNorm2d(16, affine=True)])
def test_other_layers_of_channels_follow(layer: nn.Module) -> None:
    net = Plain(layer)
    found = find_groups(net, SIZE)
    (group,) = found.groups
    assert group.units == (4 if isinstance(layer, nn.GroupNorm) else 16)
    found.prune(net, {"one": [0, 2]})
    assert net(torch.randn(1, 3, *SIZE)).shape == (1, 5, *SIZE)
    assert net.two.in_channels == 2 * 16 // group.units


def test_a_wrong_coupling_is_refuted() -> None:
    """The proof itself: the right group passes; with a consumer's indices moved by one, or left out, it must not."""
    net = Plain(nn.ReLU())
    (group,) = find_groups(net, SIZE).groups
    moved = {**group.slices, ("two.weight", 1): np.roll(group.slices["two.weight", 1], 1, axis=0)}
    without = {key: value for key, value in group.slices.items() if key[0] != "norm.bias"}
    for wrong in (replace(group, slices=moved), replace(group, slices=without)):
        assert refuted(net, [wrong], SIZE, network_outputs) == {"one": NOT_COUPLED}
    assert refuted(net, [group], SIZE, network_outputs) == {}


def test_among_many_groups_just_the_wrong_one_is_named() -> None:
    net = build_network("timm/test_resnet+fpn:width=16,levels=2-3", 4)
    groups: list[ChannelGroup] = list(find_groups(net).groups)
    key = next(key for key in groups[2].slices if key[1] == 1)
    wrong = replace(groups[2], slices={**groups[2].slices, key: np.roll(groups[2].slices[key], 1, axis=0)})
    assert set(refuted(net, [*groups[:2], wrong, *groups[3:]], SIZE, network_outputs)) == {wrong.name}


def test_a_group_is_never_emptied() -> None:
    net = Plain(nn.ReLU())
    with pytest.raises(CatchweightError, match="keep one unit at least"):
        find_groups(net, SIZE).prune(net, {"one": []})


def file_with(path: Path, net: SegmentationNet, pruned: object) -> Path:
    """A network file whose table of pruned shapes was tampered with."""
    save_network(path, net)
    content = torch.load(path, weights_only=True)
    content["spec"]["pruned"] = pruned
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("pruned", "said"),
    [
        ({"head.0.0.weight": [99999, 16, 3, 3]}, "cannot be pruned to"),
        ({"head.0.0.weight": [0, 16, 3, 3]}, "cannot be pruned to"),
        ({"head.0.0.weight": [8]}, "cannot be pruned to"),
        ({"no.such.layer": [8]}, 'no "no.such.layer"'),
        ({"head.0.1.weight": [4]}, "do not fit together"),
        ("rubbish", "not a saved network"),
        ({"head.0.0.weight": "x"}, "not a saved network"),
    ],
)
def test_hostile_tables_of_shapes_are_refused(pruned: object, said: str, tmp_path: Path) -> None:
    net = build_network("ffnet_22s_bcc_mobile", 4, width=0.25)
    path = file_with(tmp_path / "net.pt", net, pruned)
    with pytest.raises(CatchweightError, match=said):
        load_network(path)


def test_a_network_that_was_not_pruned_is_described_as_before() -> None:
    net = build_network("ffnet_22s_bcc_mobile", 4, width=0.25)
    assert pruned_spec(net) == net.spec
    assert "pruned" not in net.spec.to_json()
    assert shapes(net)["head.1.weight"][0] == 4
