"""Any network, any ratio: what is pruned still runs, is saved and read back, and exports to the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from random_nets import RandomNet
from torch import Tensor

from catchweight.compress import find_groups, load_pruned, save_pruned
from catchweight.nets.shrink import shapes
from catchweight.targets.tracing.graph import to_onnx

QUICK, ALL = range(15), range(15, 200)
SIZE = (32, 40)


def pruned(seed: int) -> tuple[RandomNet, int]:
    """A random network at random widths, with settled norms, and how many of its groups lost something."""
    net = RandomNet(seed)
    net.train()
    with torch.no_grad():  # norms that have seen something, so that no layer is an identity
        for _ in range(2):
            net(torch.randn(4, 3, *SIZE))
    groups = find_groups(net, SIZE)
    rng = np.random.default_rng(seed)
    keep = {g.name: rng.choice(g.units, int(rng.integers(1, g.units + 1)), replace=False) for g in groups.groups}
    groups.prune(net, keep)
    return net.eval(), sum(len(units) < group.units for group, units in zip(groups.groups, keep.values(), strict=True))


def holds(seed: int, folder: Path) -> int:
    net, groups = pruned(seed)
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        wanted: Tensor = net(image)
    assert torch.isfinite(wanted).all()
    save_pruned(folder / "net.pt", net, {"seed": seed})
    again, meta = load_pruned(folder / "net.pt", lambda: RandomNet(seed))
    assert meta == {"seed": seed}
    assert shapes(again) == shapes(net)
    with torch.no_grad():
        assert torch.equal(again(image), wanted)
    session = onnxruntime.InferenceSession(str(to_onnx(again, folder / "net.onnx", SIZE)))
    found = session.run(None, {"image": image.numpy()})[0]
    assert np.abs(found - wanted.numpy()).max() <= 1e-4 * max(1.0, float(wanted.abs().max()))
    return groups


@pytest.mark.parametrize("seed", QUICK)
def test_pruned_random_networks_run_save_load_and_export(seed: int, tmp_path: Path) -> None:
    assert holds(seed, tmp_path) >= 1, "nothing was pruned: the test would prove nothing"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_two_hundred(tmp_path: Path) -> None:
    counts = [holds(seed, tmp_path) for seed in ALL]
    assert min(counts) >= 1
