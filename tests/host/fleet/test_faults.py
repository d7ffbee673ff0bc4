"""A few of the faults of tests.studies.fleet_faults, in every run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studies import fleet_faults

pytestmark = pytest.mark.alone


def test_no_measurement_is_lost_doubled_or_changed(tmp_path: Path) -> None:
    outcome = fleet_faults.run(tmp_path, seed=7, faults=6, samples=60, arch_s=0.05)
    assert outcome.sound, outcome
    assert sum(outcome.faults.values()) >= 4, outcome
    assert outcome.jobs == 120
    assert outcome.measured >= 120
