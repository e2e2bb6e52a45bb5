"""The pages: their code runs, their commands exist with these options, and their links lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import optuna
import pytest
import typer
import yaml
from markdown.extensions.toc import slugify
from optuna.study import StudyDirection
from pages import DOCS, OTHERS, PAGES, blocks, run_page
from PIL import Image

import catchweight as cw
from catchweight.config import override
from catchweight.data.scenes import make_scenes
from catchweight.fitting import FitSettings
from conftest import REPOSITORY

TINY = (
    "search.strategy=whole",
    "search.networks=[timm/test_efficientnet+fpn]",
    "search.widths=[0.25]",
    "search.scales=[1.0]",
    "train.epochs=2",
    "train.batch=4",
    "train.accelerator=cpu",
)
SLOW = [page for page in PAGES if any(block.slow for block in blocks(page))]


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """What the pages take for granted, made once: a data set, photos, and a finished run."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CATCHWEIGHT_CACHE", str(folder / "cache"))
        scenes = make_scenes(Path("path/to/dataset"), {"train": 8, "val": 3}, size=(64, 96))
        cw.fit(
            scenes, "latency<=10s", run="runs/street", set_=TINY, threads=1, weights="none", say=lambda _: None
        )  # fmt: skip
        shutil.copytree(scenes / "images" / "val", "photos")
        Image.open(next(Path("photos").iterdir())).save("photo.jpg")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A fresh copy of it as the current folder, and a cache of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: page.stem)
def test_code_on_the_pages_runs(page, place, monkeypatch):
    run_page(page, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.stem)
def test_slow_code_on_the_pages_runs(page, place, monkeypatch):
    run_page(page, monkeypatch, slow=True)


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: page.stem)
def test_python_that_is_not_run_compiles(page):
    for block in blocks(page, "python"):
        compile(block.code, f"{page}:{block.line}", "exec")


def commands() -> list[tuple[str, list[str]]]:
    return [
        (f"{page.stem}:{block.line}", words)
        for page in PAGES + OTHERS
        for block in blocks(page, "console")
        for words in block.commands
    ]


@pytest.mark.parametrize(("where", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_commands_on_the_pages_are_understood(where, words):
    program, *rest = words
    UNDERSTOOD[Path(program).name](rest)


def catchweight_understands(words: list[str]) -> None:
    from catchweight.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("catchweight", list(words), resilient_parsing=True)
    name, inner, rest = command.resolve_command(context, list(words))
    while hasattr(inner, "resolve_command"):
        name, inner, rest = inner.resolve_command(context, rest)
    parsed = inner.make_context(name, rest, parent=context)
    assert parsed.args == [], "an unknown option or a missing argument raises"
    if name in ("fit", "demo"):
        override(FitSettings(), parsed.params["settings"] or ())  # an unknown key raises


def make_understands(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words, "make what?"
    assert set(words) <= set(targets)


def python_understands(words: list[str]) -> None:
    if words[0] == "-m":
        assert words[1] == "venv"
    else:
        assert (REPOSITORY / words[0]).exists()


def pip_understands(words: list[str]) -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert words[0] == "install"
    for extra in re.findall(r"[\[,]([a-z]+)(?=[],])", " ".join(words)):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"there is no extra {extra}"


def tensorboard_understands(words: list[str]) -> None:
    assert words == ["--logdir", "runs/street"], "which is what is opened below"


def dashboard_understands(words: list[str]) -> None:
    assert words in (["sqlite:///runs/street/study.db"], ["runs/street/explore.journal"]), "which are opened below"


UNDERSTOOD = {
    "catchweight": catchweight_understands,
    "make": make_understands,
    "python": python_understands,
    "pip": pip_understands,
    "tensorboard": tensorboard_understands,
    "optuna-dashboard": dashboard_understands,
}


def test_tensorboard_shows_every_training_of_a_run(place):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    shown = EventMultiplexer().AddRunsFromDirectory("runs/street").Reload()
    trainings = {path.parent for path in Path("runs/street").rglob("metrics.csv")}
    assert len(trainings) > 1
    assert set(shown.Runs()) == {(path / "tensorboard").relative_to("runs/street").as_posix() for path in trainings}
    for training in trainings:
        rows = training.joinpath("metrics.csv").read_text(encoding="utf-8").splitlines()[1:]
        name = (training / "tensorboard").relative_to("runs/street").as_posix()
        assert [event.step for event in shown.Scalars(name, "train_loss")] == list(range(1, len(rows) + 1))


def test_the_race_opens_as_optunas_dashboard_opens_it(place):
    storage = optuna.storages.RDBStorage(
        "sqlite:///runs/street/study.db", skip_compatibility_check=True, skip_table_creation=True
    )
    (study,) = optuna.get_all_study_summaries(storage)
    assert (study.study_name, study.direction, study.n_trials) == ("search", StudyDirection.MAXIMIZE, 1)
    (trial,) = optuna.load_study(study_name="search", storage=storage).trials
    assert trial.value == pytest.approx(next(iter(trial.intermediate_values.values())))
    storage.engine.dispose()


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(_listed(site["nav"])) == [page.name for page in PAGES]


def _listed(entries: list) -> list[str]:
    values = [value for entry in entries for value in entry.values()]
    return [page for value in values for page in (_listed(value) if isinstance(value, list) else [value])]


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    """``mkdocs build --strict`` checks those within the site; this, also those of the files beside it."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", _prose(page)):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        if page.parent == DOCS:
            assert there.resolve().is_relative_to(DOCS), f"{page.name}: {target} is not part of the site"
        if anchor:
            assert anchor in _anchors(there), f"{page.name} links to {target}#{anchor}"


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+?)(?: \{ ?#\S+ ?\})?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {slugify(heading, "-") for heading in headings}
