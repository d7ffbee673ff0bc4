"""The tests that are marked `gpu`: how many passed, and every one that did not."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import List, Union

import pytest
import torch

from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows, Skipped, one_line

TESTS = Path(__file__).parents[1]

Report = Union[pytest.TestReport, pytest.CollectReport]  # of a test, or of a file's import


class _Outcomes:
    """A plugin of pytest that keeps the report of each test."""

    def __init__(self) -> None:
        self.reports: List[Report] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.reports.append(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            print(report.nodeid, report.outcome, file=sys.stderr, flush=True)
            self.reports.append(report)

    def of(self, outcome: str) -> List[Report]:
        return [report for report in self.reports if report.outcome == outcome]


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """Run them in this process; only the files that have some are imported."""
    files = [f for f in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in f.read_text("utf-8")]
    outcomes = _Outcomes()
    with rows.row("tests marked gpu") as figures:
        start = time.monotonic()
        # the warnings of other versions of PyTorch are not what these tests are about
        options = ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "-rs", "--tb=short"]
        options.append("--continue-on-collection-errors")
        pytest.main([*options, *map(str, files)], plugins=[outcomes])
        for outcome in ("passed", "failed", "skipped"):
            figures[outcome] = len(outcomes.of(outcome))
        figures["seconds"] = time.monotonic() - start
        assert not outcomes.of("failed"), "the rows below name the tests that failed"
        assert outcomes.reports, "pytest found no test that is marked gpu"
        if device.type == "cpu":
            raise Skipped("they need a GPU")
    for report in outcomes.of("failed"):
        with rows.row(_name(report)):
            reason = str(report.longreprtext).strip().splitlines()[-1]
            raise AssertionError(one_line(reason))
    if device.type == "cuda":
        for report in outcomes.of("skipped"):
            with rows.row(_name(report)):
                where = report.longrepr  # (file, line, reason) of a test that was skipped
                raise Skipped(one_line(str(where[2] if isinstance(where, tuple) else where)))


def _name(report: Report) -> str:
    return report.nodeid.split("::", 1)[-1]
