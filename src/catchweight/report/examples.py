"""The worst and the best validation images of a run's exported file, drawn once and kept in the run folder.

``examples/examples.json`` says which: ``{"model": sha256 of model.onnx, "scored": images looked at, "note": why there
are none, "examples": [{"kind", "id", "miou", "files": {"image", "truth", "prediction"}}]}``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data import SegmentationData, open_data
from ..data.dataset import Record, Sample
from ..data.drawing import overlay
from ..deploy.segmenter import Segmenter
from ..errors import CatchweightError
from ..files import read_json, write_json, written_aside
from ..run import Run
from ..tasks.metrics import confusion_matrix, mean_iou

EACH = 3
"""Images of each kind."""
MOST_SCORED = 256
"""Of more validation images, so many evenly spaced ones are scored."""
WIDTH = 520
"""Pixels of a drawn image, at most."""


def ensure_examples(run: Run) -> dict[str, Any]:
    """``examples.json`` of the run, made now if the exported file is newer; empty without an exported file.

    Data that is gone or has changed is no error: then ``note`` says so and there are no examples.
    """
    model, path = run.path("model.onnx"), run.path("examples", "examples.json")
    if not model.exists():
        return {}
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    known = read_json(path) if path.exists() else {}
    if known.get("model") == digest and known.get("examples"):
        return dict(known)
    try:
        found = _make(run, model)
    except (CatchweightError, OSError, ValueError) as error:
        found = {"scored": 0, "examples": [], "note": f"no examples were drawn: {error}"}
    found = {"model": digest, "note": ""} | found
    write_json(path, found)
    return found


def _make(run: Run, model: Path) -> dict[str, Any]:
    data = _opened(run)
    segment = Segmenter(model)
    if segment.names != data.classes.names:
        raise CatchweightError(f"{data.root} no longer has the classes that the file predicts")
    ranked = sorted((score, index) for index, score in enumerate(_scores(data, segment)))
    each = max(1, min(EACH, len(ranked) // 2))
    worst, best = ranked[:each], ranked[each:][-each:][::-1]
    records = _spaced(data)
    drawn = [
        _draw(run.path("examples"), f"{kind}-{place}", kind, score, data, data.read(records[index]), segment)
        for kind, found in (("worst", worst), ("best", best))
        for place, (score, index) in enumerate(found, start=1)
    ]
    return {"scored": len(ranked), "examples": drawn}


def _opened(run: Run) -> SegmentationData:
    """The data set as the run saw it."""
    checked = run.found("data.json")
    known: dict[str, Any] = read_json(checked) if checked.exists() else {}
    seed = int(run.request.get("settings", {}).get("train", {}).get("seed", 0))
    data = open_data(run.request["data"], known.get("format", "auto"), seed=seed)
    images = len(data.splits.get("val", ()))
    then = known.get("counts", {}).get("val", {}).get("images", images)
    if not images or images != then:
        raise CatchweightError(f"{data.root} has {images} validation images, but had {then} when the run looked at it")
    return data


def _spaced(data: SegmentationData) -> Sequence[Record]:
    records = data.splits["val"]
    return records[:: -(-len(records) // MOST_SCORED)]


def _scores(data: SegmentationData, segment: Segmenter) -> list[float]:
    """mIoU of each image alone."""
    return [_score(data, data.read(record), segment) for record in _spaced(data)]


def _score(data: SegmentationData, sample: Sample, segment: Segmenter) -> float:
    guess, truth = torch.from_numpy(segment(sample.image)), torch.from_numpy(sample.mask.copy())
    return mean_iou(confusion_matrix(guess, truth, len(data.classes)).numpy())


def _draw(
    folder: Path, stem: str, kind: str, score: float, data: SegmentationData, sample: Sample, segment: Segmenter
) -> dict[str, Any]:
    views = {
        "image": sample.image,
        "truth": overlay(sample.image, sample.mask, data.classes, alpha=0.6, outline=True),
        "prediction": overlay(sample.image, segment(sample.image), data.classes, alpha=0.6, outline=True),
    }
    files = {name: f"{stem}-{name}.webp" for name in views}
    for name, view in views.items():
        _save(folder / files[name], view)
    return {"kind": kind, "id": sample.id, "miou": round(score, 4), "files": files}


def _save(path: Path, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    with written_aside(path) as temporary:
        image.save(temporary, format="WEBP", quality=82, method=4)
