"""From a run folder, finished or not, to the facts of its report."""

from __future__ import annotations

import csv
import platform
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from .. import __version__
from ..budget import Budget, format_quantity
from ..files import read_json
from ..front import Candidate, Front
from ..run import Run
from ..spaces.whole import label, size_of
from .html import CandidateRow, Example, ReportData, Snippet, StageRow, Verdict, write_report

STAGES = ("data", "screen", "plan", "search", "train", "export", "measure")


def write_run_report(run: Run, stopped: str = "") -> Path:
    """Write ``report.html`` of ``run`` from what its stages have left so far."""
    return write_report(run.folder, report_data(run, stopped))


def report_data(run: Run, stopped: str = "") -> ReportData:
    """Read the run folder; what is not there yet stays at its default."""
    budget = Budget.parse(run.request["budget"])
    final = run.result("measure")
    chosen = Candidate.from_json(final) if final else None
    latency = _json(run.path("latency.json"), {}).get("used", {})
    return ReportData(
        title=f"{Path(run.request['data']).name}: {budget}",
        subtitle=_subtitle(chosen, run.request["target"]),
        stopped=stopped,
        verdicts=tuple(_verdict(limit, chosen, latency) for limit in budget.limits),
        candidates=_rows(run, chosen),
        latency_limit_ms=next((limit.value for limit in budget.limits if limit.name == "latency"), None),
        file_bytes=chosen.cost.file_bytes if chosen else None,
        history=_history(run.path("train", "metrics.csv")),
        **_score(run),
        examples=_examples(run),
        latency=latency,
        target=_target(run.request),
        verification=_json(run.path("verification.json"), {}),
        data=_json(run.path("data.json"), {}),
        stages=tuple(StageRow(name=name, seconds=run.seconds(name)) for name in STAGES),
        snippets=_snippets(run) if run.path("model.onnx").exists() else (),
        config_yaml=_text(run.path("fit.yaml")),
        environment=environment(),
    )


def environment() -> dict[str, str]:
    """Versions and machine, without its name."""
    return {
        "catchweight": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _subtitle(chosen: Candidate | None, target: str) -> str:
    if chosen is None or chosen.score is None or chosen.cost.latency_ms is None:
        return f"on {target}; not finished"
    return f"{label(chosen.arch)}: {chosen.score:.3f} val mIoU at {chosen.cost.latency_ms:.2f} ms on {target}"


def _verdict(limit: Any, chosen: Candidate | None, latency: dict[str, Any]) -> Verdict:
    measured = limit.measured(chosen.cost) if chosen else None
    if measured is None:
        return Verdict(budget=str(limit))
    note = f"spread {latency['spread']:.0%}, {latency['n']} runs" if limit.name == "latency" and latency else ""
    return Verdict(
        budget=str(limit), measured=format_quantity(limit.name, measured), ok=measured <= limit.value, note=note
    )


def _rows(run: Run, chosen: Candidate | None) -> tuple[CandidateRow, ...]:
    """The front as far as it is known: final, after the search, or only screened."""
    front = _json(run.path("front.json"), None) or run.result("search")
    screened = run.result("screen")
    if front is None and screened is not None:
        front = {"candidates": screened["allowed"] + screened["dropped"]}
    if front is None:
        return ()
    known = Front.from_json(front)
    on_front = {candidate.arch for candidate in known.points}
    return tuple(_row(c, c.arch in on_front, chosen is not None and c.arch == chosen.arch) for c in known.candidates)


def _row(candidate: Candidate, on_front: bool, chosen: bool) -> CandidateRow:
    return CandidateRow(
        name=candidate.arch["network"],
        size=size_of(candidate.arch),
        width=candidate.arch["width"],
        latency_ms=candidate.cost.latency_ms,
        params=candidate.cost.params,
        macs=candidate.cost.macs,
        status=candidate.note,
        score=candidate.score,
        epochs=candidate.epochs or None,
        on_front=on_front,
        chosen=chosen,
    )


def _history(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        return tuple({key: _number(value) for key, value in row.items()} for row in csv.DictReader(file))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _score(run: Run) -> dict[str, Any]:
    """Scores of the trained network, as far as the training got."""
    score = _json(run.path("train", "score.json"), None)
    data = _json(run.path("model.json"), {})
    classes = data.get("classes", [])
    named = {
        "class_names": tuple(c["name"] for c in classes),
        "class_colors": tuple(tuple(c["color"]) for c in classes),
    }
    if score is None:
        return named
    return named | {
        "miou": score["miou"],
        "pixel_accuracy": score["pixel_accuracy"],
        "boundary_f": score["boundary_f"],
        "per_class": score["per_class"],
        "absent": tuple(score["absent"]),
        "confusion": tuple(tuple(row) for row in score["confusion"]) if classes else (),
    }


def _examples(run: Run) -> tuple[Example, ...]:
    found = []
    examples, grid = run.path("train", "examples.png"), run.path("data.png")
    if examples.exists():
        caption = "Validation images: the worst, the median and the best; image, truth, prediction"
        found.append(Example(caption=caption, images={"": examples}))
    if grid.exists():
        found.append(Example(caption="The data set", images={"": grid}))
    return tuple(found)


def _target(request: dict[str, Any]) -> str:
    threads = request.get("threads")
    return f"{request['target']}, {threads} threads" if threads else str(request["target"])


def _snippets(run: Run) -> tuple[Snippet, ...]:
    file = run.path("model.onnx")
    python = f'from catchweight import Segmenter\n\nmask = Segmenter({str(file)!r})("photo.jpg")  # (H, W) uint8'
    return (
        Snippet(title="Python", text=python),
        Snippet(title="Predict", text=f"catchweight predict photos/ --model '{file}' --out predictions"),
        Snippet(title="Measure", text=f"catchweight bench '{file}'"),
    )


def _json(path: Path, default: Any) -> Any:
    return read_json(path) if path.exists() else default


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
