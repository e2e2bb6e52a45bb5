"""What CI runs, with stand-ins for the programs it calls: a browser is a wish, ``make check`` is what counts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import REPOSITORY

TOOLS = ("bash", "dirname", "timeout")


def ci(folder: Path, **programs: str) -> tuple[int, list[str]]:
    """Exit code of ``.ci/run`` where only these programs exist (name: lines of shell), and what they were called with.

    Every stand-in writes its name and arguments into a log before it does its lines.
    """
    log = folder / "log"
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    for name, lines in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f'#!{shutil.which("bash")}\necho "{path.name} $*" >> "{log}"\n{lines}\n')
        path.chmod(0o755)
    done = subprocess.run(
        [REPOSITORY / ".ci" / "run"], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )
    return done.returncode, log.read_text().splitlines()


def test_a_fresh_machine_gets_a_browser(tmp_path):
    code, said = ci(tmp_path, id="echo 0", apt_get="exit 0", make="exit 0")
    assert code == 0
    assert [line for line in said if "chromium" in line] == [
        "apt-get -qq install --yes --no-install-recommends chromium"
    ]
    assert said[-1] == "make check"


@pytest.mark.parametrize(
    "programs",
    [
        {"id": "echo 0", "apt_get": "exit 100"},  # no network
        {"id": "echo 0"},  # another system
    ],
)
def test_without_one_the_checks_are_run_all_the_same(tmp_path, programs):
    code, said = ci(tmp_path, make="exit 0", **programs)
    assert code == 0
    assert said[-1] == "make check"


@pytest.mark.parametrize("programs", [{"id": "echo 1000"}, {"id": "echo 0", "chromium": "exit 0"}])
def test_nothing_is_installed_by_a_user_or_where_there_is_one(tmp_path, programs):
    code, said = ci(tmp_path, make="exit 0", apt_get="exit 0", **programs)
    assert code == 0
    assert not [line for line in said if line.startswith("apt-get")]


def test_a_failed_check_fails(tmp_path):
    code, _ = ci(tmp_path, id="echo 1000", make="exit 3")
    assert code == 3


@pytest.fixture(autouse=True)
def posix() -> None:
    if os.name != "posix":
        pytest.skip("the script is bash's")
