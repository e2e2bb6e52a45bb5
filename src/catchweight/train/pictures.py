"""Pictures of a finished training: curves, confusion matrix, and validation images with their predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..data import SegmentationData
from ..data.cache import PixelCache
from ..data.drawing import overlay
from ..data.loading import EvalLoader
from ..files import read_json, write_json, written_aside
from ..nets import load_network
from ..tasks.metrics import SegmentationScore
from .evaluate import Predict, best_class, eager_predict, evaluate
from .recipes import Recipe


def draw_pictures(
    folder: Path,
    data: SegmentationData,
    recipe: Recipe,
    history: list[dict[str, Any]],
    split: str,
    cache: PixelCache | None,
) -> None:
    """Score ``best.pt`` once more, with boundaries, and write ``score.json`` and the PNGs; once per history."""
    done = folder / "score.json"
    if done.exists() and read_json(done)["epochs"] == len(history):
        return
    net, _ = load_network(folder / "best.pt")
    predict = eager_predict(net)
    loader = EvalLoader(data, split, recipe.size, recipe.eval_batch, cache, workers=recipe.workers)
    score = evaluate(predict, loader, data.classes, boundary=True)
    draw_curves(history, folder / "curves.png")
    draw_confusion(score, data.classes.names, folder / "confusion.png")
    ids = pick_examples(score)
    draw_examples(predict, data, split, ids, recipe.size, folder / "examples.png")
    # Last, since it says that the pictures are there.
    write_json(done, {"epochs": len(history), **score.to_json()})


def pick_examples(score: SegmentationScore) -> list[tuple[str, str]]:
    """(caption, image id) of two images each: the worst, the median and the best ones."""
    ranked = sorted(score.per_image, key=lambda pair: pair[1])
    middle = max(0, len(ranked) // 2 - 1)
    groups = {"worst": ranked[:2], "median": ranked[middle : middle + 2], "best": ranked[-2:]}
    chosen: dict[str, str] = {}
    for kind, pairs in groups.items():
        for name, value in pairs:
            chosen.setdefault(name, f"{kind}: {name}, mIoU {value:.2f}")
    return [(caption, name) for name, caption in chosen.items()]


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Loss and learning rate, mIoU, and the IoU of every class, over the epochs."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train_loss"] for row in history], color="C0")
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    rates = left.twinx()
    rates.plot(epochs, [row["lr"] for row in history], color="0.6", linestyle=":", label="learning rate")
    rates.set(ylim=(0, None))
    rates.legend(loc="upper right", frameon=False)
    scored = [row for row in history if row["val_miou"] is not None]
    at = [row["epoch"] for row in scored]
    middle.plot(at, [row["val_miou"] for row in scored], label="mIoU", marker=".")
    middle.plot(at, [row["pixel_accuracy"] for row in scored], label="pixel accuracy", marker=".")
    middle.set(title="validation", xlabel="epoch", ylim=(0, 1))
    middle.legend(loc="lower right")
    names = [key for key in history[0] if key.startswith("iou/")] if history else []
    colors = mpl.colormaps["turbo"](np.linspace(0.03, 0.97, max(1, len(names))))
    for name, color in zip(names, colors, strict=False):
        values = [np.nan if row[name] is None else row[name] for row in scored]
        right.plot(at, values, label=name.removeprefix("iou/"), color=color, marker=".", linewidth=1)
    right.set(title="validation IoU by class", xlabel="epoch", ylim=(0, 1))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, ncols=1 + len(names) // 21)
    _save(figure, path)


def draw_confusion(score: SegmentationScore, names: tuple[str, ...], path: Path) -> None:
    """Share of each true class's pixels that went to each predicted class."""
    truth = score.confusion.sum(1, keepdims=True)
    share = np.divide(score.confusion, truth, out=np.zeros(score.confusion.shape), where=truth > 0)
    count, side = len(names), 2.5 + 0.5 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), names, rotation=60, ha="right")
    axes.set_yticks(range(count), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"share of true pixels, in %; mIoU {score.miou:.3f}")
    for row in range(count):
        for column in range(count):
            if share[row, column] >= 0.005 and count <= 40:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=color, size=8)
    _save(figure, path)


def draw_examples(
    predict: Predict,
    data: SegmentationData,
    split: str,
    examples: list[tuple[str, str]],
    size: tuple[int, int],
    path: Path,
) -> None:
    """Image, truth and prediction side by side, one row an example."""
    records = {record.id: record for record in data.splits[split]}
    chosen = replace(data, splits={split: tuple(records[name] for _, name in examples)})
    height, width = data.image(records[examples[0][1]]).shape[:2]
    figure = Figure(figsize=(12, (4 * height / width + 0.3) * len(examples) + 0.5), layout="constrained")
    grid = figure.subplots(len(examples), 3, squeeze=False)
    loader = EvalLoader(chosen, split, size, batch=1)
    for (caption, name), batch, row in zip(examples, loader, grid, strict=True):
        image, truth = data.image(records[name]), batch.masks[0].numpy()
        guess = best_class(predict(batch.images)[0], truth.shape).cpu().numpy()
        views = (image, *(overlay(image, mask, data.classes, outline=True) for mask in (truth, guess)))
        for axes, view, title in zip(row, views, (caption, "truth", "prediction"), strict=True):
            axes.imshow(view)
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    handles = [
        Patch(color=(red / 255, green / 255, blue / 255), label=name)
        for name, (red, green, blue) in zip(data.classes.names, data.classes.colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(11, len(handles)), fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with written_aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
