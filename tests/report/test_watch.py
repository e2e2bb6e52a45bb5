"""Watching a run: what the server tells, what it refuses, that it ends, and that the page follows the run."""

from __future__ import annotations

import html
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from finished_run import make_run
from headless_chrome import Chrome, needs_chromium

from catchweight.errors import CatchweightError
from catchweight.files import write_text
from catchweight.report.watch import FRESH_S, remaining, serving, status_line
from catchweight.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def address(run):
    with serving(run) as found:
        yield found


def ask(address: str, path: str, host: str | None = None, method: str = "GET", **headers: str):
    """(status, headers, body) of one request, its path sent as it stands."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", place.netloc if host is None else host)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_the_state_is_that_of_the_run(address):
    status, headers, body = ask(address, "/state.json")
    state = json.loads(body)
    assert status == 200
    assert state["state"] == "finished"
    assert set(state["figures"]) == {"history", "score", "loss"}
    assert state["first"] in state["interactive"]["cards"]
    assert ["best so far", "0.6000"] in state["facts"]
    assert ask(address, "/state.json", If_None_Match=headers["ETag"])[0] == 304


@pytest.mark.parametrize(
    "path",
    ["/run.json", "/../run.json", "/%2e%2e/run.json", "/..%2f..%2fetc/passwd", "//etc/passwd",
     "/state.json/../run.json", "/state.json?x=1", "/front.json", "/\\..\\run.json", "/./state.json", "*",
     "/stages/measure.json", "/%00"],
)  # fmt: skip
def test_no_path_leads_to_a_file(address, path):
    status, _, body = ask(address, path)
    assert status == 404
    assert body == b"there is nothing here\n"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example"]
)
def test_another_host_name_is_refused(address, host):
    for path in ("/", "/state.json"):
        assert ask(address, path, host=host)[0] == 403


def test_localhost_is_this_machine(address):
    assert ask(address, "/", host=f"localhost:{urlsplit(address).port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_is_read_only(address, method):
    assert ask(address, "/state.json", method=method)[0] == 501


def test_it_listens_on_the_loopback_address_alone(address):
    port = urlsplit(address).port
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for other in (name for name in others if not name.startswith("127.")):
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2).close()
    assert urlsplit(address).hostname == "127.0.0.1"


def test_the_page_may_load_nothing_from_elsewhere(address):
    _, headers, body = ask(address, "/")
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; script-src"
        in html.unescape(body.decode())
    )
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"


def test_a_taken_port_is_an_error_that_says_so(run, address):
    with pytest.raises(CatchweightError, match="choose another --port"), serving(run, urlsplit(address).port):
        pass


def test_watching_writes_nothing(run, address):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    time.sleep(FRESH_S)
    ask(address, "/state.json")
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_a_run_that_has_only_begun_can_be_watched(tmp_path):
    begun = Run(tmp_path / "r", {"data": "d", "budget": "latency<=1ms", "target": "onnxruntime:cpu"})
    with serving(begun) as address:
        state = json.loads(ask(address, "/state.json")[2])
    assert state["state"] == "stopped"
    assert state["interactive"] == {}
    assert status_line(begun) == "stopped, nothing done, no score yet"


def test_a_file_that_is_damaged_while_it_is_watched_keeps_the_page_as_it_was(tmp_path):
    begun = Run(tmp_path / "r", {"data": "d", "budget": "latency<=1ms", "target": "onnxruntime:cpu"})
    with serving(begun) as address:
        before = json.loads(ask(address, "/state.json")[2])
        write_text(begun.path("stages", "screen.json"), '{"result": {"allowed": [3]}}')
        time.sleep(FRESH_S)
        status, _, body = ask(address, "/state.json")
        assert (status, json.loads(body)) == (200, before)


def test_the_time_left_is_that_of_the_last_plan(tmp_path):
    planned = Run(tmp_path / "r", {"data": "d", "budget": "latency<=1ms", "target": "onnxruntime:cpu"})
    planned.stage("supernet-plan", lambda: {"epochs": 60, "epoch_seconds": 60.0})
    assert 3500 < (remaining(planned) or 0) <= 3600
    planned.stage("plan", lambda: {"minutes": 120.0})
    assert 7100 < (remaining(planned) or 0) <= 7200


def test_ctrl_c_ends_it_cleanly(run):
    code = "from catchweight.cli import entry; entry()"
    command = [sys.executable, "-u", "-c", code, "watch", str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "http://127.0.0.1:" in first
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "no longer watching" in out
    assert err == ""


@needs_chromium
def test_the_page_follows_the_run(run, address, tmp_path):
    log = run.path("train", "metrics.csv")
    before = log.read_text(encoding="utf-8")
    with Chrome(tmp_path / "profile") as chrome:
        chrome.window(390)
        chrome.open(address)
        chrome.until("document.querySelectorAll('#front-plot .point').length > 0")
        chrome.until("document.querySelector('#score svg') !== null")
        assert "epoch 4" in chrome.value("document.querySelector('#score svg').getAttribute('aria-label')")
        write_text(log, before + "5,0.02,0.4,0.99,0.99\n")
        chrome.until("document.querySelector('#score svg').getAttribute('aria-label').includes('0.990 at epoch 5')", 30)
        assert chrome.value("document.documentElement.scrollWidth") <= 390
        assert {r for r in chrome.requests if not r.startswith("data:")} == {address, f"{address}state.json"}
        assert chrome.complaints == []
    write_text(log, before)
