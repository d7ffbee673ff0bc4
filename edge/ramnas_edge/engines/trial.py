"""An engine's name -> whether it works on this machine, tried in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

_TRY = """
import sys
from ramnas_edge.engines import backends
from ramnas_models.errors import BackendError
try:
    print(backends.probe(sys.argv[1]).version)
except BackendError as error:
    print(error)
    sys.exit(3)
"""


class Trial(msgspec.Struct, frozen=True):
    """Whether an engine ran a small network here; `says` is its version or what went wrong."""

    name: str
    works: bool
    says: str


def try_engine(name: str, code: str = _TRY) -> Trial:
    """Run a small network on the engine in a subprocess, so that a library may crash there.

    A crash is reported like any other failure. `code` is the program of the subprocess: it prints
    the version, or prints why the engine does not work and exits with 3.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Trial(name, False, "did not answer within 300 s")
    lines = ran.stdout.strip().splitlines()
    if ran.returncode < 0:
        return Trial(name, False, f"crashed its process ({signal.Signals(-ran.returncode).name})")
    if ran.returncode == 0 and lines:
        return Trial(name, True, lines[-1])
    if ran.returncode == 3:
        return Trial(name, False, " ".join(lines).replace(f"engine {name}: ", "", 1))
    last = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
    return Trial(name, False, last[-1])
