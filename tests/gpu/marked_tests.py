"""The tests that are marked `gpu`: how many passed, and every one that did not."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import List

import pytest
import torch

from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows, Skipped, one_line

TESTS = Path(__file__).parents[1]


class _Outcomes:
    """A plugin of pytest that keeps the report of each test."""

    def __init__(self) -> None:
        self.reports: List[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            print(report.nodeid, report.outcome, file=sys.stderr, flush=True)
            self.reports.append(report)

    def of(self, outcome: str) -> List[pytest.TestReport]:
        return [report for report in self.reports if report.outcome == outcome]


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """Run them in this process; only the files that have some are imported."""
    files = [f for f in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in f.read_text("utf-8")]
    outcomes = _Outcomes()
    with rows.row("tests marked gpu") as figures:
        start = time.monotonic()
        # the warnings of other versions of PyTorch are not what these tests are about
        options = ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "-rs", "--tb=short"]
        code = pytest.main([*options, *map(str, files)], plugins=[outcomes])
        for outcome in ("passed", "failed", "skipped"):
            figures[outcome] = len(outcomes.of(outcome))
        figures["seconds"] = time.monotonic() - start
        assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), f"pytest ended: {code!r}"
        if device.type == "cpu":
            raise Skipped("they need a GPU")
        assert not outcomes.of("failed"), "the rows below name the tests that failed"
    for report in outcomes.of("failed"):
        with rows.row(_name(report)):
            reason = str(report.longreprtext).strip().splitlines()[-1]
            raise AssertionError(one_line(reason))
    if device.type == "cuda":
        for report in outcomes.of("skipped"):
            with rows.row(_name(report)):
                reason = report.longrepr
                raise Skipped(one_line(str(reason[2] if isinstance(reason, tuple) else reason)))


def _name(report: pytest.TestReport) -> str:
    return report.nodeid.split("::", 1)[-1]
