"""A finished run folder at toy size: real scenes, a real exported network, and results as ``fit`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from catchweight.budget import Cost
from catchweight.data import check_data, draw_grid, open_data
from catchweight.data.scenes import make_scenes
from catchweight.deploy.export import export
from catchweight.files import write_json, write_text
from catchweight.front import Arch, Candidate, Front
from catchweight.nets import build_network
from catchweight.run import Run
from catchweight.search import successive_halving

SIZE = (64, 96)
EPOCHS = 4


def make_run(folder: Path, name: str = "run", budget: str = "latency<=8ms") -> Run:
    """Write ``folder/name``, a run on scenes in ``folder/scenes`` (drawn if absent), as it is after its last stage."""
    scenes = folder / "scenes"
    if not scenes.exists():
        make_scenes(scenes, {"train": 4, "val": 7}, size=SIZE)
    data = open_data(scenes)
    request = {"data": str(scenes), "budget": budget, "target": "onnxruntime:cpu", "threads": 1,
               "settings": {"train": {"seed": 3}}}  # fmt: skip
    run = Run(folder / name, request)
    report = check_data(data)
    write_json(run.path("data.json"), report.to_json())
    draw_grid(data, run.path("data.png"))
    _search(run)
    _train(run, report.classes)
    torch.manual_seed(0)
    net = build_network("timm/test_efficientnet+fpn", len(data.classes), width=0.25)
    export(net, run.path("model.onnx"), size=SIZE, classes=data.classes, meta={"version": "0.1.0"})
    _measure(run)
    write_text(run.path("fit.yaml"), "train:\n  seed: 3\n")
    return run


HTML = ("<img src=x onerror='harmed=1'>", "</script><script>harmed=1</script>", "{{ 7*7 }}", '" onload="harmed=1')


def hostile_scenes(folder: Path) -> Path:
    """Scenes whose first classes have names of :data:`HTML`, where :func:`make_run` looks for them."""
    scenes = make_scenes(folder / "scenes", {"train": 4, "val": 7}, size=SIZE)
    known = json.loads((scenes / "classes.json").read_text(encoding="utf-8"))
    known["classes"][: len(HTML)] = HTML
    write_json(scenes / "classes.json", known)
    return scenes


def candidates(count: int = 6) -> tuple[Candidate, ...]:
    """Networks of growing cost; the last two are too slow to be trained."""
    return tuple(
        Candidate(Arch(network=f"net{k}", size=list(SIZE), width=0.5), Cost(latency_ms=2.0 + k, params=1e5 * (k + 1)))
        for k in range(count)
    )


def _search(run: Run) -> None:
    known = candidates()
    allowed, dropped = known[:4], known[4:]
    screened = {"allowed": [c.to_json() for c in allowed], "dropped": [c.to_json() for c in dropped]}
    run.stage("data", lambda: {"warnings": 0})
    run.stage("screen", lambda: screened)
    run.stage("plan", lambda: {"candidates": 4, "epochs": EPOCHS, "rungs": [1, 2], "minutes": 1.0})
    front = successive_halving(
        allowed,
        lambda c, epochs: (0.3, 0.35, 0.2, 0.4)[round(c.cost.latency_ms or 0) - 2] + 0.02 * epochs,
        rungs=[1, 2],
        storage=f"sqlite:///{run.path('study.db')}",
    )
    run.stage("search", lambda: Front(front.candidates + dropped).to_json())


def _train(run: Run, classes: tuple[str, ...]) -> None:
    lines = ["epoch,lr,train_loss,val_miou,pixel_accuracy"]
    lines += [f"{e},{0.1 / e:g},{2 / e:g},{0.15 * e:g},{0.2 * e:g}" for e in range(1, EPOCHS + 1)]
    write_text(run.path("train", "metrics.csv"), "\n".join(lines) + "\n")
    score: dict[str, Any] = {
        "epochs": EPOCHS, "miou": 0.6, "pixel_accuracy": 0.8, "boundary_f": 0.5, "absent": [],
        "per_class": {name: 0.9 - 0.1 * k for k, name in enumerate(classes)},
        "confusion": (np.eye(len(classes), dtype=int) * 90 + 5).tolist(),
    }  # fmt: skip
    write_json(run.path("train", "score.json"), score)
    run.stage("train", lambda: {"score": 0.6})


def _measure(run: Run) -> None:
    front = Front.from_json(run.result("search") or {})
    winner = max((c for c in front.candidates if c.score is not None), key=lambda c: c.score or 0)
    final = Candidate(winner.arch, winner.cost, 0.6, "chosen", EPOCHS)
    used = {"median_ms": winner.cost.latency_ms, "p10_ms": 4.6, "p90_ms": 8.4, "n": 50, "threads": 1, "batch": 1,
            "runtime": "onnxruntime", "notes": [], "spread": 0.1}  # fmt: skip
    write_json(run.path("latency.json"), {"all": [used, used | {"median_ms": 4.9}], "used": used})
    check = {"max_rel_diff": 1e-6, "changed_share": 0.0, "miou_eager": 0.6, "miou_onnx": 0.6, "images": 7,
             "passed": True, "message": "fine"}  # fmt: skip
    write_json(run.path("verification.json"), check)
    run.stage("export", lambda: check)
    run.stage("measure", final.to_json)
    rest = (c for c in front.candidates if c.arch != final.arch)
    write_json(run.path("front.json"), Front((final, *rest)).to_json())


def on_front(run: Run) -> int:
    """How many candidates the run's front.json calls non-dominated."""
    values = json.loads(run.path("front.json").read_text(encoding="utf-8"))
    return sum(candidate["on_front"] for candidate in values["candidates"])


optuna.logging.set_verbosity(optuna.logging.WARNING)
