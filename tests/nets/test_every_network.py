"""Every name that ``catchweight networks`` lists keeps the one surface: odd sizes, gradients, bf16, save and reload."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catchweight.nets import build_network, load_network, network_names, save_network
from catchweight.nets.ffnet import FFNETS

WIDTHS = {"ffnet": 0.125, "fasterseg": 0.25}
"""By family, where width scales the whole network: 0.125 of an FFNet has every layer and a 64th of the work."""


KINDS = {(c.stem, c.block, c.up, c.head, c.smooth, c.pre_down, c.strides): name for name, c in FFNETS.items()}
"""One FFNet of every kind; the others differ from it in depth and channels alone."""


def always(name: str) -> bool:
    return name not in FFNETS or name in KINDS.values()


@pytest.mark.parametrize(
    "name", [name if always(name) else pytest.param(name, marks=pytest.mark.slow) for name in network_names()]
)
def test_the_surface_of_every_listed_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_network(name, 5, width=WIDTHS.get(name.split("_")[0], 1.0)).train()
    for _ in range(2):  # residual branches that begin at zero hide what is behind them from the first gradient
        net.zero_grad()
        for part in net.train_logits(torch.randn(2, 3, 64, 96)):
            (part * torch.randn_like(part)).sum().backward(retain_graph=True)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter.sub_(1e-3 * parameter.grad / (1e-6 + parameter.grad.norm()))
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    net.eval()
    save_network(tmp_path / "model.pt", net)
    again, _ = load_network(tmp_path / "model.pt")
    image = torch.randn(1, 3, 67, 97)
    with torch.no_grad():
        logits = net(image)
        assert logits.shape == (1, 5, 67, 97)
        assert torch.equal(again(image), logits)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(image).float()
        whole = net.bfloat16()(image.bfloat16()).float()
    for rough in (mixed, whole):
        assert (rough - logits).abs().max() < 0.1 * logits.abs().max()
