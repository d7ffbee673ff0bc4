"""One demo run, made by the command that people use, for the tests of the host to read.

It is the small demo, of about a minute. `make test-demo` gives the same tests the whole one, which
`make demo` left in runs/demo, by RAMNAS_DEMO.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo run."""
    if "RAMNAS_DEMO" in os.environ:
        return Path(os.environ["RAMNAS_DEMO"])  # as it was given to the demo
    out = tmp_path_factory.mktemp("runs") / "demo"
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_host", "demo", "--small", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # two threads that wait for each other lose much time where other processes are busy
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    return out


@pytest.fixture(scope="session")
def summary(demo: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((demo / "summary.json").read_bytes())
    return content


@pytest.fixture(scope="session")
def whole_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of a whole demo, for what only a whole training and search can promise."""
    if "RAMNAS_DEMO" not in os.environ:
        pytest.skip("needs a whole demo: make test-demo")
    return summary


@pytest.fixture(scope="session")
def supernet_file(demo: Path) -> Path:
    """The supernet that the demo trained."""
    return demo / "train/supernet.safetensors"
