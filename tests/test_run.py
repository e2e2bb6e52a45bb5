"""The run folder: stages happen once, locks hold, half-written files are never read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from catchweight import __version__
from catchweight.errors import CatchweightError, StorageError
from catchweight.files import copy_folder, written_aside
from catchweight.run import Run, find_runs, summarise


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
        with pytest.raises(StorageError, match=f"process {holder.pid}"), run.locked():
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


def test_what_cannot_be_written_is_no_finding(tmp_path):
    """Whoever tries things out must tell a full disk from a network that does not do."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"), written_aside(tmp_path / "file" / "x.json"):
        pass
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot write .*to: .*No such file"):
        copy_folder(tmp_path / "from", tmp_path / "to")
    assert not (tmp_path / "to").exists()
    (tmp_path / "from" / "gone").unlink()
    (tmp_path / "from" / "kept").write_text("x")
    copy_folder(tmp_path / "from", tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "from", "to"]


def test_of_many_that_start_together_one_gets_the_folder(tmp_path):
    code = (
        "import sys, time\nfrom catchweight.errors import CatchweightError\nfrom catchweight.run import Run\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        f"try:\n with Run({str(tmp_path / 'r')!r}, {{'seed': 0}}).locked():\n"
        "  print('in', flush=True)\n  sys.stdin.readline()\n"
        "except CatchweightError as error:\n print(f'refused {error}', flush=True)"
    )
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(8)]
    assert {p.stdout.readline() for p in processes} == {"ready\n"}
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes]
    assert sorted(line.split()[0] for line in said) == ["in", *["refused"] * 7]
    for process in processes:
        process.communicate("end\n", timeout=60)
    assert not (tmp_path / "r" / "run.lock").exists()
    assert not list((tmp_path / "r").glob(".*.part"))


def test_of_two_requests_that_start_together_one_stands(tmp_path):
    code = (
        "import sys\nfrom catchweight.errors import CatchweightError\nfrom catchweight.run import Run\n"
        "print('ready', flush=True)\nseed = int(sys.stdin.readline())\n"
        f"try:\n Run({str(tmp_path / 'r')!r}, {{'seed': seed}})\n print(f'mine {{seed}}', flush=True)\n"
        "except CatchweightError as error:\n print('refused', flush=True)"
    )
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(6)]
    assert {p.stdout.readline() for p in processes} == {"ready\n"}
    for seed, process in enumerate(processes):
        process.stdin.write(f"{seed}\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    stands = Run(tmp_path / "r").request["seed"]
    assert sorted(said) == [f"mine {stands}", *["refused"] * 5]


def test_a_lock_ends_with_its_process_even_if_its_number_is_given_to_another(tmp_path):
    run = Run(tmp_path / "r", {})
    (tmp_path / "r" / "run.lock").write_text(json.dumps({"pid": 1, "started": 0.0, "host": "elsewhere"}))
    with run.locked():
        assert run.holder == os.getpid()
    assert run.holder is None


def test_a_second_hold_in_one_process_is_refused_too(tmp_path):
    with (
        Run(tmp_path / "r", {}).locked(),
        pytest.raises(CatchweightError, match=f"process {os.getpid()}"),
        Run(tmp_path / "r", {}).locked(),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 0, "request": {}}', "run format 0; catchweight .* reads format 1"),
        ('{"format": 2, "version": "9.1", "request": {}}', "by catchweight 9.1 in run format 2"),
        ("[]", "does not describe a run"),
        ("{}", "does not describe a run"),
        ('{"format": 1}', "does not say what was asked for"),
        ('{"format": 1, "created": "x", "request": {}}', "begun at 'x', which is no time"),
        ('{"format": 1, "created": 1e300, "request": {}}', "begun at 1e.300, which is no time"),
        ("{", "is not valid JSON"),
    ],
)
def test_folders_of_other_versions_and_none_are_named(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    for request in (None, {"seed": 0}):
        with pytest.raises(CatchweightError, match=message):
            Run(tmp_path, request)
    assert (tmp_path / "run.json").read_text() == content
    assert [run.state for run in find_runs(tmp_path)] == ["unreadable"]
    assert summarise(tmp_path).state == "unreadable"


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    for request in (None, {"seed": 0}):
        with pytest.raises(CatchweightError, match="cannot look into .*too long; choose another --run folder"):
            Run(tmp_path / ("r" * 300), request)
    with pytest.raises(CatchweightError, match="too long"):
        find_runs(tmp_path / ("r" * 300))


@pytest.mark.parametrize("content", ["[]", "{}", '{"result": 1, "finished": "late"}', "{"])
def test_a_damaged_stage_costs_its_run_and_not_the_listing(tmp_path, content):
    request = {"budget": "latency<=1ms", "target": "onnxruntime:cpu"}
    Run(tmp_path / "whole", request)
    damaged = Run(tmp_path / "damaged", request)
    (damaged.folder / "stages").mkdir()
    (damaged.folder / "stages" / "data.json").write_text(content)
    for read in (damaged.stages, lambda: damaged.result("data"), lambda: damaged.seconds("data")):
        with pytest.raises(StorageError, match=r"data\.json"):
            read()
    assert {run.folder.name: run.state for run in find_runs(tmp_path)} == {"whole": "stopped", "damaged": "unreadable"}


def test_folders_of_something_else_than_a_fit_are_not_listed_and_have_no_budget(tmp_path):
    Run(tmp_path / "check", {"check": "eseg"})
    odd = Run(tmp_path / "odd", {"budget": [1], "target": "onnxruntime:cpu"})
    assert [(run.folder.name, run.state) for run in find_runs(tmp_path)] == [("odd", "unreadable")]
    for run in (odd, Run(tmp_path / "check")):
        with pytest.raises(CatchweightError, match="names no budget"):
            _ = run.budgets


def test_a_damaged_note_of_a_stop_is_told_as_such(tmp_path):
    run = Run(tmp_path / "r", {"budget": "latency<=1ms", "target": "onnxruntime:cpu"})
    (run.folder / "stopped.json").write_text("[]")
    assert "stopped.json is damaged" in run.stopped
    assert summarise(run.folder).state == "stopped"


@pytest.mark.parametrize("content", ['{"pid": "x", "host": "y"}', '{"pid": 1}', "[]"])
def test_a_damaged_lock_is_held_by_nobody(tmp_path, content):
    run = Run(tmp_path / "r", {})
    (run.folder / "run.lock").write_text(content)
    assert run.holder is None


def test_a_run_of_the_first_version_is_read(tmp_path):
    request = {"budget": "latency<=1ms", "target": "onnxruntime:cpu"}
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "created": 5.0, "request": request}))
    assert Run(tmp_path, request).created == 5.0
    assert summarise(tmp_path).budget == "latency<=1ms"


def test_another_versions_settings_are_told_by_name_with_that_version(tmp_path):
    asked = {"budget": "latency<=1ms", "settings": {"search": {"strategy": "one-shot", "eta": 3}}}
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "version": "0.0.7", "request": asked}))
    today = {**asked, "settings": {"search": {"strategy": "one-shot", "eta": 3, "beside": None}}}
    with pytest.raises(CatchweightError) as refusal:
        Run(tmp_path, today)
    told = str(refusal.value)
    assert "a run of catchweight 0.0.7 that was asked for settings.search.beside=nothing, not None" in told
    assert f"or catchweight 0.0.7, for this is {__version__}" in told
    assert "eta" not in told
    assert Run(tmp_path, asked).request == asked, "the same settings are read whatever version wrote them"


@pytest.mark.skipif(os.name != "posix", reason="users are a matter of POSIX")
def test_a_read_only_folder_is_refused_in_one_sentence_and_can_still_be_read(tmp_path):
    folder = tmp_path / "r"
    Run(folder, {"budget": "latency<=1ms"})
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    code = (
        f"import os\nfrom catchweight.errors import CatchweightError\nfrom catchweight.run import Run\n"
        f"if os.getuid() == 0: os.setuid(65534)\nrun = Run({str(folder)!r})\nprint(run.request['budget'])\n"
        "try:\n with run.locked(): print('held')\nexcept CatchweightError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    budget, message = done.stdout.splitlines()
    assert budget == "latency<=1ms"
    assert "choose a writable --run folder" in message
    assert sorted(path.name for path in folder.iterdir()) == ["run.json"]


def test_sessions_say_when_and_with_what(tmp_path):
    for _ in range(2):
        with Run(tmp_path / "r", {}).locked():
            pass
    sessions = Run(tmp_path / "r").sessions()
    assert len(sessions) == 2
    assert sessions[0]["environment"]["python"]
    assert not any(os.uname().nodename in str(value) for value in sessions[0]["environment"].values())


def test_runs_are_listed_with_state_and_best_score(tmp_path):
    request = {"budget": "latency<=5ms", "target": "onnxruntime:cpu"}
    begun = Run(tmp_path / "begun", request)
    Run(tmp_path / "begun" / "points" / "x", request)
    done = Run(tmp_path / "deep" / "done", request)
    best = {"arch": {"network": "a"}, "cost": {"latency_ms": 4.0}, "score": 0.5}
    slow = {"arch": {"network": "b"}, "cost": {"latency_ms": 9.0}, "score": 0.9}
    (done.folder / "front.json").write_text(json.dumps({"candidates": [best, slow]}))
    done.stage("measure", lambda: best)
    (tmp_path / "begun" / "train").mkdir()
    (tmp_path / "begun" / "train" / "metrics.csv").write_text("epoch,val_miou\n1,0.25\n2,\n")
    with begun.locked():
        found = {run.folder.name: run for run in find_runs(tmp_path)}
    assert set(found) == {"begun", "done"}
    assert (found["begun"].state, found["begun"].score) == ("running", 0.25)
    assert (found["done"].state, found["done"].score, found["done"].stage) == ("finished", 0.5, "measure")
    with pytest.raises(CatchweightError, match="is not a folder"):
        find_runs(tmp_path / "nowhere")
