"""The search and the compression with parts of them left out: ``ablation.json``, which the report shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..files import copy_file, read_json, write_json
from ..front import Candidate, Front
from ..nets import load_network
from ..search.halving import counted
from ..spaces.whole import label, size_of
from ..train import train
from .job import COMPRESSED, Job, Point
from .race import exported, measured
from .steps import INT8, PRUNE, Made, quantised

UNDISTILLED = "undistilled"
"""Stage and folder of the fine-tuning without a teacher."""
NOT_RUN = "not trained: that takes --set compress.ablation=full, and the time for it"


def ablation(
    point: Point,
    *,
    direct: Made | None,
    trained: Made | None,
    as_trained: Made | None,
    pruned: Made | None,
    ended: Made | None,
    undistilled: Made | None,
) -> dict[str, Any]:
    """Write ``ablation.json``: the whole chain, then without compression, pruning, int8 and distillation.

    Only the last of these costs a training, so it is done where ``compress.ablation=full`` asks for it. A network
    without one step is not within the budget as a rule: its note says by how much it is over.

    Args:
        direct: the network found under the budget itself.
        trained: the winner under the relaxed budget.
        as_trained: that in int8; None where int8 is not wanted.
        pruned: that pruned, in float; None where pruning is not wanted.
        ended: what the chain ended with; None where there was no time for one.
        undistilled: the same as ``ended``, fine-tuned on the labels alone; None where that was not done.
    """
    rows: list[dict[str, Any]] = []

    def add(stage: str, made: Made | None, *stages: str) -> None:
        if made is not None:
            rows.append(_row(point, stage, made, stages))

    add("all steps", ended, "relaxed", "int8-as-trained", PRUNE, INT8)
    add("without compression", direct, "direct")
    if ended is not None and trained is not None and ended.candidate.arch != trained.candidate.arch:
        if pruned is not None:
            add("without pruning", as_trained or trained, "relaxed", "int8-as-trained")
        if as_trained is not None:
            add("without int8", pruned or trained, "relaxed", PRUNE)
        add("without distillation", undistilled, "relaxed", "int8-as-trained", UNDISTILLED)
        if undistilled is None and pruned is not None and pruned.accepted:
            rows.append({"stage": "without distillation", "note": NOT_RUN})
    write_json(point.run.path("ablation.json"), {"rows": rows})
    return {"rows": len(rows)}


def search_ablation(job: Job, point: Point, final: Candidate) -> None:
    """Write ``ablation.json`` of a search without compression, from scores that it found on its way.

    A network taken as published is compared with the winner where both had been trained equally long; the supernet's
    weights with what the winner became. Where there is neither, as in a race of published networks, nothing is written.
    """
    raced = Front.from_json(point.run.result("search") or {}).candidates
    winner = next((c for c in raced if c.arch == final.arch), None)
    explored = job.run.path("explored.json")
    if winner is None or not explored.exists():
        return
    rows = [_searched("all stages", final, "as delivered")]
    peers = [c for c in raced if "network" in c.arch and c.score is not None and c.epochs == winner.epochs]
    if peers and "network" not in winner.arch:
        best = max(peers, key=lambda c: c.score or 0.0)
        told = f"{label(best.arch)} against the winner, both after {counted(best.epochs)} of the race"
        rows.append({**_searched("without the search", best, told), "against": winner.score})
    shared = next((c for c in Front.read(explored).candidates if c.arch == final.arch), None)
    if shared is not None:
        told = "the winner with the weights that it shared in the supernet"
        rows.append(_searched("without training it alone", replace(shared, cost=final.cost), told))
    if len(rows) > 1:
        write_json(point.run.path("ablation.json"), {"rows": rows})


def _searched(stage: str, candidate: Candidate, note: str) -> dict[str, Any]:
    return {"stage": stage, "score": candidate.score, "latency_ms": candidate.cost.latency_ms, "note": note}


def without_distillation(job: Job, point: Point, pruned: Made | None, ended: Made | None) -> Made | None:
    """The chain with its fine-tuning on the labels alone, if that is asked for and there was one to be distilled."""
    settings = job.settings.compress
    if settings.ablation != "full" or not settings.distill or pruned is None or ended is None or not pruned.accepted:
        return None
    found = point.run.stage(UNDISTILLED, lambda: _undistilled(job, point, pruned, ended))
    return None if "skipped" in found else Made.from_json(found)


def _row(point: Point, stage: str, made: Made, stages: tuple[str, ...]) -> dict[str, Any]:
    over = "; ".join(point.budget.violations(made.candidate.cost))
    seconds = sum(point.run.seconds(name) or 0.0 for name in stages)
    told = "; ".join(filter(None, (over or "makes the budget", "" if made.accepted else made.reason)))
    return {"stage": stage, "score": made.candidate.score, "latency_ms": made.candidate.cost.latency_ms,
            "seconds": round(seconds, 1), "note": told}  # fmt: skip


def _undistilled(job: Job, point: Point, pruned: Made, ended: Made) -> dict[str, Any]:
    """The very same pruning, fine-tuned on the labels alone, and in int8 where the chain ended so."""
    name = f"{COMPRESSED}/{UNDISTILLED}"
    folder, cut = point.run.path(name), point.run.path(COMPRESSED, PRUNE, "pruned.pt")
    size = size_of(pruned.candidate.arch)
    epochs = (point.run.result("prune-plan") or {})["epochs"]
    net, _ = load_network(cut)
    tuned = train(
        net, job.data, job.recipe(size, epochs), folder / "finetune", cache=job.cache,
        deadline=job.deadline(1 / point.to_come),
    )  # fmt: skip
    if tuned.status == "stopped":  # trained for less it would tell of the time, not of the distillation
        point.say(f"ablation: without distillation left out, the time was up after epoch {tuned.epochs} of {epochs}")
        return {"skipped": "the time was up"}
    if not (folder / "verification.json").exists():  # exported again, a file need not be the same to the byte
        copy_file(tuned.best, folder / "model.pt")
        exported(job, folder, size)
    check = read_json(folder / "verification.json")
    cost = measured(job, point, folder / "model.onnx", pruned.candidate.cost)
    candidate = replace(pruned.candidate, cost=cost, score=tuned.score)
    made = replace(pruned, folder=name, model=f"{name}/model.pt", candidate=candidate, reason=check["message"])
    in_int8 = INT8 in ended.candidate.arch.get("compressed", ())
    if not in_int8:
        return made.to_json()
    return quantised(job, point, made, f"{UNDISTILLED}-int8", job.deadline(1 / point.to_come)).to_json()


__all__ = ["ablation", "search_ablation", "without_distillation"]
