"""What each ingredient of the fine-tuning recipe brings on CamVid-half: the full recipe, and the same without one.

    python benchmarks/ingredients.py ../shared/data/camvid --out runs/ingredients [--only all,no_ema] [--epochs 30]

One training per row, written to ``<out>/<row>/``; a killed run goes on. The table is ``<out>/ingredients.json``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from catchweight.config import override
from catchweight.data import open_data
from catchweight.data.cache import PixelCache
from catchweight.files import read_json, write_json
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.train import RECIPES, train


@dataclass(frozen=True)
class Row:
    """One training: a network, where its weights come from, and what differs from the recipe."""

    says: str
    network: str = "eseg_lite_s"
    width: float = 1.0
    weights: str = "offline"
    recipe: str = "finetune"
    changes: tuple[str, ...] = ()


ROWS = {
    "all": Row("the recipe"),
    "no_region_loss": Row("loss: cross-entropy alone", changes=("loss.lovasz=0", "loss.dice=0")),
    "aux": Row("loss: with auxiliary heads", changes=("loss.aux=0.4",)),
    "flip_only": Row(
        "augmentation: flip alone",
        changes=(
            "augment.scale=[1.0, 1.0]",
            "augment.brightness=0",
            "augment.contrast=0",
            "augment.saturation=0",
            "augment.hue=0",
            "augment.rare_crops=0",
        ),
    ),  # fmt: skip
    "no_colour": Row(
        "augmentation: no colour jitter",
        changes=("augment.brightness=0", "augment.contrast=0", "augment.saturation=0", "augment.hue=0"),
    ),
    "rare_crops": Row("augmentation: half of the crops at rare classes", changes=("augment.rare_crops=0.5",)),
    "low_lr": Row("learning rate 1e-3", changes=("lr=0.001",)),
    "no_ema": Row("EMA: none", changes=("ema=0",)),
    "fpn": Row("neck: FPN P2-P5", network="timm/tf_efficientnet_lite0+fpn"),
    "bifpn_p5": Row("neck: BiFPN P2-P5", network="eseg_lite_s:levels=2-5"),
    "larger": Row("resolution: 240x320", changes=("size=[240, 320]",)),
    "smaller": Row("resolution: 144x192", changes=("size=[144, 192]",)),
    "from_scratch": Row("weights: random, recipe scratch", weights="none", recipe="scratch"),
    "ffnet": Row("FFNet's smallest, random weights", "ffnet_22s_bcc_mobile", 1.0, "none", "scratch"),
    "student": Row("FasterSeg's published student, random weights", "fasterseg_student", 1.0, "none", "scratch"),
    "resnet18": Row("ResNet-18 with BiFPN, random weights", "timm/resnet18+bifpn", 1.0, "none", "scratch"),
}


def train_row(name: str, data_path: Path, out: Path, epochs: int, seed: int, extra: list[str]) -> dict[str, Any]:
    """Train one row and measure its latency; returns what the table needs."""
    row = ROWS[name]
    recipe = RECIPES[row.recipe]()
    recipe = override(recipe, [f"epochs={epochs}", f"seed={seed}", *extra, *row.changes])
    data = open_data(data_path)
    torch.manual_seed(seed)
    net = build_network(row.network, len(data.classes), width=row.width, weights=row.weights, aux=recipe.loss.aux > 0)
    result = train(net, data, recipe, out / f"{name}-{seed}", cache=PixelCache())
    cost = Target.parse("onnxruntime:cpu", threads=2).cost(net, recipe.size)
    last = result.history[-1]
    return {
        "row": name, "says": row.says, "seed": seed, "epochs": epochs, "miou": round(result.score, 4),
        "last_miou": last.get("val_miou"), "minutes": round(result.seconds / 60, 2),
        "latency_ms": round(cost.latency_ms or 0.0, 2), "params": cost.params, "macs": cost.macs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ingredients"))
    parser.add_argument("--only", default=",".join(ROWS), help="rows, comma-separated")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="extra", help="further recipe settings")
    asked = parser.parse_args()
    table = asked.out / "ingredients.json"
    for name in asked.only.split(","):
        done = train_row(name, asked.data, asked.out, asked.epochs, asked.seed, asked.extra)
        rows = read_json(table) if table.exists() else []
        write_json(table, [r for r in rows if (r["row"], r["seed"]) != (name, asked.seed)] + [done])
        print(done, flush=True)


if __name__ == "__main__":
    main()
