"""A run as it goes on: a small page on this machine alone, which asks for what is new every few seconds.

The server listens on the loopback address, answers GET for three fixed addresses and knows no others, so that no path
leads to a file. A request whose Host header names another machine is refused: a page on the internet could otherwise
have its own name resolve to this address and read along (DNS rebinding).
"""

from __future__ import annotations

import csv
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CatchweightError
from ..front import Candidate
from ..run import Run, summarise
from . import plots
from .front_plot import candidate_key, candidate_name
from .history import front_so_far, search_history
from .html import duration, interactive, render

LOOPBACK = "127.0.0.1"
FRESH_S = 1.0
"""A state is read from the folder at most once in so many seconds, however many pages ask."""


def run_state(run: Run) -> dict[str, Any]:
    """What the page shows of a run now, as plain JSON values; figures are SVG that matplotlib wrote."""
    front = front_so_far(run)
    summary = summarise(run.folder)
    best = front.best(run.budgets[-1]) or front.best()
    training, history = latest_training(run)
    evaluations = search_history(run)
    figures = {"history": plots.search_history(evaluations)} if evaluations else {}
    if history:
        figures |= {"score": plots.score_curve(history), "loss": plots.loss_curve(history)}
    return {
        "state": summary.state,
        "title": f"{Path(run.request['data']).name}: {summary.budget}",
        "facts": _facts(run, summary.state, best, summary.score),
        "interactive": interactive(front, run.budgets, {}),
        "first": candidate_key(best) if best else "",
        "training": training,
        "figures": figures,
    }


def status_line(run: Run) -> str:
    """Stage, time left and best so far, in a line for the terminal."""
    summary = summarise(run.folder)
    best = f"best so far {summary.score:.3f}" if summary.score is not None else "no score yet"
    left = remaining(run) if summary.state == "running" else None
    parts = [summary.state, f"{summary.stage or 'nothing'} done", best, f"about {duration(left)} left" if left else "",
             summary.reason]  # fmt: skip
    return ", ".join(part for part in parts if part)


def remaining(run: Run) -> float | None:
    """Seconds until the planned training ends, by the stage that planned it last; ``None`` if nothing is planned."""
    ends = []
    for stage, seconds in (("supernet-plan", _supernet_seconds), ("plan", _plan_seconds)):
        for holder in (run, *run.points):
            if (planned := holder.result(stage)) is not None:
                ends.append(_finished(holder, stage) + seconds(planned))
    left = max(ends, default=0.0) - time.time()
    return left if left > 0 else None


def _plan_seconds(plan: dict[str, Any]) -> float:
    return 60.0 * float(plan.get("minutes", 0.0))


def _supernet_seconds(plan: dict[str, Any]) -> float:
    return float(plan.get("epochs", 0.0)) * float(plan.get("epoch_seconds", 0.0))


def _finished(run: Run, stage: str) -> float:
    return float(json.loads(run.path("stages", f"{stage}.json").read_text(encoding="utf-8"))["finished"])


def latest_training(run: Run) -> tuple[str, list[dict[str, Any]]]:
    """Name and epochs of the training that was last heard of."""
    logs = sorted(run.folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return "", []
    with logs[-1].open(newline="", encoding="utf-8") as file:
        rows = [{k: float(v) if v else None for k, v in row.items() if k} for row in csv.DictReader(file)]
    return logs[-1].parent.relative_to(run.folder).as_posix(), rows


def _facts(run: Run, state: str, best: Candidate | None, score: float | None) -> list[tuple[str, str]]:
    done = run.stages()
    left = remaining(run) if state == "running" else None
    facts = [
        ("state", state),
        ("target", str(run.request["target"])),
        ("stages done", ", ".join(done) or "none"),
        ("planned training ends in", duration(left)),
        ("best so far", f"{score:.4f}" if score is not None else "–"),
    ]
    if best is not None:
        facts.append(("its network", candidate_name(best.arch)))
    if run.stopped:
        facts.append(("stopped", run.stopped))
    return facts


class Watched:
    """A run's state as JSON bytes with an ETag, read anew only when it is a second old."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._made, self._body, self._tag = 0.0, b"{}", ""

    def state(self) -> tuple[bytes, str]:
        """What a page is told: the JSON and its tag. A file caught in the middle of a change keeps the older state."""
        with self._lock:
            if time.monotonic() - self._made >= FRESH_S:
                try:
                    self._body = json.dumps(run_state(self.run)).encode()
                except (CatchweightError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
                    if not self._made:
                        self._body = json.dumps({"state": "unreadable", "facts": [("error", str(error))]}).encode()
                self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:16]}"'
                self._made = time.monotonic()
            return self._body, self._tag


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    watched: Watched
    page: bytes


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = f"catchweight/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        if self.headers.get("Host") not in self._hosts():
            self._answer(403, b"this page is for this machine alone\n", "text/plain")
        elif self.path == "/":
            self._answer(200, self.server.page, "text/html; charset=utf-8")
        elif self.path == "/state.json":
            body, tag = self.server.watched.state()
            same = self.headers.get("If-None-Match") == tag
            self._answer(304 if same else 200, b"" if same else body, "application/json", {"ETag": tag})
        else:
            self._answer(404, b"there is nothing here\n", "text/plain")

    def _hosts(self) -> set[str]:
        port = self.server.server_address[1]
        return {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    def _answer(self, code: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the run."""


@contextmanager
def serving(run: Run, port: int = 0) -> Iterator[str]:
    """Serve the page of a run until the block ends; yields its address.

    Args:
        run: its folder is only read.
        port: on the loopback address; 0 for a free one.

    Raises:
        CatchweightError: the port is taken.
    """
    try:
        server = _Server((LOOPBACK, port), _Handler)
    except OSError as error:
        raise CatchweightError(
            f"cannot listen on port {port}: {error.strerror}; choose another --port, or 0 for a free one"
        ) from error
    server.watched = Watched(run)
    server.page = render("watch.html", interactive={}, connect="connect-src 'self'; ").encode()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def watch(run: Run, port: int = 0, say: Callable[[str], None] = print, every_s: float = 5.0) -> None:
    """Serve the page, and say what has changed, until Ctrl-C."""
    with serving(run, port) as address:
        say(f"watching {run.folder} at {address} (Ctrl-C ends it; the run goes on)")
        told = ""
        try:
            while True:
                line = status_line(run)
                if line != told:
                    say(line)
                told = line
                time.sleep(every_s)
        except KeyboardInterrupt:
            say("no longer watching")
