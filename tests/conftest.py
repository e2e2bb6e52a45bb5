"""Shared by every test: where the real data sets lie, and skip marks for machines without them.

Use as ``from conftest import CAMVID, needs_camvid``. ``CATCHWEIGHT_DATA`` names another folder of data sets;
without it the folder ``shared/data`` beside the repository is used.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A test run started in the background ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Consoles take their width when a module of commands is first imported, whichever test that is.
os.environ["COLUMNS"] = "200"

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CATCHWEIGHT_DATA", REPOSITORY.parent / "shared" / "data"))
CAMVID = DATA / "camvid"
COCO128 = DATA / "coco128"


def _needs(folder: Path, mark: str) -> pytest.MarkDecorator:
    """Skip unless ``folder`` holds ``mark``; the reason says how to provide it."""
    return pytest.mark.skipif(
        not (folder / mark).exists(),
        reason=f"the {folder.name} data set is not at {folder}: set CATCHWEIGHT_DATA to the folder that holds it",
    )


@pytest.fixture(scope="session", autouse=True)
def cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests learn of the machine while it is busy with tests is nothing to remember."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATCHWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_a_quiet_machine() -> Iterator[None]:
    """Measurements of tests need not be good, only made; those that are about waiting ask for it."""
    from catchweight.targets.clock import rounds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "_PATIENCE", 1)
        patch.setattr(rounds, "_WAIT_TIMES", 0)
        patch.setattr(rounds, "_LEARNING_S", 0.5)
        yield


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in a wide terminal; returns (exit code, stdout, stderr)."""
    from catchweight.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["catchweight", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


needs_camvid = _needs(CAMVID, "classes.json")
needs_coco = _needs(COCO128, "annotations/instances_train.json")
