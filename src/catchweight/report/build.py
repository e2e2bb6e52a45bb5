"""From a run folder, finished or not, to the facts of its report."""

from __future__ import annotations

import csv
import hashlib
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from ..budget import Budget, Limit, format_quantity
from ..errors import CatchweightError
from ..files import read_json
from ..front import Candidate, Front
from ..run import FINAL_STAGE, Run, environment
from .examples import ensure_examples
from .front_plot import candidate_name
from .history import front_so_far, search_history
from .html import Example, PointRow, ReportData, Snippet, Source, StageRow, Verdict, write_report
from .inputs import (
    Ablation,
    Blocks,
    Chain,
    Data,
    Input,
    Latency,
    Predictions,
    Score,
    Verified,
    read_baselines,
    read_input,
)

RACE = ("data", "screen", "plan", "search", "train", "export", FINAL_STAGE)
"""Stages that every budget goes through; a search may have more before them."""
COMPRESSION = ("data", "direct", "relaxed", "choose", "export", FINAL_STAGE)
"""The same with compression, whose two races have stages of their own; which steps follow them shows on the way."""

BESIDE = "published network"
"""Name on the front of what raced beside the members of a search space."""

NO_PREDICTIONS = "No predictions yet: this is the data set as it was read."

T = TypeVar("T")


def write_run_report(run: Run, stopped: str = "") -> Path:
    """Write ``report.html`` of ``run`` from what its stages have left so far.

    Args:
        run: finished or not.
        stopped: why ``fit`` ends early; kept in the folder for later reports. An interrupted run is not kept waiting
            for pictures that take time.

    Raises:
        CatchweightError: the folder cannot be written.
    """
    if stopped:
        run.note_stop(stopped)
    return write_report(run.folder, report_data(run, draw=not stopped))


def report_data(run: Run, draw: bool = False) -> ReportData:
    """Read the run folder; what is not there yet stays at its default, what cannot be read is named in ``notes``.

    Args:
        run: finished or not.
        draw: also draw example predictions, should they be missing.

    Raises:
        CatchweightError: it is not the folder of a ``fit``.
    """
    reader, budgets = _Reader(), run.budgets
    front = reader(lambda: front_so_far(run), Front())
    chosen = reader(lambda: _chosen(run, front), None)
    latency: dict[str, Any] = reader(lambda: _checked(Latency, run.path("latency.json")), {})
    examples: tuple[tuple[Example, ...], str] = reader(lambda: _examples(run, draw), ((), ""))
    return ReportData(
        title=f"{Path(run.request['data']).name}: {'; '.join(map(str, budgets))}",
        subtitle=_subtitle(chosen, run),
        stopped=run.stopped,
        verdicts=() if run.points else tuple(_verdict(x, chosen, latency) for b in budgets for x in b.limits),
        points=tuple(_point(point, reader) for point in run.points),
        budgets=budgets,
        front=front,
        chosen=chosen,
        baselines=reader(lambda: _baselines(run, front), {}),
        evaluations=reader(lambda: search_history(run), ()),
        blocks=reader(lambda: read_input(Blocks, run.path("blocks.json")), None),
        predictions=reader(lambda: read_input(Predictions, run.found("predictions.json")), None),
        chain=reader(lambda: read_input(Chain, run.path("chain.json")), None),
        ablation=reader(lambda: read_input(Ablation, run.path("ablation.json")), None),
        file_bytes=chosen.cost.file_bytes if chosen else None,
        history=reader(lambda: _history(run), ()),
        trains="the supernet" if _curves(run).parent.name == "supernet" else "the chosen network",
        **reader(lambda: _score(run), {}),
        examples=examples[0],
        examples_note=examples[1],
        latency=latency.get("used", {}),
        target=_target(run.request),
        verification=reader(lambda: _checked(Verified, run.path("verification.json")), {}),
        data=reader(lambda: _checked(Data, run.found("data.json")), {}),
        stages=reader(lambda: _stages(run), ()),
        snippets=reader(lambda: _snippets(run), ()) if run.path("model.onnx").exists() else (),
        config_yaml=reader(lambda: _text(run.path("fit.yaml")), ""),
        environment=reader(lambda: _environment(run), {}),
        sources=reader(lambda: tuple(_sources(run)), ()),
        notes=tuple(dict.fromkeys(reader.faults)),
    )


class _Reader:
    """Calls readers; a damaged file costs its section, not the report."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def __call__(self, read: Callable[[], T], otherwise: Any) -> T:
        try:
            return read()
        except CatchweightError as error:
            self.faults.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            self.faults.append(f"a file of the run is not as expected ({type(error).__name__}: {error})")
        return cast(T, otherwise)


def _chosen(run: Run, front: Front) -> Candidate | None:
    """The measured winner, also of a run whose budget was missed."""
    final = run.result(FINAL_STAGE)
    if final:
        return Candidate.from_json(final)
    return None if run.points else next((c for c in front.candidates if c.note == "chosen"), None)


def _subtitle(chosen: Candidate | None, run: Run) -> str:
    target = _target(run.request)
    if run.points:
        return f"{len(run.budgets)} budgets on {target}" + ("" if run.finished else "; not finished")
    if chosen is None or chosen.score is None or chosen.cost.latency_ms is None:
        return f"on {target}; not finished"
    return f"{candidate_name(chosen.arch)}: {chosen.score:.3f} val mIoU at {chosen.cost.latency_ms:.2f} ms on {target}"


def _verdict(limit: Limit, chosen: Candidate | None, latency: dict[str, Any]) -> Verdict:
    measured = limit.measured(chosen.cost) if chosen else None
    if measured is None:
        return Verdict(budget=str(limit))
    return Verdict(
        budget=str(limit),
        measured=format_quantity(limit.name, measured),
        ok=measured <= limit.value,
        note=_spread(latency, limit.value) if limit.name == "latency" and latency else _room(measured, limit.value),
    )


def _room(measured: float, limit: float) -> str:
    share = measured / limit
    return f"{1 - share:.0%} below the limit" if share <= 1 else f"{share - 1:.1%} over the limit"


def _spread(latency: dict[str, Any], limit: float) -> str:
    """How sure a latency is: the spread of single runs, the repeated measurements, and whether they cross the limit."""
    used = latency["used"]
    medians = sorted(float(m["median_ms"]) for m in latency.get("all", []))
    said = [
        f"{_room(used['median_ms'], limit)}; median of {used['n']} runs, of which 10 % are below {used['p10_ms']:.2f} "
        f"and 10 % above {used['p90_ms']:.2f} ms (spread {used['spread']:.0%})"
    ]
    if len(medians) > 1:
        said.append(
            f"measured {len(medians)} times: {', '.join(f'{m:.2f}' for m in medians)} ms, the middle one counts"
        )
    if used["p90_ms"] > limit >= used["median_ms"]:
        said.append("some single runs take longer than the limit: it is the median that keeps it")
    return "; ".join(said)


def _point(run: Run, reader: _Reader) -> PointRow:
    front = reader(lambda: front_so_far(run), Front())
    chosen = reader(lambda: _chosen(run, front), None)
    budget = run.budgets[0]
    state = "open" if chosen is None else "passed" if budget.allows(chosen.cost) else "failed"
    return PointRow(
        budget=str(budget),
        verdict=state,
        network=candidate_name(chosen.arch) if chosen else "",
        score=chosen.score if chosen else None,
        measured=_measured(budget, chosen),
        link=quote(f"points/{run.folder.name}/report.html") if run.path("report.html").exists() else "",
    )


def _measured(budget: Budget, chosen: Candidate | None) -> str:
    values = [(limit.name, limit.measured(chosen.cost)) for limit in budget.limits] if chosen else []
    return ", ".join(f"{name} {format_quantity(name, value)}" for name, value in values if value is not None)


def _curves(run: Run) -> Path:
    """The log of the final training; of the supernet's, where there is no other yet or several budgets share it."""
    own, shared = run.path("train", "metrics.csv"), run.path("supernet", "metrics.csv")
    return shared if shared.exists() and not own.exists() else own


def _history(run: Run) -> tuple[dict[str, Any], ...]:
    path = _curves(run)
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        return tuple({key: _number(value) for key, value in row.items()} for row in csv.DictReader(file))


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _score(run: Run) -> dict[str, Any]:
    """Scores of the trained network, as far as the training got."""
    score = read_input(Score, run.path("train", "score.json"))
    classes = _json(run.path("model.json")).get("classes", [])
    named = {
        "class_names": tuple(str(c["name"]) for c in classes),
        "class_colors": tuple(tuple(map(int, c["color"])) for c in classes),
    }
    if score is None:
        return named
    known = score.model_dump()
    return named | known | {"confusion": known["confusion"] if classes else ()}


def _examples(run: Run, draw: bool) -> tuple[tuple[Example, ...], str]:
    path = run.path("examples", "examples.json")
    known = ensure_examples(run) if draw else _json(path)
    found = [
        Example(
            caption=f"{entry['kind']}: {entry['id']}, mIoU {entry['miou']:.2f}",
            images={label: run.path("examples", Path(name).name) for label, name in entry["files"].items()},
        )
        for entry in known.get("examples", [])
    ]
    note = known.get("note", "")
    if found:
        note = f"The worst and the best of {known['scored']} validation images, predicted by the exported file."
    training, grid = run.path("train", "examples.png"), run.found("data.png")
    if not found and (training.exists() or grid.exists()):
        note = note or ("Validation images, the worst included." if training.exists() else NO_PREDICTIONS)
    if not found and training.exists():
        caption = "Validation images: the worst, the median and the best; image, truth, prediction"
        found.append(Example(caption=caption, images={"": training}))
    if grid.exists():
        found.append(Example(caption="The data set", images={"": grid}))
    return tuple(found), note


def _baselines(run: Run, front: Front) -> dict[str, tuple[Candidate, ...]]:
    """What the run names to compare with, and the published networks that raced beside members of a search space."""
    published = tuple(c for c in front.candidates if "network" in c.arch and c.score is not None)
    beside = any("network" not in c.arch for c in front.candidates) and bool(published)
    return ({BESIDE: published} if beside else {}) | read_baselines(run.found("baselines.json"))


def _target(request: dict[str, Any]) -> str:
    threads = request.get("threads")
    return f"{request['target']}, {threads} threads" if threads else str(request["target"])


def _stages(run: Run) -> tuple[StageRow, ...]:
    parent = run.parent
    shared = [(name, parent) for name in parent.stages() if name != "data"] if parent else []
    done = [*shared, *((name, run) for name in run.stages())]
    rows = [StageRow(name=name, seconds=holder.seconds(name)) for name, holder in done]
    known = {row.name for row in rows}
    compresses = "compress" in run.request.get("settings", {})
    expected = () if run.points else COMPRESSION if compresses else RACE
    missing = (StageRow(name=name) for name in expected if name not in known)
    return (*rows, *missing)


def _environment(run: Run) -> dict[str, str]:
    """Of the session that ended the run; the seed first."""
    seed = run.request.get("settings", {}).get("train", {}).get("seed")
    sessions = (run.parent or run).sessions()
    found = {} if seed is None else {"seed": str(seed)}
    if sessions:
        found |= {name: str(value) for name, value in sessions[-1]["environment"].items()}
        found["sessions"] = str(len(sessions))
        others = {str(session["environment"]) for session in sessions[:-1]} - {str(sessions[-1]["environment"])}
        return found | ({"note": "earlier sessions had other versions; see sessions.json"} if others else {})
    return found | environment() | {"note": "of this report: the run did not record its own"}


def _sources(run: Run) -> list[Source]:
    """What the page's figures were read from; only files that are there."""
    model, onnx = _json(run.path("model.json")), run.path("model.onnx")
    digest = hashlib.sha256(onnx.read_bytes()).hexdigest() if onnx.exists() else ""
    by = f"catchweight {model.get('version', '?')}, commit {str(model.get('git_commit') or 'unknown')[:12]}"
    data = _json(run.found("data.json"))
    rows = (
        ("verdict, latency", "latency.json", f"{_what_runs(run)}, run on the target with fresh sessions"),
        ("front, costs, scores", "front.json", "latency measured on the target unless a note says it was predicted; "
         "parameters and multiply-adds counted from the network"),
        ("mIoU, IoU by class, confusion", "train/score.json", "validation images at the labels' own resolution"),
        ("same network?", "verification.json", "exported file against the trained network, image by image"),
        ("training curves", "train/metrics.csv", "one line an epoch"),
        ("training curves of the supernet", "supernet/metrics.csv", "one line an epoch"),
        ("search history", "history.json", "in the order found"),
        ("search history", "study.db", "Optuna study: the race of the finalists"),
        ("search history", "explore.journal", "Optuna study: members scored with the supernet's weights"),
        ("blocks", "blocks.json", "ONNX Runtime's profile against the device's measured peaks"),
        ("predicted latency", "predictions.json", "networks that the predictor had not seen"),
        ("steps of the compression", "chain.json", f"each step's {_what_runs(run)} measured with fresh sessions"),
        ("stages left out", "ablation.json", "as the run wrote it"),
        ("baselines", "baselines.json", "as the run wrote it"),
        ("example images", "examples/examples.json", "predicted by the exported file"),
        ("data", "data.json", f"fingerprint {str(data.get('fingerprint', ''))[:16]}"),
        ("the file", "model.onnx", f"sha256 {digest[:16]}; written by {by}"),
        ("configuration", "fit.yaml", "all settings, defaults included"),
    )  # fmt: skip
    return [Source(figure=f, file=name, how=how) for f, name, how in rows if run.found(*name.split("/")).exists()]


def _what_runs(run: Run) -> str:
    """What a target measures: most run the file, PyTorch's run the network that it was exported from."""
    return "network in PyTorch" if str(run.request["target"]).startswith("torch") else "exported file"


def _snippets(run: Run) -> tuple[Snippet, ...]:
    file = str(run.path("model.onnx"))
    threads, data_format = run.request.get("threads"), _json(run.found("data.json")).get("format", "")
    measure = f"catchweight bench {shlex.quote(file)}" + (f" --threads {threads}" if threads else "")
    seed = run.request.get("settings", {}).get("train", {}).get("seed", 0)
    score = f"catchweight eval {shlex.quote(file)} {shlex.quote(str(run.request['data']))}"
    score += f" --format {shlex.quote(str(data_format))}" if data_format else ""
    score += f" --seed {seed}" if seed else ""
    python = (
        f"from catchweight import Segmenter\n\nsegment = Segmenter({file!r})\n"
        'mask = segment("photo.jpg")  # (H, W) uint8'
    )
    return (
        Snippet(title="Python", text=python),
        Snippet(title="Predict", text=f"catchweight predict photos/ --model {shlex.quote(file)} --out predictions"),
        Snippet(title="Measure in ONNX Runtime", text=measure),
        Snippet(title="Score", text=score),
    )


def _checked(kind: type[Input], path: Path) -> dict[str, Any]:
    """The file's table, once it has all that the page shows; empty where there is none."""
    return _json(path) if read_input(kind, path) is not None else {}


def _json(path: Path) -> dict[str, Any]:
    """The file's table; empty where there is none."""
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise CatchweightError(f"{path} holds {type(found).__name__}, not a table")
    return found


def _text(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
