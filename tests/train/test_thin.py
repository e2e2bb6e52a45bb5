"""Go wide, then narrow: the pair of maps at a joint, what imitation trains, and that merging changes nothing."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from catchweight.errors import UsageError
from catchweight.train.thin import Imitator, imitate

ADAM = partial(torch.optim.Adam, lr=3e-3)


def chain(*widths: int, after: bool = False) -> list[nn.Module]:
    """Linear layers with the ReLU before them (but the first), or after them (but the last)."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    if after:
        return [nn.Sequential(layer, nn.ReLU()) for layer in layers[:-1]] + [nn.Sequential(layers[-1])]
    return [nn.Sequential(layers[0])] + [nn.Sequential(nn.ReLU(), layer) for layer in layers[1:]]


def convolutions(width: int, after: bool) -> list[nn.Module]:
    first, second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
    head = nn.Sequential(nn.Conv2d(width, 4, 1))
    if after:
        return [nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU()), nn.Sequential(second, nn.ReLU()), head]
    return [nn.Sequential(first), nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), second), head]


def disturbed(net: Imitator, seed: int = 0) -> Imitator:
    """Every parameter moved, so that D no longer undoes U."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_at_the_start_the_pairs_change_nothing() -> None:
    thin, x = chain(8, 5, 5, 3), torch.randn(6, 8)
    net = Imitator(copy.deepcopy(thin), chain(8, 12, 12, 3), x)
    torch.testing.assert_close(net(x), nn.Sequential(*thin)(x), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.integers(1, 8), min_size=1, max_size=5), after=st.booleans(), seed=st.integers(0, 999))
def test_merging_chains_of_any_widths_changes_no_output_and_adds_no_parameter(
    widths: list[int], after: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    thin, wide = chain(6, *widths, 3, after=after), chain(6, *(2 * w for w in widths), 3, after=after)
    x = torch.randn(10, 6)
    parameters = count(nn.Sequential(*thin))
    net = disturbed(Imitator(thin, wide, x), seed)
    merged = net.merged()
    torch.testing.assert_close(merged(x), net(x), rtol=1e-4, atol=1e-4)
    assert count(merged) == parameters < count(net) or not widths


@pytest.mark.parametrize("after", [False, True])
def test_merging_is_exact_for_padded_and_strided_convolutions(after: bool) -> None:
    """Behind a ReLU the pair goes into the next, zero-padded convolution; before one into the last."""
    x = torch.randn(2, 3, 11, 14)
    thin = convolutions(4, after)
    parameters = count(nn.Sequential(*thin))
    net = disturbed(Imitator(thin, convolutions(9, after), x))
    merged = net.merged()
    torch.testing.assert_close(merged(x), net(x), rtol=1e-4, atol=1e-4)
    assert count(merged) == parameters


def test_merging_leaves_the_imitator_alone() -> None:
    x = torch.randn(4, 6)
    net = disturbed(Imitator(chain(6, 3, 3, 2), chain(6, 5, 5, 2), x))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.merged()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_error_of_a_level_is_that_of_its_output_at_the_wide_width() -> None:
    x, wide = torch.randn(7, 6), chain(6, 5, 5, 2)
    net = disturbed(Imitator(chain(6, 3, 3, 2), wide, x))
    with torch.no_grad():
        second = net.up[1](net.blocks[1](net.down[0](net.up[0](net.blocks[0](x)))))
        target = wide[1](wide[0](x))
        assert net.error(x, 1) == pytest.approx(((second - target) ** 2).mean().item(), rel=1e-5)
        assert net.error(x, 2) == pytest.approx(((net(x) - nn.Sequential(*wide)(x)) ** 2).mean().item(), rel=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_trains_its_block_and_the_maps_beside_it(level: int) -> None:
    x = torch.randn(7, 6)
    net = Imitator(chain(6, 3, 3, 2), chain(6, 5, 5, 2), x)
    net.error(x, level).backward()
    touched = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    expected = {f"blocks.{level}.{'0' if level == 0 else '1'}.{kind}" for kind in ("weight", "bias")}
    expected |= {f"up.{level}.weight"} if level < 2 else set()
    expected |= {f"down.{level - 1}.weight"} if level else set()
    assert touched == expected
    named = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {named[id(parameter)] for parameter in net.level_parameters(level)} == expected


@pytest.mark.parametrize("joint", [False, True])
def test_imitation_comes_near_to_a_wide_network_of_low_rank(joint: bool) -> None:
    """A wide network that is a widened thin one can be imitated, so the errors must nearly vanish."""
    torch.manual_seed(3)
    x = torch.randn(512, 6)
    wide = chain(6, 6, 6, 2)
    net = Imitator(chain(6, 6, 6, 2), wide, x)
    start = [float(net.error(x, level).detach()) for level in range(3)]
    batches = (x[torch.randint(512, (64,))] for _ in itertools.count())
    imitate(net, batches, 1500, ADAM, joint=joint)
    end = [float(net.error(x, level).detach()) for level in range(3)]
    assert all(after < 0.2 * before for before, after in zip(start, end, strict=True)), (start, end)


def test_lower_blocks_stay_while_a_level_is_trained() -> None:
    x = torch.randn(64, 6)
    net = Imitator(chain(6, 3, 3, 2), chain(6, 5, 5, 2), x)
    seen: list[Tensor] = []

    def optimise(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        seen.append(net.blocks[0][0].weight.detach().clone())
        return ADAM(parameters)

    imitate(net, itertools.repeat(x), 9, optimise)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], net.blocks[0][0].weight)


def test_what_cannot_be_imitated_or_merged_is_said() -> None:
    x = torch.randn(4, 6)
    with pytest.raises(UsageError, match="3 blocks and the wide one 2"):
        Imitator(chain(6, 3, 3, 2), chain(6, 5, 2), x)
    with pytest.raises(UsageError, match=r"\(2,\) and \(4,\)"):
        Imitator(chain(6, 3, 2), chain(6, 5, 4), x)
    with pytest.raises(UsageError, match=r"\(2,\), the thin one's \(3,\)"):
        Imitator(chain(6, 3, 2), chain(6, 2, 2), x)
    with pytest.raises(UsageError, match="2 steps are too few for 3"):
        imitate(Imitator(chain(6, 3, 3, 2), chain(6, 5, 5, 2), x), itertools.repeat(x), 2, ADAM)
    grouped = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 1, groups=4))]
    wide = [nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(8, 4, 1))]
    net = Imitator(grouped, wide, torch.randn(1, 3, 8, 8))
    with pytest.raises(UsageError, match="between blocks 0 and 1 cannot be merged"):
        net.merged()
