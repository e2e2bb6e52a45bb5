"""The command line: parses, calls, prints. Every command is a function that Python can call as well."""

from __future__ import annotations

import os
import sys

from ..errors import CatchweightError

DEBUG = "--debug"


def main() -> None:
    """Entry point. Bad input ends with one message: exit code 2 for usage, 1 for failure; ``--debug`` shows where."""
    debug = DEBUG in sys.argv or bool(os.environ.get("CATCHWEIGHT_DEBUG"))
    sys.argv = [argument for argument in sys.argv if argument != DEBUG]
    from .app import app

    try:
        app()
    except CatchweightError as error:
        if debug:
            raise
        print(f"catchweight: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        if debug:
            raise
        print("\ncatchweight: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
