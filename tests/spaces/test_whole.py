"""The space of whole networks: ladders, labels, and members that are what their architecture says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catchweight.errors import UsageError
from catchweight.front import Arch
from catchweight.spaces import WholeNetworks
from catchweight.spaces.whole import known, label, size_of


@given(st.integers(64, 2000), st.integers(64, 2000), st.lists(st.floats(0.05, 1), min_size=1, max_size=6))
def test_ladders_fall_in_size_never_below_64_and_repeat_nothing(height, width, scales):
    space = WholeNetworks((height, width), ("a", "b"), (1.0, 0.5), tuple(scales))
    ladders = list(space.ladders())
    assert len(ladders) == 4
    for ladder in ladders:
        sizes = [size_of(arch) for arch in ladder]
        assert sizes == sorted(set(sizes), reverse=True)
        assert min(map(min, sizes)) >= 64
    assert len({arch for ladder in ladders for arch in ladder}) == sum(map(len, ladders))


def test_a_member_is_the_network_its_architecture_names():
    space = WholeNetworks((64, 96), ("timm/test_efficientnet+fpn",), (0.25,), (1.0,))
    arch = next(space.ladders())[0]
    net = space.network(arch, 5).eval()
    assert (net.spec.name, net.spec.width) == ("timm/test_efficientnet+fpn", 0.25)
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, *size_of(arch))).shape == (1, 5, 64, 96)


def test_labels_are_file_names_and_tell_members_apart():
    name = label(Arch(network="timm/resnet18+bifpn:levels=2-7,width=96", width=0.5, size=[180, 240]))
    assert name == "resnet18+bifpn_levels_2-7_width_96-w0.5-180x240"
    space = WholeNetworks((180, 240))
    members = [arch for ladder in space.ladders() for arch in ladder]
    assert len({label(arch) for arch in members}) == len(members)


def test_a_member_has_one_label_whether_it_was_drawn_or_read():
    drawn = Arch(width=8, size=(180, 240))
    read = Arch(**drawn.to_json())
    assert drawn == read
    assert label(drawn) == label(read) == "member-2c0fc161-180x240", "that of earlier versions"


@pytest.mark.parametrize("wrong", [{"widths": ()}, {"scales": ()}, {"networks": ()}, {"base": (60, 200)}])
def test_an_empty_or_too_small_space_is_refused(wrong):
    with pytest.raises(UsageError):
        WholeNetworks(**({"base": (100, 100)} | wrong))


def test_an_unknown_network_is_named_with_its_nearest():
    assert known(("eseg_lite_s",)) == ("eseg_lite_s",)
    with pytest.raises(UsageError, match='did you mean "eseg_lite_s"'):
        known(("eseg_lite_ss",))
