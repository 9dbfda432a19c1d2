"""Where the `loradoctor` command and `python -m loradoctor` start: no failure ends in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report a program whose reader went away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Names in findings may not fit the terminal's encoding; an odd character beats no report.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        from loradoctor import cli

        code = cli.run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("loradoctor: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("LORADOCTOR_TRACEBACK"):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        shown = "".join(c if c.isprintable() else "?" for c in reason)
        print(f"loradoctor: internal error: {shown} (LORADOCTOR_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2
    return code


def entry() -> NoReturn:
    """Run the command line of this process and end it.

    Nothing is left to be done at that point: taking a syntax tree apart object by object would cost a lint run a sixth of
    its time.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
