"""`ramnas` for tests: in this process, where a process of its own would prove nothing more."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ramnas_host.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def ramnas(*argv: str | Path) -> Ran:
    """Run `ramnas` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main.main([str(word) for word in argv])
        except SystemExit as exited:  # argparse ends so after wrong arguments
            code = int(exited.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def refused(ran: Ran, message: str) -> None:
    """Assert that the command ended with code 2 and one line of error that holds `message`."""
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
