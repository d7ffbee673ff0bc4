"""A whole calibration on the emulated Jetson, under the real jtop service, when things go wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramnas_edge.measuring.record import INCONCLUSIVE, OK, LatencyRecord
from ramnas_edge.measuring.store import Store
from tests.edge.board.emulated_jetson import GPU, EmulatedJetson

pytestmark = pytest.mark.alone

# three archs in one long block; prints how much of it is done
PROFILE = """
import logging, sys
from pathlib import Path
import numpy as np
from ramnas_edge.measuring import local, supervisor
from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    supervisor.SUSTAINED_S = 3.0
    space = load_space("micro")
    archs = sample_by_macs(space, np.random.default_rng(0), 3)
    request = Request("run", space, Target(num_classes=10), archs, rounds=120)
    show = lambda progress: print(progress.inside / 3, flush=True)
    local.profile(request, Store(Path(sys.argv[1])), on_progress=show)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[EmulatedJetson]:
    with EmulatedJetson(tmp_path / "board") as board:
        board.set(cpu_mhz=2201.6)
        yield board


class Profile:
    """A calibration on the board; `until` waits for a share of its block."""

    def __init__(self, board: EmulatedJetson, folder: Path) -> None:
        self.store, self._said = folder / "records.sqlite", folder / "said"
        script = folder / "profile.py"  # a file: its child process imports it
        script.write_text(PROFILE)
        with self._said.open("w") as log:
            self._process = subprocess.Popen(
                [*board.inside, sys.executable, str(script), str(self.store)],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def until(self, share: float) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if float(line) >= share:
                return
        pytest.fail(f"ended before {share:.0%}: {self._said.read_text()}")

    def until_said(self, what: str) -> None:
        while what not in self._said.read_text():  # there may be no progress while it waits
            assert self._process.poll() is None, self._said.read_text()
            time.sleep(0.02)

    def records(self) -> tuple[list[LatencyRecord], list[str]]:
        """At its end: the records, and what was said."""
        assert self._process.stdout is not None
        self._process.stdout.read()
        self._process.stdout.close()
        assert self._process.wait() == 0, self._said.read_text()
        store = Store(self.store)
        found = store.records("run")
        store.close()
        return found, self._said.read_text().splitlines()


def test_records_say_what_jtop_saw_and_what_an_inference_costs(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    running = Profile(board, tmp_path)
    running.until(0.01)
    board.set(gpu_rail_ma=1160)  # 1 A more at 19 V than idle
    records, _ = running.records()
    assert len(records) == 3
    for record in records:
        assert record.device_class.startswith("nvidia-jetson-agx-orin-developer-kit_")
        assert "l4t-36.4_maxn" in record.device_class
        assert record.conditions is not None
        assert record.conditions.source.startswith("jtop ")
        assert record.conditions.power_mode == "MAXN"
        assert record.conditions.samples >= 3
        assert record.energy is not None
        assert record.energy.rail == "total"
        assert record.energy.loaded_mw - record.energy.idle_mw == pytest.approx(19_000, rel=0.02)
        assert record.sustained is not None
        each_s = record.sustained.seconds / record.sustained.runs
        assert record.energy.per_inference_mj == pytest.approx(19_000 * each_s, rel=0.02)


def test_a_throttle_marks_the_records_and_they_are_measured_after_it(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    running = Profile(board, tmp_path)
    running.until(0.5)
    board.set(temperature_c=97, cpu_mhz=729.6)
    running.until_said("again: throttled")
    board.set(temperature_c=42, cpu_mhz=2201.6)
    records, said = running.records()
    assert len(records) == 3
    assert len([line for line in said if "again: throttled" in line]) == 3
    for record in records:
        assert record.validity in (OK, INCONCLUSIVE)
        assert "throttled" not in record.reason
        assert record.conditions is not None
        assert record.conditions.clock_mhz["cpu"] == 2201.6
        assert max(record.conditions.temperature_c.values()) < 97


def test_the_service_dying_costs_one_warning_and_no_record(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    running = Profile(board, tmp_path)
    running.until(0.3)
    board.signal_service(signal.SIGKILL)
    records, said = running.records()
    assert len(records) == 3
    assert len([line for line in said if line.startswith("WARNING")]) == 1, said
    assert {r.conditions.source for r in records if r.conditions} == {"sysfs"}


def test_settings_that_were_asked_for_are_put_back_after_kill_term(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    command = [
        *board.inside, sys.executable, "-m", "ramnas_edge", "profile", "--space", "micro",
        "--samples", "12", "--store", str(tmp_path / "records.sqlite"),
        "--lock-clocks", "--power-mode", "MODE_50W",
    ]  # fmt: skip
    files = board.root / "var/lib/nvpmodel/status", board.root / GPU / "min_freq"

    def settings() -> list[str]:
        return [file.read_text().strip() for file in files]

    before = settings()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "board settings changed for now" in line:
                break
        assert settings() != before
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "board settings are as before" in rest
    assert settings() == before
