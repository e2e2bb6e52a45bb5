"""The command line: parses, calls, prints. Every command is a function that Python can call as well."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import CatchweightError

DEBUG = "--debug"


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends a command the way Ctrl-C does: tidied up, and to be gone on with."""


def entry() -> None:
    """What the shell calls: :func:`main`, after which a signal changes nothing any more, the exit code least of all."""
    try:
        main()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """The command of ``sys.argv``. Bad input ends with one message: exit code 2 for usage, 1 for failure; ``--debug``
    shows where."""
    debug = DEBUG in sys.argv or bool(os.environ.get("CATCHWEIGHT_DEBUG"))
    sys.argv = [argument for argument in sys.argv if argument != DEBUG]
    from .app import app

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _not_to_be_lost():
            app()
    except CatchweightError as error:
        if debug:
            raise
        print(f"catchweight: {_visible(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, SystemExit) as end:
        stop = _interruption(end)
        if debug or stop is None:
            raise
        print("\ncatchweight: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, TerminatedError) else 130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _not_to_be_lost() -> Iterator[None]:
    """Python drops an interruption that meets it in a destructor or a weak reference's callback; send it once more."""
    before = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            before(found)
            return
        number = signal.SIGTERM if isinstance(found.exc_value, TerminatedError) else signal.SIGINT
        # From another thread and a little later, when the callback is over.
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError("terminated")


def _visible(text: str) -> str:
    """A message as a terminal may show it: file names can hold characters that would steer it."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _interruption(end: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that ended the program; typer turns it into an exit code without a word."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end
