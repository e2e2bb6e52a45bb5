"""The check that every published backbone shares: exact size, and proof that it works inside a segmenter.

The networks are timm's; what is shown here is that the right one is meant and that nothing is lost on its way through
training and export.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..nets import SegmentationNet, build_network
from ..nets.backbones import PUBLISHED, PublishedBackbone
from ..targets.counts import count_macs, count_params
from ..targets.runtimes.onnxruntime_target import open_session
from ..targets.tracing.graph import to_onnx
from ..tasks.losses import SegmentationLoss
from ..train import finetune
from .receptive import settle_norms
from .result import Condition, Verdict
from .system import CheckContext, System

CLASSES = 5
ROUNDING = 0.5e-3
"""The reference figures have three decimals."""

RELATIVE, CHANGED = 1e-3, 1e-3
"""Largest logit difference over the largest logit, and share of pixels whose class may change, after export."""


@dataclass(frozen=True)
class Reference:
    """A network's size as counted once outside this project: millions of parameters, giga-MACs at ``size``."""

    timm_name: str
    size: int
    params_m: float
    macs_g: float


def backbone_system(name: str, family: str, claim: str, module: str, references: tuple[Reference, ...]) -> System:
    """A row whose paper, year and proof network come from ``nets.backbones.PUBLISHED``."""
    published = next(entry for entry in PUBLISHED if entry.family == family)
    return System(
        name=name,
        title=published.family,
        paper=published.paper,
        year=published.year,
        where=(f"timm.models.{module}", "catchweight.nets.backbones:TimmBackbone"),
        claim=f"{claim} Sizes are exact; it trains and exports unchanged inside a segmenter.",
        check=partial(check, published=published, references=references),
    )


def check(context: CheckContext, published: PublishedBackbone, references: tuple[Reference, ...]) -> Verdict:
    """Sizes of every reference, then the end-to-end proof with the family's small member."""
    found = {r.timm_name: context.stage(f"size-{r.timm_name}", partial(_sizes, r)) for r in references}
    claim = [condition for r in references for condition in _size_conditions(r, found[r.timm_name])]
    figures: dict[str, Any] = {"sizes": found, "references": [asdict(r) for r in references]}
    network = f"timm/{published.timm_name}+fpn:width=32"
    size = (64, 96) if context.quick else (128, 160)
    proof = context.stage("proof", lambda: prove(network, size, context.folder / "proof.onnx"))
    conditions, control = proof_conditions(proof)
    return Verdict((*claim, *conditions), control, figures | {"network": network, "proof": proof}, seeds=(0,))


def _sizes(reference: Reference) -> dict[str, float]:
    with torch.device("meta"):
        net = timm.create_model(reference.timm_name)
    # Fused attention kernels hide their matrix products from the counter.
    with sdpa_kernel(SDPBackend.MATH):
        macs = count_macs(net.to_empty(device="cpu"), (reference.size, reference.size))
    return {"params_m": count_params(net) / 1e6, "macs_g": macs / 1e9}


def _size_conditions(reference: Reference, found: dict[str, float]) -> list[Condition]:
    params = abs(found["params_m"] - reference.params_m)
    macs = abs(found["macs_g"] - reference.macs_g)
    bound = ROUNDING * (1 + 1e-9)
    return [
        Condition(f"{reference.timm_name}: parameters off by (M)", params, bound, "<="),
        Condition(f"{reference.timm_name}: MACs off by (G)", macs, bound, "<="),
    ]


def prove(network: str, size: tuple[int, int], path: Path) -> dict[str, Any]:
    """A few training steps, export, and parity; then parity against a network that was changed after export.

    Several steps, because blocks whose last gain starts at zero pass no gradient in the first.
    """
    torch.manual_seed(0)
    net = build_network(network, CLASSES)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (2, *size), dtype=torch.uint8)
    losses, silent = _few_steps(net, images, masks)
    settle_norms(net, net.normalise(images))
    to_onnx(net, path, size, batch=2)
    inputs = net.normalise(images)
    exported = _run(path, inputs)
    parity = compare(net, inputs, exported)
    _disturb(net)
    return {
        "losses": losses,
        "silent": silent,
        "params": count_params(net),
        "parity": parity,
        "disturbed": compare(net, inputs, exported),
    }


STEPS = 6
"""On one batch of random labels: a single step may go up, through batch norms over a handful of values."""


def _few_steps(net: SegmentationNet, images: Tensor, masks: Tensor) -> tuple[list[float], list[str]]:
    """Losses, and the parameters that had no gradient (or one that is not finite) in the last step."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    loss_of = SegmentationLoss(finetune().loss)
    losses = []
    net.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(net.train_logits(net.normalise(images)), masks)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, [name for name, p in net.named_parameters() if not _alive(p)]


def _alive(parameter: nn.Parameter) -> bool:
    total = float(parameter.grad.abs().sum()) if parameter.grad is not None else 0.0
    return 0 < total < float("inf")


def _run(path: Path, inputs: Tensor) -> np.ndarray:
    session = open_session(path, threads=1)
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return np.asarray(logits)


@torch.no_grad()
def compare(net: SegmentationNet, inputs: Tensor, exported: np.ndarray) -> dict[str, float]:
    """Largest logit difference relative to the largest logit, and the share of pixels whose class differs."""
    logits = net.eval()(inputs).numpy()
    return {
        "relative": float(np.abs(logits - exported).max() / np.abs(logits).max()),
        "changed": float((logits.argmax(1) != exported.argmax(1)).mean()),
    }


@torch.no_grad()
def _disturb(net: SegmentationNet) -> None:
    """The broken arm: noise of a tenth of their own deviation on the first convolution's weights."""
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    first.weight.add_(0.1 * first.weight.std() * torch.randn_like(first.weight))


def proof_conditions(proof: dict[str, Any]) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """Claim and control of ``prove``."""
    parity, disturbed = proof["parity"], proof["disturbed"]
    claim = (
        Condition("last loss over first", proof["losses"][-1] / proof["losses"][0], 1.0, "<="),
        Condition("parameters without a gradient", len(proof["silent"]), 0, "<="),
        Condition("export: largest relative logit difference", parity["relative"], RELATIVE, "<="),
        Condition("export: share of pixels changed", parity["changed"], CHANGED, "<="),
    )
    control = (
        Condition("disturbed network: largest relative logit difference", disturbed["relative"], RELATIVE, "<="),
    )
    return claim, control
