"""``--time``: however little there is, a run ends with the best network so far, measured and within the budget."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import catchweight as cw
from catchweight.data.scenes import make_scenes
from catchweight.fitting import prepare
from catchweight.fitting.job import OVERTIME
from catchweight.fitting.one_shot import LEAST_EPOCHS, LEAST_EVALUATIONS, SUPERNET_SHARE, OneShotRoute
from catchweight.front import Front
from formula_target import formula

pytestmark = pytest.mark.timeout(900)

COMMON = (
    "search.scales=[1.0]",
    "train.epochs=200",
    "train.batch=4",
    "train.tensorboard=false",
    "train.accelerator=cpu",
)
ONE_SHOT = (
    "search.strategy=one-shot", "search.backbone=test_efficientnet", "search.profiled=10", "search.supernet_epochs=200",
    "search.evaluations=2000", "search.beside=[]",
)  # fmt: skip
NETWORKS = ("search.networks=[timm/test_efficientnet+fpn]", "search.widths=[0.25, 0.125]")
WHOLE = ("search.strategy=whole", *NETWORKS)


@pytest.fixture(autouse=True)
def _device():
    with formula():
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("time") / "scenes", {"train": 8, "val": 2}, size=(64, 96))


@pytest.mark.parametrize("route", [ONE_SHOT, WHOLE])
def test_out_of_time_the_best_network_so_far_is_proven(scenes: Path, tmp_path: Path, route: tuple[str, ...]) -> None:
    """One minute is what is set aside for the end: nothing is left for training beyond the least."""
    said: list[str] = []
    result = cw.fit(
        scenes, "latency<=10s", run=tmp_path / "run", set_=(*COMMON, *route), threads=1, weights="none", minutes=1,
        say=said.append,
    )  # fmt: skip
    assert any("the time is short for one" in line for line in said) == (route is ONE_SHOT)
    assert result.best.epochs == 1
    assert result.best.cost.latency_ms is not None
    assert result.best.cost.latency_ms <= 10_000
    assert json.loads((tmp_path / "run" / "verification.json").read_text())["passed"] is True
    trained = [c for c in result.front.candidates if c.epochs]
    assert result.best.score == max(c.score or 0.0 for c in trained)
    if route is ONE_SHOT:
        assert (
            json.loads((tmp_path / "run" / "stages" / "supernet.json").read_text())["result"]["epochs"] == LEAST_EPOCHS
        )
        assert len(Front.read(tmp_path / "run" / "explored.json").candidates) <= LEAST_EVALUATIONS


def test_a_supernet_that_turns_out_slower_than_planned_stops_with_what_it_is(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its least epochs, and what was trained is what is told and scored."""
    said: list[str] = []
    job = prepare(
        scenes, "latency<=10s", target="onnxruntime:cpu", run=tmp_path / "run", size=None, settings=None,
        set_=(*COMMON, *ONE_SHOT), minutes=None, threads=1, weights="none", seed=0, say=said.append,
    )  # fmt: skip
    route = OneShotRoute(job)
    job.end = time.monotonic() + 100
    assert (job.deadline(SUPERNET_SHARE) or 0.0) - time.monotonic() == pytest.approx(45, abs=5)
    monkeypatch.setattr(job, "deadline", lambda share: time.monotonic() + (share - OVERTIME * SUPERNET_SHARE) - 1)
    told = route._train_supernet(200)
    assert told["epochs"] == LEAST_EPOCHS + 1, "the epoch during which the time is up is the last one"
    assert any("stopped after epoch 4 of 200" in line for line in said)
    assert 0 <= route.score(route.space.smallest()) <= 1


@pytest.mark.parametrize(("minutes", "taken"), [(1, "whole"), (600, "one-shot"), (None, "one-shot")])
def test_auto_leaves_the_supernet_out_where_there_is_no_time_for_one(
    scenes: Path, tmp_path: Path, minutes: float | None, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which way is taken is kept, so that a later call with less time left goes on on the same one."""
    from catchweight.fitting import main

    class TakenError(Exception):
        """What would be done next is what other tests are about."""

    def stop(route: object) -> None:
        raise TakenError(type(route).__name__)

    for route in (main.OneShotRoute, main.WholeRoute):
        monkeypatch.setattr(route, "prepare", stop)
    said: list[str] = []
    with pytest.raises(TakenError, match={"whole": "WholeRoute", "one-shot": "OneShotRoute"}[taken]):
        cw.fit(
            scenes, "latency<=10s", run=tmp_path / "run", threads=1, weights="none", minutes=minutes, say=said.append,
            set_=(*COMMON, "search.backbone=test_efficientnet", *NETWORKS),
        )  # fmt: skip
    kept = json.loads((tmp_path / "run" / "stages" / "strategy.json").read_text())["result"]
    assert kept == {"strategy": taken}
    assert any("too short for a supernet" in line for line in said) == (taken == "whole")


def test_training_that_turns_out_slower_than_planned_stops_at_its_share(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that promises a thousandth of the truth must not keep the run from ending in time."""
    from catchweight.fitting import race

    monkeypatch.setattr(race, "epoch_seconds", lambda *_: 1e-3)
    monkeypatch.setattr("catchweight.fitting.job.AFTERWARDS_S", 0.0)
    begun = time.monotonic()
    result = cw.fit(
        scenes, "latency<=10s", run=tmp_path / "run", threads=1, weights="none", minutes=0.5, say=lambda _: None,
        set_=(*COMMON, *WHOLE, "train.epochs=100000"),
    )  # fmt: skip
    plan = json.loads((tmp_path / "run" / "stages" / "plan.json").read_text())["result"]
    assert plan["epochs"] > 1000
    assert time.monotonic() - begun < 200
    assert result.best.score is not None
    assert result.file.exists()
