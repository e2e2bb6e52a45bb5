"""``catchweight fit`` in a process of its own, disturbed at a chosen moment, and what it left when it ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from catchweight.nets import load_network

WHOLE = (
    "search.strategy=whole", "search.networks=[timm/test_efficientnet+fpn]", "search.widths=[0.25, 0.125]",
    "search.scales=[1.0]", "train.epochs=3", "train.batch=4", "train.tensorboard=false", "train.accelerator=cpu",
)  # fmt: skip
WHOLE_STAGES = ("data", "screen", "plan", "search", "train", "export", "measure", "done")
ONE_SHOT = (
    "search.backbone=test_efficientnet", "search.scales=[1.0]", "search.profiled=10", "search.supernet_epochs=2",
    "search.evaluations=5", "train.epochs=3", "train.batch=4", "train.tensorboard=false", "train.accelerator=cpu",
)  # fmt: skip
ONE_SHOT_STAGES = ("data", "reach", "supernet", "teacher", "profile", "explore", *WHOLE_STAGES[1:])

ROUTES = {"whole": (WHOLE, WHOLE_STAGES), "one-shot": (ONE_SHOT, ONE_SHOT_STAGES)}
"""Settings of a run of seconds, and the words that its progress lines begin with."""

MARK = "CATCHWEIGHT_TEST_MARK"
"""Environment variable by which the processes of a test are found again."""
BUDGET = "latency<=10s"
PATIENCE_S = 900.0
"""A line or an end that takes longer never comes; machines may be slow, and measuring waits for its turn."""


@dataclass
class Ended:
    """How a process ended, and all it said."""

    code: int
    out: str
    err: str


@dataclass
class Fit:
    """The command, to be started as often as needed.

    Attributes:
        scenes: data set.
        run: run folder.
        settings: of ``--set``.
        cache: folder for what is shared between runs (latency tables).
        budget: upper limits.
    """

    scenes: Path
    run: Path
    settings: tuple[str, ...]
    cache: Path
    budget: str = BUDGET
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def command(self) -> list[str]:
        code = "from catchweight.cli import entry; entry()"
        chosen = [word for setting in self.settings for word in ("--set", setting)]
        wanted = ["--budget", self.budget, "--run", str(self.run), "--threads", "1", "--weights", "none", *chosen]
        return [sys.executable, "-u", "-c", code, "fit", str(self.scenes), *wanted]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {MARK: self.mark, "CATCHWEIGHT_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}

    def start(self) -> Started:
        return Started(subprocess.Popen(
            self.command(), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip

    def finish(self) -> Ended:
        """Run to the end, undisturbed."""
        return self.start().ended()

    def strays(self) -> list[str]:
        """Processes of this command that still live, and files that a writer left aside."""
        alive = [
            f"process {p.pid}: {' '.join(p.cmdline())[:80]}" for p in psutil.process_iter() if _marked(p, self.mark)
        ]
        files = [str(path) for path in self.run.rglob("*") if path.name.endswith(".part") or path.name == "run.lock"]
        return alive + files


class Started:
    """A process under way; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._out: list[str] = []
        self._err: list[str] = []
        self._threads = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._out.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self._err.extend(self.process.stderr)

    def until(self, stage: str) -> bool:
        """Wait for the first line of a stage; False if the process ended without one."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                line = self._lines.get(timeout=1.0)
            except queue.Empty:
                continue
            if line is None:
                return False
            if _stage_of(line) == stage:
                return True
        self.process.kill()  # nothing of a test may outlive it
        raise TimeoutError(f"no line of {stage}: {''.join(self._out)}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = PATIENCE_S) -> Ended:
        """Wait for the end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self._threads:
            thread.join()
        return Ended(code, "".join(self._out), "".join(self._err))


def kill_a_helper(started: Started, script: str) -> None:
    """SIGKILL, as the system sends it when memory is short, to the first process of a command that runs ``script``."""
    parent, end = psutil.Process(started.process.pid), time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(word.endswith(script) for word in child.cmdline()):
                    child.kill()
                    return
        time.sleep(0.02)
    started.process.kill()
    raise TimeoutError(f"{script} was never begun")


def _stage_of(line: str) -> str:
    """``  0:05 search: ...`` is of ``search``."""
    return line.partition(":")[2].lstrip("0123456789 ").partition(":")[0].strip()


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same however often the run was disturbed: all but the times of this machine."""
    front = json.loads((run / "front.json").read_text(encoding="utf-8"))
    return {
        "front": sorted(json.dumps(_timeless(candidate), sort_keys=True) for candidate in front["candidates"]),
        "weights": weights_hash(run / "model.pt"),
    }


def _timeless(candidate: dict[str, Any]) -> dict[str, Any]:
    """A candidate without what was measured: latency, whether that put it on the front, and memory."""
    cost = {name: value for name, value in candidate["cost"].items() if name not in ("latency_ms", "memory_bytes")}
    return {"arch": candidate["arch"], "score": candidate["score"], "epochs": candidate["epochs"], "cost": cost}


def weights_hash(path: Path) -> str:
    """Of all tensors of a network's file, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_network(path)[0].state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def disturb(fit: Fit, stage: str, delay: float, how: signal.Signals) -> Ended:
    """Start, wait for a stage and then some, and send a signal; ended when this returns."""
    started = fit.start()
    if started.until(stage):
        time.sleep(delay)
        if started.process.poll() is None:
            started.send(how)
    return started.ended()
