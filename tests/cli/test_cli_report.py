"""``report``, ``runs`` and ``watch`` from the command line, and what a signal does to a command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from catchweight.run import Run

REQUEST = {"data": "street", "budget": "latency<=5ms", "target": "onnxruntime:cpu", "threads": 1}


def make(folder, score: float) -> Run:
    run = Run(folder, REQUEST)
    best = {"arch": {"network": f"net {score}"}, "cost": {"latency_ms": 4.0}, "score": score, "note": "chosen"}
    (folder / "front.json").write_text(json.dumps({"candidates": [best]}))
    run.stage("measure", lambda: best)
    return run


def test_runs_lists_them_with_state_score_and_budget(cli, tmp_path):
    make(tmp_path / "a [bold]run[/bold]", 0.512)
    Run(tmp_path / "begun", REQUEST)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text('{"format": 7}')
    code, out, _ = cli("runs", tmp_path)
    assert code == 0
    for words in (
        "[bold]run[/bold]",
        "finished",
        "0.512",
        "4.00 ms",
        "latency<=5ms",
        "stopped",
        "unreadable",
        "format 7",
    ):
        assert words in out, words
    assert cli("runs", tmp_path / "nowhere")[0] == 1
    (tmp_path / "empty").mkdir()
    assert "no run below" in cli("runs", tmp_path / "empty")[1]


def test_report_of_one_run_and_of_several(cli, tmp_path):
    for name, score in (("a", 0.5), ("b", 0.6)):
        make(tmp_path / name, score)
    code, out, _ = cli("report", tmp_path / "a")
    assert (code, out.strip()) == (0, str(tmp_path / "a" / "report.html"))
    code, out, _ = cli("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "new" / "c.html")
    assert code == 0
    page = (tmp_path / "new" / "c.html").read_text(encoding="utf-8")
    assert "net 0.5" in page
    assert "net 0.6" in page


@pytest.mark.parametrize("arguments", [("watch", "nowhere"), ("report", "nowhere"), ("report", "nowhere", "either")])
def test_what_is_no_run_is_refused(cli, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*arguments)
    assert code == 1
    assert "is not a run folder" in err
    assert list(tmp_path.iterdir()) == []


def test_folders_of_something_else_than_a_fit_are_told_as_such(cli, tmp_path):
    for request in ({"check": "eseg", "data": None}, {**REQUEST, "budget": [1]}):
        Run(tmp_path / str(len(request)), request)
        code, _, err = cli("report", tmp_path / str(len(request)))
        assert (code, "names no budget" in err) == (1, True)
    code, out, _ = cli("runs", tmp_path)
    assert (code, "no run below" in out, str(tmp_path / "2") in out) == (0, False, False)


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
PLAIN = "def wait():\n print('waiting', flush=True)\n time.sleep(60)\n"
IN_A_DESTRUCTOR = (
    "class Gone:\n def __del__(self):\n  print('waiting', flush=True)\n  time.sleep(60)\n"
    "def wait():\n Gone()\n time.sleep(60)\n"
)
AT_THE_END = "def wait():\n atexit.register(lambda: (print('waiting', flush=True), time.sleep(1)))\n"


def interrupted(wait: str, number: int) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a signal once it says that it waits."""
    program = (
        "import atexit, sys, time\nimport catchweight.cli.app as a\nfrom catchweight.cli import entry\n"
        f"{wait}a.app.command(name='wait')(wait)\nsys.argv = ['catchweight', 'wait']\nentry()\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("wait", [PLAIN, IN_A_DESTRUCTOR], ids=["plain", "in a destructor"])
def test_a_signal_ends_a_command_with_one_line(wait, number, code):
    returned, err = interrupted(wait, number)
    assert returned == code
    assert err.strip() == "catchweight: stopped; the same command goes on from here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_moments_changes_nothing(number):
    assert interrupted(AT_THE_END, number) == (0, "")
