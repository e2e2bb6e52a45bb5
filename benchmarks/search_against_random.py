"""Is the front of the search better than that of random members at equal total cost?

    python benchmarks/search_against_random.py ../shared/data/camvid --out runs/against-random --seeds 0 1 2 \
        --budget "latency<=6.9ms" --budget "latency<=3.45ms" --budget "latency<=1.725ms" --size 180x240 --threads 2

For each seed two arms on one data set, target, space and recipe:

- search: a supernet, its exploration, and for each budget ``search.finalists`` members trained on to the end;
- random: members drawn at random near the budgets, each trained from its slice of the pretrained backbone, as many as
  the search's cost pays for.

Cost is counted in passes of the training images through one network, forward and backward, so that no clock decides:
a supernet's epoch counts one for each member of a step (a shared batch once), a scored member a third of a pass for
each image looked at. All are trained for the same epochs, and random search is given the rest as a whole member.
Latency is measured on the target, in the end of all members of both arms in turns, since a machine's pace differs
between two hours by more than the arms do. The hypervolume is that of latency below the loosest budget, times val mIoU.

``--run FOLDER`` takes a finished one-shot ``fit`` instead of a seed; its supernet and its exploration are the search's.
``--beside NAME`` trains published networks for the same epochs, for the table. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from catchweight.budget import Budget
from catchweight.cli.options import parse_size
from catchweight.files import read_json, write_json, write_text
from catchweight.fitting import FitSettings, prepare
from catchweight.fitting.job import Job, Point
from catchweight.fitting.join import job_of
from catchweight.fitting.one_shot import OneShotRoute
from catchweight.fitting.random_route import USED, RandomRoute
from catchweight.fitting.space_route import SpaceRoute, predicted_within, without_unpredictable
from catchweight.front import Arch, Candidate, Front
from catchweight.nets import build_network
from catchweight.run import Run
from catchweight.search.one_shot import CALIBRATION_IMAGES, SCORED_IMAGES
from catchweight.search.reach import factor_over
from catchweight.spaces.whole import label, size_of
from catchweight.targets import Target, interleaved
from catchweight.train import train
from catchweight.train.supernet import Sandwich

BAR = 1.1
"""What the ratio of the hypervolumes is asked to be, mean of three seeds."""
FORWARD = 1 / 3
"""Cost of a pass without its backward half."""
SECONDS = 4.0
"""Time limit of each member when all are measured in turns."""
DRAWN = 200
"""Random members whose latency is predicted for a budget, at least."""
PUBLISHED = ("fasterseg_student", "eseg_lite_s", "ffnet_22s_bcc_mobile")


@dataclass(frozen=True)
class Cost:
    """Passes of the training images through one network.

    Attributes:
        supernet, explore: of what the search does before any member is trained alone.
        finalists: of training the members that it chose.
    """

    supernet: float
    explore: float
    finalists: float

    @property
    def total(self) -> float:
        return self.supernet + self.explore + self.finalists


def passes_of_a_step(how: Sandwich) -> int:
    """Times that an image of a supernet's step goes through a member."""
    drawn = min(1, how.members) if how.share_batch else how.members
    return drawn if how.rule == "uniform" else drawn + 2


def search_cost(route: OneShotRoute, finalists: int, epochs: int) -> Cost:
    """What the search arm costs, by what its run did."""
    run, splits = route.job.run, route.job.data.splits
    images = min(CALIBRATION_IMAGES, len(splits["train"])) + min(SCORED_IMAGES, len(splits["val"]))
    evaluated = (run.result("explore") or {})["evaluations"]
    supernet = (run.result("supernet") or {})["epochs"] * passes_of_a_step(route.settings.sandwich)
    return Cost(supernet, evaluated * FORWARD * images / len(splits["train"]), finalists * epochs)


def trained(route: SpaceRoute, candidate: Candidate, epochs: int, folder: Path) -> Candidate:
    """The candidate with the score it has when trained alone; kept in ``folder``."""
    path = folder / f"{label(candidate.arch)}-{epochs}.json"
    if not path.exists():
        job = route.job
        recipe = job.recipe(size_of(candidate.arch), epochs)
        result = train(
            route.network(candidate.arch), job.data, recipe, folder / f"{label(candidate.arch)}-{epochs}",
            cache=job.cache, quiet=True,
        )  # fmt: skip
        write_json(path, replace(candidate, score=result.score, epochs=epochs, note="").to_json())
    found = Candidate.from_json(read_json(path))
    print(f"  {label(found.arch)}: {found.score:.3f} val mIoU at {found.cost.latency_ms:.2f} ms", flush=True)
    return found


def once(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those of different architectures, the first of each."""
    return list({candidate.arch: candidate for candidate in reversed(list(candidates))}.values())[::-1]


def search_arm(job: Job, epochs: int) -> tuple[Front, Cost]:
    """Supernet, exploration and finalists of every budget."""
    route = OneShotRoute(job)
    with job.run.locked():
        route.prepare()
        chosen = once(c for point in job.points for c in screened(route, point))
        front = Front(tuple(trained(route, c, epochs, job.run.path("finalists")) for c in chosen))
    return front, search_cost(route, len(chosen), epochs)


def screened(route: OneShotRoute, point: Point) -> list[Candidate]:
    """Members that make the budget when measured; kept, since the machine may be another one later."""
    found: list[dict[str, Any]] = point.run.stage(
        "against-random", lambda: [c.to_json() for c in route.candidates(point).allowed if "network" not in c.arch]
    )
    return [Candidate.from_json(value) for value in found]


def random_arm(job: Job, count: int, epochs: int) -> Front:
    """``count`` random members, spread over the budgets."""
    route = RandomRoute(job)
    with job.run.locked():
        route.prepare()
        drawn: list[Candidate] = []
        for place, point in enumerate(job.points):
            wanted = (count - len(drawn)) // (len(job.points) - place)
            found: list[dict[str, Any]] = point.run.stage(
                f"against-random-{wanted}",
                lambda p=point, n=wanted: _drawn(route, p, n),  # type: ignore[misc]
            )
            drawn += [Candidate.from_json(value) for value in found]
        return Front(tuple(trained(route, c, epochs, job.run.path("members")) for c in once(drawn)))


def _drawn(route: RandomRoute, point: Point, count: int) -> list[dict[str, Any]]:
    if not count:
        return []
    screening = route.finalists(point, near(route, point.budget, max(DRAWN, 4 * count)), count)
    return [candidate.to_json() for candidate in screening.allowed[:count]]


def near(route: RandomRoute, budget: Budget, draws: int) -> list[Candidate]:
    """Random members within a budget: those that need most of it as they were drawn, then the others, dearest first.

    A budget wider than the space has none of the former.
    """
    tight, rng = budget.tightened(route.settings.headroom), random.Random(route.job.settings.train.seed)
    archs = dict.fromkeys(route.space.sample(rng) for _ in range(draws))
    within = [
        c for c in (Candidate(arch, route.predicted(arch)) for arch in archs) if predicted_within(tight, c.cost, 1)
    ]
    return sorted(within, key=lambda c: -min(USED, factor_over(without_unpredictable(budget), c.cost)))


def together(route: RandomRoute, fronts: Sequence[Front], path: Path) -> list[Front]:
    """Both arms' members with their latency as measured in turns with each other; kept in ``path``."""
    members = once(c for front in fronts for c in front.candidates)
    if not path.exists():
        target, nets = route.job.target, (route.network(c.arch) for c in members)
        sessions = [target.prepare(net, size_of(c.arch)) for c, net in zip(members, nets, strict=True)]
        found = interleaved(sessions, SECONDS)
        write_json(path, {label(c.arch): m.to_json() for c, m in zip(members, found, strict=True)})
    ms = {name: float(value["median_ms"]) for name, value in read_json(path).items()}

    def again(candidate: Candidate) -> Candidate:
        return replace(candidate, cost=replace(candidate.cost, latency_ms=ms[label(candidate.arch)]))

    return [Front(tuple(map(again, front.candidates))) for front in fronts]


def beside(job: Job, names: Sequence[str], epochs: int, folder: Path) -> list[Candidate]:
    """Published networks at the largest input size, trained for as long."""
    found = []
    for name in names:
        arch = Arch(network=name, width=1.0, size=list(job.base))
        path = folder / f"{label(arch)}-{epochs}.json"
        if not path.exists():
            torch.manual_seed(job.settings.train.seed)
            net = build_network(name, job.classes, weights="none" if "lite" not in name else job.weights)
            cost = job.target.cost(net, job.base)
            result = train(
                net, job.data, job.recipe(job.base, epochs), path.with_suffix(""), cache=job.cache, quiet=True
            )
            write_json(path, Candidate(arch, cost, result.score, "", epochs).to_json())
        found.append(Candidate.from_json(read_json(path)))
    return found


def compare(search: Front, drawn: Front, budgets: Sequence[Budget], cost: Cost, epochs: int) -> dict[str, Any]:
    """Both fronts in figures: hypervolumes below the loosest budget, and the best network under each."""
    corner = budgets[0].corner()
    volumes = {"search": search.hypervolume(corner), "random": drawn.hypervolume(corner)}

    def best(front: Front, budget: Budget) -> dict[str, Any] | None:
        found = front.best(budget)
        return None if found is None else {"miou": found.score, "ms": found.cost.latency_ms}

    return {
        "hypervolume": volumes,
        "ratio": volumes["search"] / volumes["random"] if volumes["random"] else math.inf,
        "cost": {"supernet": cost.supernet, "explore": round(cost.explore, 2), "finalists": cost.finalists,
                 "search": round(cost.total, 2), "random": len(drawn.candidates) * epochs},
        "members": {"search": len(search.candidates), "random": len(drawn.candidates)},
        "best": {str(b): {"search": best(search, b), "random": best(drawn, b)} for b in budgets},
        "fronts": {"search": search.to_json(), "random": drawn.to_json()},
    }  # fmt: skip


def markdown(summary: dict[str, Any]) -> str:
    """The table for the results page."""

    def told(found: dict[str, Any] | None) -> str:
        return "none" if found is None else f"{found['miou']:.3f} at {found['ms']:.2f} ms"

    lines = ["| seed | budget | search | random |", "| --- | --- | --- | --- |"]
    for name, row in summary["rows"].items():
        lines += [f"| {name} | {b} | {told(f['search'])} | {told(f['random'])} |" for b, f in row["best"].items()]
    lines += ["", "| seed | hypervolume, search | random | ratio | passes, search | random |",
              "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, row in summary["rows"].items():
        volume, cost = row["hypervolume"], row["cost"]
        lines.append(
            f"| {name} | {volume['search']:.3f} | {volume['random']:.3f} | {row['ratio']:.3f} | {cost['search']:.0f} "
            f"| {cost['random']} |"
        )
    lines += ["", f"Mean ratio {summary['mean_ratio']:.3f} over {len(summary['rows'])} (asked: {BAR})."]
    if summary["beside"]:
        lines += ["", "| beside them, as long | val mIoU | ms |", "| --- | --- | --- |"]
        lines += [f"| {b['network']} | {b['miou']:.3f} | {b['ms']:.2f} |" for b in summary["beside"]]
    return "\n".join(lines) + "\n"


def jobs(asked: argparse.Namespace) -> dict[str, Job]:
    """The search's job of every seed or run, by what it is called."""
    if asked.run:
        return {folder.name: job_of(Run(folder)) for folder in asked.run}
    settings = ["search.beside=[]", *asked.set]
    return {
        f"seed {seed}": prepare(
            asked.data, asked.budget, target=str(Target.parse(asked.target)), run=asked.out / f"search-{seed}",
            size=parse_size(asked.size), settings=FitSettings(), set_=settings, minutes=None, threads=asked.threads,
            weights=asked.weights, seed=seed, say=print,
        )
        for seed in asked.seeds
    }  # fmt: skip


def random_job(job: Job, folder: Path) -> Job:
    """The same with random members."""
    settings = job.settings.model_copy(
        update={"search": job.settings.search.model_copy(update={"strategy": "random", "beside": ()})}
    )
    return prepare(
        job.data, job.budgets, target=str(job.target), run=folder, size=job.base, settings=settings, set_=(),
        minutes=None, threads=job.target.threads, weights=job.weights, seed=settings.train.seed, say=job.say,
    )  # fmt: skip


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """All seeds, both arms; what is known so far is written after each."""
    rows: dict[str, Any] = {}
    known: list[dict[str, Any]] = []
    for name, job in jobs(asked).items():
        print(f"{name}: search", flush=True)
        found, cost = search_arm(job, asked.epochs)
        count = math.ceil(cost.total / asked.epochs)
        print(f"{name}: the search cost {cost.total:.0f} passes; {count} random members", flush=True)
        place = asked.out / f"random-{name.split()[-1]}"
        other = random_job(job, place)
        drawn = random_arm(other, count, asked.epochs)
        found, drawn = together(RandomRoute(other), (found, drawn), place / "together.json")
        rows[name] = compare(found, drawn, job.budgets, cost, asked.epochs)
        if not known:
            named = beside(job, asked.beside, asked.epochs, asked.out / "beside")
            known = [{"network": c.arch["network"], "miou": c.score, "ms": c.cost.latency_ms} for c in named]
        ratio = mean(row["ratio"] for row in rows.values())
        summary = {"epochs": asked.epochs, "rows": rows, "mean_ratio": ratio, "met": ratio >= BAR, "beside": known}
        write_json(asked.out / "search_against_random.json", summary)
        write_text(asked.out / "search_against_random.md", markdown(summary))
    print(markdown(summary))
    return summary


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/against-random"))
    parser.add_argument("--run", type=Path, action="append", default=[], help="a one-shot fit instead of the seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=10, help="of every member trained alone")
    parser.add_argument("--size", default=None)
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--beside", nargs="*", default=[], help=f"published networks, e.g. {' '.join(PUBLISHED)}")
    parser.add_argument("--set", action="append", default=[], help="settings of fit")
    asked = parser.parse_args(words)
    if not asked.run and (asked.data is None or not asked.budget):
        parser.error("give a data set and one --budget or more, or --run")
    return asked


if __name__ == "__main__":
    run(parsed())
