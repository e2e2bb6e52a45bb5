"""Several real processes on one search, and processes that are killed in the middle of it."""

from __future__ import annotations

import getpass
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from search_problems import score, separable, work

from catchweight.search import Evolution, RandomSearch
from catchweight.search.blackbox.ledger import Ledger
from catchweight.search.blackbox.store import open_storage
from catchweight.search.blackbox.worker import Watch, at_work, beating, new_claim, place

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["catchweight.search"])  # imported once, before the workers are forked

WAIT_S = 250
"""Until a test gives up on a process; no test waits that long unless something is broken."""


class Workers:
    """Starts worker processes on one storage and knows what they have written."""

    def __init__(self, storage: str, log: Path) -> None:
        self.storage, self.log = storage, log
        self.running: list[multiprocessing.process.BaseProcess] = []

    def start(self, strategy: str, evaluations: int, seconds: float = 0.01, hang_at: int | None = None):
        arguments = (strategy, self.storage, evaluations, self.log, seconds, hang_at)
        process = CONTEXT.Process(target=work, args=arguments)
        process.start()
        self.running.append(process)
        return process

    def lines(self, kind: str, pid: int | None = None) -> list[str]:
        """Architectures that were begun or ended, in order."""
        text = self.log.read_text() if self.log.exists() else ""
        found = [line.split() for line in text.splitlines()]
        return [arch for what, arch, who in found if what == kind and pid in (None, int(who))]

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, "the worker processes do not get on"
            time.sleep(0.005)

    def kill(self, process) -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.join(WAIT_S)
        assert process.exitcode == -signal.SIGKILL

    def finish(self, process) -> None:
        process.join(WAIT_S)
        assert process.exitcode == 0

    def close(self) -> None:
        for process in self.running:
            if process.is_alive():
                process.kill()
            process.join(WAIT_S)


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture(params=["journal", "sqlite"])
def workers(request, tmp_path, log) -> Iterator[Workers]:
    path = tmp_path / "search.store"
    made = Workers(str(path) if request.param == "journal" else f"sqlite:///{path}", log)
    yield made
    made.close()


@pytest.mark.parametrize("strategy", ["evolution", "tpe"])
def test_a_killed_search_goes_on_and_ends_with_the_same_front(strategy, tmp_path, log):
    whole = work(strategy, str(tmp_path / "whole.journal"), 25, tmp_path / "whole.txt", 0.0)
    workers = Workers(str(tmp_path / "search.journal"), log)
    for stop in (1, 8, 17):
        process = workers.start(strategy, 25, seconds=0.02)
        workers.wait(lambda stop=stop: len(workers.lines("begin")) >= stop)
        workers.kill(process)
    resumed = work(strategy, workers.storage, 25, log, 0.0)
    workers.close()
    assert resumed == whole
    begun, ended = Counter(workers.lines("begin")), Counter(workers.lines("end"))
    # Killed after the end of an evaluation but before it was stored, a candidate is evaluated again.
    assert set(ended) == set(begun)
    assert len(begun) == 25
    assert sum(begun.values()) <= 25 + 3


def one_of_two_is_killed(workers: Workers, evaluations: int = 14) -> None:
    """A worker hangs in its third candidate and is killed; the other one does all the rest, that one too."""
    victim = workers.start("evolution", evaluations, hang_at=3)
    workers.wait(lambda: len(workers.lines("begin", victim.pid)) == 3)
    lost = workers.lines("begin", victim.pid)[-1]
    other = workers.start("evolution", evaluations)
    workers.wait(lambda: len(workers.lines("end", other.pid)) >= 2)
    workers.kill(victim)
    workers.finish(other)
    ended = Counter(workers.lines("end"))
    assert set(ended.values()) == {1}
    assert len(ended) == evaluations
    assert lost in workers.lines("end", other.pid)
    assert Counter(workers.lines("begin")) == ended + Counter([lost])
    front = work("evolution", workers.storage, evaluations, workers.log, 0.0)
    assert len(front.candidates) == evaluations
    assert Counter(workers.lines("end")) == ended, "nothing is evaluated once more"


def test_one_of_two_workers_is_killed(workers):
    one_of_two_is_killed(workers)


def test_workers_share_and_never_do_the_same(workers):
    team = [workers.start("random", 24, seconds=0.05) for _ in range(3)]
    for process in team:
        workers.finish(process)
    ended = Counter(workers.lines("end"))
    assert len(ended) == 24
    assert set(ended.values()) == {1}
    assert len([process for process in team if workers.lines("end", process.pid)]) > 1


def test_threads_of_one_process_share_and_never_do_the_same(tmp_path):
    evaluated: Counter = Counter()
    lines: list[str] = []

    def evaluate(arch):
        evaluated[arch] += 1
        time.sleep(0.02)
        return score(arch)

    def search() -> None:
        RandomSearch().search(separable(evaluate=evaluate, storage=tmp_path / "search.journal"), 20, lines.append)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(evaluated) == 20
    assert set(evaluated.values()) == {1}
    assert not [line for line in lines if "gone" in line or "too late" in line]


class KilledError(BaseException):
    """Ends a worker as a signal does: it gives nothing back."""


@pytest.fixture
def killed_elsewhere(monkeypatch, tmp_path) -> Path:
    """Journal of an evolution whose container was killed at its thirteenth candidate; the grace is half a second."""
    path, calls = tmp_path / "search.journal", iter(range(12))

    def evaluate(arch):
        if next(calls, None) is None:
            raise KilledError
        return score(arch)

    with monkeypatch.context() as before:
        before.setattr(Ledger, "abandon", lambda *_: None)
        before.setattr("catchweight.search.blackbox.worker.place", lambda: f"{place()} of the container before")
        with pytest.raises(KilledError):
            Evolution().search(separable(seed=5, evaluate=evaluate, storage=path), 30)
    monkeypatch.setattr("catchweight.search.blackbox.ledger.Watch", lambda: Watch(grace=0.5))
    return path


def test_a_search_in_a_container_that_was_started_again_ends_with_the_same_front(killed_elsewhere):
    lines: list[str] = []
    found = Evolution().search(separable(seed=5, storage=killed_elsewhere), 30, lines.append)
    assert found == Evolution().search(separable(seed=5), 30)
    assert "hold 1 of the candidates" in lines[0]
    assert "at most" in lines[0]
    assert "is gone" in lines[1]


def test_a_worker_elsewhere_that_gives_a_sign_of_life_is_not_waited_for(killed_elsewhere, monkeypatch):
    monkeypatch.setattr("catchweight.search.blackbox.ledger.Watch", lambda: Watch(grace=20))
    storage = open_storage(killed_elsewhere)
    (held,) = optuna.load_study(study_name="search", storage=storage).get_trials(
        states=(optuna.trial.TrialState.RUNNING,)
    )

    def beat(line: str) -> None:
        storage.set_trial_user_attr(held._trial_id, "beat", 1)

    def evaluate(arch):
        assert arch.to_json() != held.user_attrs["arch"], "it was waited for until it counted as gone"
        raise KilledError

    with pytest.raises(KilledError):
        Evolution().search(separable(seed=5, evaluate=evaluate, storage=killed_elsewhere), 30, beat)


def _server_tool(name: str) -> str | None:
    """A program of the PostgreSQL server; Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))


needs_postgres = pytest.mark.skipif(
    _server_tool("initdb") is None or _server_tool("postgres") is None or importlib.util.find_spec("psycopg") is None,
    reason="needs a PostgreSQL server (Debian: postgresql) and its Python driver (pip install psycopg[binary])",
)


def _unprivileged() -> dict[str, str]:
    """The server refuses to run as root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@pytest.fixture
def postgres(log) -> Iterator[Workers]:
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket has 107 bytes at most
    who = _unprivileged()
    try:
        if who:
            shutil.chown(folder, **who)
    except LookupError as error:
        folder.rmdir()
        pytest.skip(f"a PostgreSQL server does not run as root, and there is no user postgres here: {error}")
    user = who.get("user", getpass.getuser())
    run = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    made = [_server_tool("initdb"), "-D", folder / "data", "-A", "trust", "--no-sync"]
    done = subprocess.run(made, check=False, **(run | {"stderr": subprocess.PIPE}))
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"a PostgreSQL server cannot be set up here: {done.stderr.decode(errors='replace').strip()[:200]}")
    settings = [f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off"]
    options = [part for setting in settings for part in ("-c", setting)]
    server = subprocess.Popen([_server_tool("postgres"), "-D", folder / "data", *options], **run)
    made = Workers(f"postgresql+psycopg://{user}@/postgres?host={folder}", log)
    try:
        made.wait(lambda: next(folder.glob(".s.PGSQL.*[0-9]"), None) is not None)
        yield made
    finally:
        made.close()
        server.send_signal(signal.SIGQUIT)
        server.wait(WAIT_S)
        shutil.rmtree(folder, ignore_errors=True)


@needs_postgres
def test_one_of_two_workers_on_a_database_server_is_killed(postgres):
    one_of_two_is_killed(postgres)


def test_a_worker_elsewhere_is_gone_when_its_counter_stands_still():
    now = 0.0
    watch = Watch(grace=100, clock=lambda: now)
    claim = {**new_claim(), "place": "elsewhere/1"}
    assert not watch.lost(claim, 4)
    now = 90.0
    assert not watch.lost(claim, 5)
    now = 180.0
    assert not watch.lost(claim, 5)
    now = 191.0
    assert watch.lost(claim, 5)


def test_a_worker_here_is_asked_of_the_operating_system():
    claim = new_claim()
    assert Watch().lost(claim, 0), "this process does not work on it"
    with at_work(claim):
        assert not Watch().lost(claim, 0)
    with at_work(claim):
        assert Watch().lost({**claim, "born": "this boot/1"}, 0), "the number was given to another process"
        old = {name: value for name, value in claim.items() if name != "born"}  # as earlier versions stored it
        assert not Watch().lost(old, 0)
        assert Watch().lost({**old, "started": claim["started"] - 1000}, 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began, in ticks")
def test_a_worker_here_is_still_there_when_the_clock_was_set(monkeypatch):
    claim, told = new_claim(), psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: told(process) + 3)
    with at_work(claim):
        assert not Watch().lost(claim, 0)


def test_signs_of_life_come_during_an_evaluation_and_survive_a_failing_storage():
    counts: list[int] = []

    def beat(count: int) -> None:
        counts.append(count)
        if count == 2:
            raise OSError("no connection")

    with beating(beat, interval=0.002):
        end = time.monotonic() + WAIT_S
        while len(counts) < 4 and time.monotonic() < end:
            time.sleep(0.002)
    assert counts[:4] == [1, 2, 3, 4]
