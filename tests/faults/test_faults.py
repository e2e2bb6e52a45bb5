"""``fit`` killed, interrupted, starved and lied to: the same command finishes with the same front and weights.

The suite over every stage of both routes is slow (`make check-claims`); a short one runs always.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disturbed import ROUTES, Fit, disturb, kill_a_helper, outcome

from catchweight.data.scenes import make_scenes

KILL, TERM, INTERRUPT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CODES = {KILL: {-9}, TERM: {143}, INTERRUPT: {130}}
PASSES = 4
LONGEST_DELAY_S = 1.5
SEED = int(os.environ.get("CATCHWEIGHT_FAULT_SEED", "0"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("faults") / "scenes", {"train": 8, "val": 3}, size=(64, 96))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(scenes, cache):
    """A fit of a route into a folder."""
    return lambda run, route="whole", data=scenes: Fit(data, run, ROUTES[route][0], cache)


@pytest.fixture(scope="module")
def undisturbed(make, tmp_path_factory):
    """The outcome of a route when nothing happens."""
    known: dict[str, dict] = {}

    def of(route: str) -> dict:
        if route not in known:
            fit = make(tmp_path_factory.mktemp("undisturbed") / "run", route)
            ended = fit.finish()
            assert ended.code == 0, ended.err
            known[route] = outcome(fit.run)
        return known[route]

    return of


def finished_the_same(fit: Fit, expected: dict) -> None:
    ended = fit.finish()
    assert ended.code == 0, ended.err
    assert outcome(fit.run) == expected
    assert fit.strays() == []


@pytest.mark.timeout(600)
def test_killed_terminated_and_interrupted_twice_it_ends_the_same(make, undisturbed, tmp_path):
    fit = make(tmp_path / "a run, süß")
    assert disturb(fit, "search", 0.4, KILL).code == -9
    ended = disturb(fit, "train", 0.1, TERM)
    assert ended.code == 143, ended.err
    assert "the same command goes on from here" in ended.err
    assert "Traceback" not in ended.err
    assert fit.strays() == []
    assert (
        "interrupted" in (fit.run / "stopped.json").read_text()
        or "terminated" in (fit.run / "stopped.json").read_text()
    )
    assert (fit.run / "report.html").exists()
    finished_the_same(fit, undisturbed("whole"))


@pytest.mark.timeout(600)
def test_a_second_fit_is_refused_by_the_firsts_number(make, tmp_path):
    fit = make(tmp_path / "run")
    first = fit.start()
    assert first.until("search")
    first.send(signal.SIGSTOP)  # it may not be done before the second one has begun
    second = fit.finish()
    first.send(INTERRUPT)
    first.send(signal.SIGCONT)
    assert second.code == 1
    assert f"is in use by process {first.process.pid} on" in second.err
    assert second.err.count("\n") == 1
    assert first.ended().code in CODES[INTERRUPT]
    assert fit.strays() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("route", sorted(ROUTES))
@pytest.mark.parametrize("turn", range(PASSES))
def test_disturbed_in_every_stage_it_ends_the_same(make, undisturbed, tmp_path, route, turn):
    chance = random.Random(f"{SEED} {route} {turn}")
    fit = make(tmp_path / "run", route)
    hit = {}
    for stage in ROUTES[route][1][:-1]:
        how = (KILL, TERM)[turn % 2] if chance.random() < 0.7 else (KILL, TERM, INTERRUPT)[chance.randrange(3)]
        ended = disturb(fit, stage, chance.uniform(0, LONGEST_DELAY_S), how)
        assert ended.code in CODES[how] | {0}, ended.err
        assert "Traceback" not in ended.err
        if how is not KILL:
            assert fit.strays() == []
        hit[stage] = ended.code != 0
        if ended.code == 0:
            break
    print(f"{route}, pass {turn}: {sum(hit.values())} of {len(hit)} hit")
    finished_the_same(fit, undisturbed(route))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", ["screen", "search", "train", "export", "measure"])
def test_ctrl_c_twice_leaves_nothing_behind(make, undisturbed, tmp_path, stage):
    fit = make(tmp_path / "run")
    started = fit.start()
    assert started.until(stage)
    started.send(INTERRUPT)
    time.sleep(0.3)
    if started.process.poll() is None:
        started.send(INTERRUPT)
    ended = started.ended()
    assert ended.code in (130, 0), ended.err
    assert "Traceback" not in ended.err
    assert fit.strays() == []
    finished_the_same(fit, undisturbed("whole"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("megabytes", [1, 2, 4])
def test_a_full_disk_is_one_message_and_room_makes_it_go_on(make, undisturbed, tmp_path, megabytes):
    """The run folder on a small disk (tmpfs in a mount space of its own), which then grows."""
    fit = make(tmp_path / "disk" / "run")
    copy = tmp_path / "copy"
    done = on_its_own_disk(fit, f"{megabytes}m", copy, '"$@"; echo "code $?" >&2; mount -o remount,size=400m "$disk"')
    assert "code 1" in done.stderr, "the first try must meet the full disk"
    assert "free some space" in done.stderr or "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert outcome(copy) == undisturbed("whole")
    assert not [path for path in copy.rglob("*") if path.name.endswith(".part")]


def on_its_own_disk(fit: Fit, size: str, copy: Path, before: str) -> subprocess.CompletedProcess[str]:
    """The command with its run folder on a disk (tmpfs) in a mount space of its own.

    Args:
        before: lines of shell that come first; ``"$@"`` is the command, ``$disk`` the disk.
        copy: where the run folder goes afterwards, when the command has ended well.
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: apt-get install util-linux")
    fit.run.parent.mkdir()
    script = (
        'set -u; disk=$1; copy=$2; size=$3; shift 3; mount -t tmpfs -o size=$size tmpfs "$disk" || exit 77\n'
        f'{before}\n"$@" || exit $?; cp -r "$disk/run" "$copy"'
    )
    unshared = ["unshare", "-m", "bash", "-c", script, "sh", str(fit.run.parent), str(copy), size]
    done = subprocess.run(
        [*unshared, *fit.command()], env=fit.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no disk of its own may be mounted here: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_read_only_run_folder_is_one_message_and_loses_nothing(make, undisturbed, tmp_path):
    """On a disk that is read-only before the run begins, and again when it is half done."""
    half = make(tmp_path / "half")
    assert disturb(half, "train", 0.3, KILL).code == -9
    copy = tmp_path / "copy"
    done = on_its_own_disk(
        make(tmp_path / "disk" / "run"), "400m", copy,
        'mount -o remount,ro "$disk"; "$@"; echo "code $?" >&2; mount -o remount,rw "$disk"\n'
        f'cp -r "{half.run}" "$disk/run"; mount -o remount,ro "$disk"; "$@"; echo "code $?" >&2\n'
        'mount -o remount,rw "$disk"',
    )  # fmt: skip
    said = done.stderr.splitlines()
    assert said.count("code 1") == 2, done.stderr
    assert [line for line in said if line.startswith("catchweight: ")] == said[0:3:2], "one line each time"
    assert all("Read-only file system" in line for line in said[0:3:2])
    assert outcome(copy) == undisturbed("whole")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is only measured on Linux")
def test_a_helper_killed_for_memory_is_told_and_the_same_command_goes_on(make, undisturbed, tmp_path):
    fit = make(tmp_path / "run")
    fit.budget += ", memory<=64GB"
    started = fit.start()
    kill_a_helper(started, "memory_child.py")
    ended = started.ended()
    assert ended.code == 1, ended.err
    assert "was killed (SIGKILL)" in ended.err
    assert "Traceback" not in ended.err
    assert fit.strays() == []
    finished_the_same(fit, undisturbed("whole"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("harm", ["deleted", "corrupted"])
def test_a_data_file_harmed_in_the_middle_is_named_and_its_return_heals(scenes, make, undisturbed, tmp_path, harm):
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    fit = make(tmp_path / "run", data=copy)
    started = fit.start()
    assert started.until("screen")
    image = sorted((copy / "images" / "train").iterdir())[2]
    kept = shutil.copy2(image, tmp_path / "kept")
    image.unlink()
    if harm == "corrupted":
        image.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    ended = started.ended()
    assert ended.code in (0, 1), "pictures that are decoded already are not asked for again"
    if ended.code:
        assert image.name in ended.err
    assert "Traceback" not in ended.err
    image.unlink(missing_ok=True)
    shutil.copy2(kept, image)
    finished_the_same(fit, undisturbed("whole"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("when", [0.0, 5e9])
def test_a_clock_that_jumped_does_no_harm(make, undisturbed, tmp_path, when):
    """What the folder says of time is of 1970 or of 2128 when the run goes on."""
    fit = make(tmp_path / "run")
    assert disturb(fit, "train", 0.3, KILL).code == -9
    for path in [fit.run / "run.json", *(fit.run / "stages").glob("*.json")]:
        known = json.loads(path.read_text(encoding="utf-8"))
        known |= {key: when for key in ("created", "finished") if key in known}
        path.write_text(json.dumps(known), encoding="utf-8")
    for path in fit.run.rglob("*"):
        os.utime(path, (when, when))
    finished_the_same(fit, undisturbed("whole"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's rlimit")
def test_out_of_memory_is_no_half_result(make, undisturbed, tmp_path):
    """The whole process may not take more address space than its libraries need, and is then let go on."""
    fit = make(tmp_path / "run")
    limited = ["bash", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *fit.command()]
    done = subprocess.run(limited, env=fit.environment(), capture_output=True, text=True, check=False)
    print(f"with 6 GB of addresses it ended with {done.returncode}")
    assert [path for path in fit.strays() if path.startswith("process")] == []
    finished_the_same(fit, undisturbed("whole"))
