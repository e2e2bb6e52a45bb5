"""Joining a fit that explores: the rest of the members is scored by others, and fit goes on from there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import catchweight as cw
from catchweight.data import SegmentationData
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json, write_json
from catchweight.fitting import FitSettings, join
from catchweight.fitting.join import job_of
from catchweight.fitting.one_shot import LEAST_EVALUATIONS, note_deadline, noted_deadline
from catchweight.front import Front
from catchweight.run import Run
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


def tiny_fit(scenes: Path | SegmentationData, run: Path, word: str = "", extra: tuple[str, ...] = ()) -> cw.FitResult:
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


def test_who_joins_stops_when_the_exploration_does(tmp_path: Path) -> None:
    """A later end than the clock says is kept; one that is past is that of a fit that was stopped."""
    scenes = make_scenes(tmp_path / "scenes", {"train": 8, "val": 2}, size=(64, 96))
    with pytest.raises(Killed):
        tiny_fit(scenes, tmp_path / "run", "explore: candidate 1", ("search.evaluations=400",))
    run = Run(tmp_path / "run")
    assert noted_deadline(run) is None, "without --time"
    note_deadline(run, time.monotonic() + 100)
    assert noted_deadline(run) == pytest.approx(time.monotonic() + 100, abs=5)
    note_deadline(run, time.monotonic() - 1)
    assert noted_deadline(run) is None
    note_deadline(run, time.monotonic() + 0.5)  # over before the first member is scored
    front = join(run.folder, lambda line: None)
    assert LEAST_EVALUATIONS <= len(front.candidates) < 100


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
    run = Run(tmp_path / "early")
    run.stage("explore-plan", lambda: {"evaluations": 4})  # as of a copy without its checkpoints
    with pytest.raises(CatchweightError, match=r"lacks its supernet, .*last\.pt: join with the whole run folder"):
        join(run.folder)
    run.forget("explore-plan")
    other = read_json(tmp_path / "random" / "run.json")
    other["request"]["settings"]["search"]["finalist"] = 3
    write_json(tmp_path / "random" / "run.json", other)
    with pytest.raises(UsageError, match=r'run\.json.*did you mean "search\.finalists"'):
        join(tmp_path / "random")
    Run(tmp_path / "check", {"check": "eseg"})
    with pytest.raises(UsageError, match="is not the folder of a fit: its request has no data, budget"):
        join(tmp_path / "check")
    code, _, said = cli("join", tmp_path / "early")
    assert (code, "has not come to exploring" in said) == (2, True)


def test_the_data_are_opened_as_they_were(tmp_path: Path) -> None:
    """A folder that can be read in two formats is read in the one that ``fit`` was given."""
    scenes = make_scenes(tmp_path / "scenes", {"train": 4, "val": 2}, size=(64, 96))
    for split in ("train", "val"):
        shutil.copytree(scenes / "images" / split, scenes / split)
        shutil.copytree(scenes / "masks" / split, scenes / f"{split}annot")
    with pytest.raises(UsageError, match="fits several formats"):
        cw.open_data(scenes)
    with pytest.raises(Killed):
        tiny_fit(cw.open_data(scenes, "folder"), tmp_path / "run", "reach")
    assert job_of(Run(tmp_path / "run")).data.format == "folder"
    with pytest.raises(CatchweightError, match="read as folder, not as camvid: use --format folder"):
        tiny_fit(cw.open_data(scenes, "camvid"), tmp_path / "run", "reach")


def test_without_a_database_the_request_is_that_of_versions_that_had_none() -> None:
    asked = FitSettings().asked()["search"]
    assert not {"storage", "gradient"} & set(asked)
    assert asked["sandwich"] == {
        "members": 2, "share_batch": False, "distill": 1.0, "labels": 0.0, "temperature": 1.0,
    }  # fmt: skip
