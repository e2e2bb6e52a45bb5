"""Joining a fit that explores: the rest of the members is scored by others, and fit goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

import catchweight as cw
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.fitting import FitSettings, join
from catchweight.front import Front
from formula_target import formula

pytestmark = pytest.mark.timeout(900)

TINY = (
    "search.backbone=test_efficientnet", "search.scales=[1.0]", "search.profiled=10", "search.supernet_epochs=1",
    "search.evaluations=4", "search.finalists=1", "search.beside=[]", "train.epochs=1", "train.batch=4",
    "train.tensorboard=false", "train.accelerator=cpu",
)  # fmt: skip


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture(autouse=True)
def _device():
    with formula():
        yield


def tiny_fit(scenes: Path, run: Path, word: str = "", extra: tuple[str, ...] = ()) -> cw.FitResult:
    """Killed at the first line that begins with ``word``."""

    def say(line: str) -> None:
        if word and line.startswith(word):
            raise Killed

    return cw.fit(
        scenes, "latency<=10s", run=run, set_=(*TINY, *extra), threads=1, weights="none", say=say
    )  # fmt: skip


@pytest.mark.parametrize("database", [False, True])
def test_others_do_the_rest_and_fit_goes_on(tmp_path: Path, database: bool) -> None:
    scenes = make_scenes(tmp_path / "scenes", {"train": 8, "val": 2}, size=(64, 96))
    extra = (f"search.storage=sqlite:///{tmp_path / 'shared.db'}",) if database else ()
    with pytest.raises(Killed):
        tiny_fit(scenes, tmp_path / "run", "explore: candidate 2 of 4", extra)
    lines: list[str] = []
    front = join(tmp_path / "run", lines.append)
    assert len(front.candidates) == 4
    scored = [line for line in lines if line.startswith("explore: candidate")]
    assert len(scored) == 2, "the first two were there"
    assert (tmp_path / "run" / "explore.journal").exists() != database
    result = tiny_fit(scenes, tmp_path / "run", "explore: candidate", extra)
    explored = Front.read(tmp_path / "run" / "explored.json")
    assert {c.arch: c.score for c in explored.candidates} == {c.arch: c.score for c in front.candidates}
    assert result.best.arch in {c.arch for c in explored.candidates}
    with pytest.raises(UsageError, match="has been explored"):
        join(tmp_path / "run", lines.append)


def test_what_cannot_be_joined_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli) -> None:  # noqa: ANN001
    scenes = make_scenes(tmp_path / "scenes", {"train": 4, "val": 2}, size=(64, 96))
    with pytest.raises(Killed):
        tiny_fit(scenes, tmp_path / "early", "reach")
    with pytest.raises(UsageError, match="has not come to exploring"):
        join(tmp_path / "early")
    with pytest.raises(Killed):
        tiny_fit(scenes, tmp_path / "random", "reach", ("search.strategy=random",))
    with pytest.raises(UsageError, match="its strategy is random"):
        join(tmp_path / "random")
    with pytest.raises(CatchweightError, match="not a run folder"):
        join(tmp_path / "nowhere")
    code, _, said = cli("join", tmp_path / "early")
    assert (code, "has not come to exploring" in said) == (2, True)


def test_without_a_database_the_request_is_that_of_versions_that_had_none() -> None:
    asked = FitSettings().asked()["search"]
    assert not {"storage", "gradient"} & set(asked)
    assert asked["sandwich"] == {
        "members": 2, "share_batch": False, "distill": 1.0, "labels": 0.0, "temperature": 1.0,
    }  # fmt: skip
