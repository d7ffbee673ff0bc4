"""A small run of tests.studies.fleet_faults."""

from __future__ import annotations

from pathlib import Path

from tests.studies import fleet_faults


def test_no_measurement_is_lost_doubled_or_changed(tmp_path: Path) -> None:
    outcome = fleet_faults.run(tmp_path, seed=7, faults=6, samples=36, arch_s=0.05, hurry=3.0)
    assert outcome.sound, outcome
    assert sum(outcome.faults.values()) >= 4, outcome
    assert outcome.jobs == 72
    assert outcome.measured >= 72
