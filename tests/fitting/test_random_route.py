"""Random members near a budget: few are raced as they are, and none is told as such."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from catchweight.budget import Budget, Cost
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError
from catchweight.fitting import prepare, random_route
from catchweight.fitting.job import Job
from catchweight.fitting.random_route import RandomRoute
from catchweight.front import Arch
from catchweight.spaces.dpc import cell_of


@pytest.fixture
def route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RandomRoute]:
    """Members are numbers of 0 to 99, and as many milliseconds are what they take."""
    scenes = make_scenes(tmp_path / "scenes", {"train": 2, "val": 1}, size=(64, 64))
    job: Job = prepare(
        scenes, "latency<=100ms", target="onnxruntime:cpu", run=tmp_path / "run", size=None, settings=None,
        set_=("search.strategy=random", "search.headroom=0"), minutes=None, threads=1, weights="none", seed=0,
        say=lambda line: None,
    )  # fmt: skip
    found = RandomRoute(job)

    def drawn(rng: random.Random) -> Arch:
        return Arch(number=rng.randrange(100), size=[64, 64])

    vars(found)["space"] = SimpleNamespace(distinct=lambda: SimpleNamespace(sample=drawn))
    monkeypatch.setattr(found, "predicted", lambda arch: Cost(latency_ms=float(arch["number"])))
    vars(found)["measured"] = lambda arch: Cost(latency_ms=float(arch["number"]))
    monkeypatch.setattr(random_route, "MOST_DRAWN", 20)
    return found


def test_fewer_members_than_wanted_are_raced_as_they_are(route: RandomRoute) -> None:
    found = route.candidates(route.job.points[0]).allowed
    assert 0 < len(found) < route.settings.most, "20 draws"
    assert all(70 <= (c.cost.latency_ms or 0.0) <= 100 for c in found)


def test_where_none_needs_most_of_the_budget_those_nearest_to_it_are_raced(route: RandomRoute) -> None:
    found = [c.cost.latency_ms for c in route._drawn(Budget.parse("latency<=1s"))]
    assert len(found) == 20
    assert found == sorted(found, reverse=True)


def test_where_none_is_within_the_budget_it_is_said(route: RandomRoute) -> None:
    with pytest.raises(CatchweightError, match="of 20 random members none is within latency<=0.001ms"):
        list(route._drawn(Budget.parse("latency<=0.001ms")))


def test_a_wide_headroom_leaves_members_to_race(route: RandomRoute) -> None:
    route.settings = route.settings.model_copy(update={"headroom": 0.5})
    found = [c.cost.latency_ms for c in route._drawn(Budget.parse("latency<=100ms"))]
    assert found
    assert all(35 <= ms <= 50 for ms in found)


def test_dense_prediction_cells_are_drawn_once_each_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_scenes(tmp_path / "scenes", {"train": 2, "val": 1}, size=(64, 64))
    settings = (
        "search.strategy=random", "search.space=dpc", "search.backbone=test_efficientnet", "search.scales=[1.0]",
    )  # fmt: skip
    job = prepare(
        scenes, "latency<=10s", target="onnxruntime:cpu", run=tmp_path / "run", size=None, settings=None,
        set_=settings, minutes=None, threads=1, weights="none", seed=0, say=lambda line: None,
    )  # fmt: skip
    found = RandomRoute(job)
    monkeypatch.setattr(found, "predicted", lambda arch: Cost(latency_ms=9_000.0))
    drawn = [c.arch for c in itertools.islice(found._drawn(job.budgets[0]), 200)]
    assert all(cell_of(arch) == cell_of(arch).canonical() for arch in drawn)
    kinds = Counter(branch.kind for arch in drawn for branch in cell_of(arch).branches)
    assert kinds["atrous"] > 2.5 * kinds["pool"] > 25 * kinds["conv"], "64, 16 and 1 of 81 as published"
    assert "rate=0.12" in found.space.network_name(drawn[0]), "of 64 pixels instead of 513"
