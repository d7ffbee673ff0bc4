"""One demo run, whole and real, that the tests of the host read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo run made by the command that people use."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_host", "demo", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    (out / "stdout.txt").write_text(ran.stdout)
    return out


@pytest.fixture(scope="session")
def summary(demo: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((demo / "summary.json").read_bytes())
    return content


@pytest.fixture(scope="session")
def supernet_file(demo: Path) -> Path:
    """The supernet that the demo trained."""
    return demo / "train/supernet.safetensors"
