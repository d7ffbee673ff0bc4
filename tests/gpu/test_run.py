"""tests/gpu/run.sh works on a CPU, and keeps the other rows when a section fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.gpu.__main__ import TASKS, Task, _run

SCRIPT = Path(__file__).with_name("run.sh")


def test_on_a_cpu_the_quick_run_fills_the_table(tmp_path: Path) -> None:
    """It checks that the script works. That a row was too slow for its limit is no fault here."""
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [SCRIPT, "--quick", "--budget", "900"], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads((tmp_path / "table.json").read_bytes())
    assert {row["section"] for row in rows} == {task.section for task in TASKS}
    table = (tmp_path / "table.md").read_text()
    assert table in ran.stdout
    assert table.count("\n") == len(rows) + 2
    for row in rows:
        assert row["outcome"] in ("ok", "skipped", "unfinished")
        assert row["figures"] if row["outcome"] == "ok" else row["note"]
    compiled = [row["outcome"] for row in rows if row["section"] == "compiled step"]
    assert compiled == ["unfinished"]


def test_a_section_that_breaks_off_is_a_row_with_the_reason(tmp_path: Path) -> None:
    (row,) = _run(Task("broken", "not_there", 60.0), 60.0, tmp_path, quick=True)
    assert (row.section, row.outcome) == ("broken", "failed")
    assert "No module named 'tests.gpu.not_there'" in row.note


def test_without_time_left_a_section_says_so(tmp_path: Path) -> None:
    (row,) = _run(Task("late", "machine", 60.0), -1.0, tmp_path, quick=True)
    assert (row.outcome, row.note) == ("unfinished", "no time was left")
