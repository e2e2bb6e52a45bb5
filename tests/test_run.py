"""The run folder: stages happen once, locks hold, half-written files are never read."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from catchweight.errors import CatchweightError
from catchweight.files import written_aside
from catchweight.run import Run


def test_a_stage_is_done_once(tmp_path):
    calls = []
    for _ in range(2):
        run = Run(tmp_path / "r", {"budget": "latency<=1ms"})
        assert run.stage("data", lambda: calls.append(1) or {"n": 3}) == {"n": 3}
    assert calls == [1]


def test_a_failed_stage_is_done_again(tmp_path):
    run = Run(tmp_path / "r", {})
    with pytest.raises(ZeroDivisionError):
        run.stage("data", lambda: 1 / 0)
    assert run.result("data") is None
    assert run.stage("data", lambda: 5) == 5


def test_another_request_is_refused_by_the_differing_key(tmp_path):
    Run(tmp_path / "r", {"budget": "latency<=1ms", "seed": 0})
    with pytest.raises(CatchweightError, match=r"budget='latency<=1ms'.*differs in: budget"):
        Run(tmp_path / "r", {"budget": "latency<=2ms", "seed": 0})


def test_a_folder_of_another_format_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": 99, "request": {}}))
    with pytest.raises(CatchweightError, match="format 99"):
        Run(tmp_path)


def test_a_second_process_is_refused_while_the_first_lives_and_a_dead_lock_is_taken_over(tmp_path):
    code = (
        "import sys; from catchweight.run import Run\n"
        f"with Run({str(tmp_path / 'r')!r}, {{}}).locked():\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        run = Run(tmp_path / "r", {})
        with pytest.raises(CatchweightError, match=f"process {holder.pid}"), run.locked():
            pass
        holder.kill()
    leftover = tmp_path / "r" / ".front.json.x.part"
    leftover.write_text("half")
    with run.locked():
        assert not leftover.exists()
        assert (tmp_path / "r" / "run.lock").exists()
    assert not (tmp_path / "r" / "run.lock").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_aside(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]
