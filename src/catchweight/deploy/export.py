"""The file that is shipped: an ONNX graph that carries everything needed to serve it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from .. import __version__
from ..data.classes import IGNORE, ClassSet
from ..errors import CatchweightError
from ..files import write_json
from ..nets.segmentation import SegmentationNet
from ..targets.tracing.graph import Dynamic, build_graph, check_onnx, save_graph

KEY = "catchweight"
"""The entry of the file's ``metadata_props`` that holds everything as JSON."""


def export(
    net: SegmentationNet,
    path: Path,
    *,
    size: tuple[int, int],
    classes: ClassSet,
    dynamic: Dynamic = False,
    batch: int = 1,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write the network as ONNX with its metadata inside, and the same metadata as JSON beside it.

    Args:
        net: a segmentation network; its class count must be the class set's.
        path: ``model.onnx``; ``model.json`` comes to lie beside it.
        size: (H, W) that images are resized to before the network sees them.
        classes: names and colours in mask order.
        dynamic: what may differ at run time: False, "batch", "size" or True for both.
        batch: images per run of a fixed file.
        meta: further JSON-able facts, e.g. ``{"score": 0.61}``.

    Raises:
        CatchweightError: the network cannot be exported or the file cannot be written.
    """
    if net.spec.classes != len(classes):
        raise CatchweightError(
            f"{net.spec.name} predicts {net.spec.classes} classes, but the class set names {len(classes)}: "
            "export it with the classes it was trained on"
        )
    path = Path(path)
    facts = describe(net, size, classes, dynamic, batch, meta)
    model = build_graph(net, size, batch, dynamic)
    model.metadata_props.add(key=KEY, value=json.dumps(facts, ensure_ascii=False))
    save_graph(model, path)
    write_json(path.with_suffix(".json"), facts)
    return path


def describe(
    net: SegmentationNet,
    size: tuple[int, int],
    classes: ClassSet,
    dynamic: Dynamic = False,
    batch: int = 1,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of an exported file; own keys win over those of ``meta``."""
    named = zip(classes.names, classes.colors, strict=True)
    return {
        **(meta or {}),
        "classes": [{"name": name, "color": list(color)} for name, color in named],
        "ignore_index": IGNORE,
        "mean": [float(value) for value in net.mean.flatten()],
        "std": [float(value) for value in net.std.flatten()],
        "size": list(size),
        "size_policy": {"dynamic": {"multiple": 1}} if dynamic in (True, "size") else {"fixed": list(size)},
        "batch": None if dynamic in (True, "batch") else batch,
        "network": net.spec.to_json(),
        "git_commit": git_commit(),
        "version": __version__,
    }


def read_meta(path: Path) -> dict[str, Any]:
    """What :func:`export` wrote into the file.

    Raises:
        CatchweightError: not an ONNX file, weights outside its folder, or no Catchweight metadata inside.
    """
    check_onnx(path)
    model = onnx.load(str(path), load_external_data=False)
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    if text is None:
        raise CatchweightError(f"{path}: an ONNX file without Catchweight metadata; write it with `catchweight export`")
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise CatchweightError(f'{path}: its "{KEY}" metadata is not JSON ({error})') from error


def git_commit() -> str | None:
    """Commit of the working folder, ``+changes`` when files differ from it; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
