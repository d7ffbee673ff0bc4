"""`profile` on the emulated Jetson with the real jtop service, when things go wrong."""

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

# Measures two archs in one block, which takes about an eighth of a second per round, and prints
# which part of the block is done. Sensors are read ten times a second, so that a short block has
# samples enough. While the file `hold` exists, waits until jtop is no longer the source.
PROFILE = """
import logging, sys, time
from pathlib import Path
import msgspec
import numpy as np
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.measuring import local, supervisor
from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

if __name__ == "__main__":
    store, hold, rounds, sustained_s = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    rounds = int(rounds)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    telemetry = Telemetry.open(interval_s=0.1)
    Telemetry.open = lambda: telemetry
    supervisor.IDLE_S, supervisor.SUSTAINED_S, supervisor.CALM_S = 1.0, float(sustained_s), 0.5
    make = Request.block
    Request.block = lambda *args: msgspec.structs.replace(
        make(*args), timed_ms=20.0, most_rounds=rounds
    )

    def show(progress):
        print(progress.inside / 2, flush=True)
        while hold.exists() and telemetry.source.startswith("jtop"):
            telemetry.poll()
            time.sleep(0.02)

    space = load_space("micro")
    archs = sample_by_macs(space, np.random.default_rng(0), 2)
    request = Request("run", space, Target(num_classes=10), archs, rounds=rounds)
    local.profile(request, Store(store), on_progress=show)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[EmulatedJetson]:
    with EmulatedJetson(tmp_path / "board") as board:
        board.set(cpu_mhz=2201.6)
        yield board


class Profile:
    """The script above, running on the board; a context manager."""

    def __init__(
        self, board: EmulatedJetson, folder: Path, rounds: int, sustained_s: float = 0.0
    ) -> None:
        self.store, self.hold = folder / "records.sqlite", folder / "hold"
        self._log = folder / "log"
        script = folder / "profile.py"  # a file, because its child process imports it
        script.write_text(PROFILE)
        arguments = map(str, (script, self.store, self.hold, rounds, sustained_s))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*board.inside, sys.executable, *arguments],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdout is not None
        self._process.kill()  # if a test has failed
        self._process.wait()
        self._process.stdout.close()

    def until(self, share: float) -> None:
        """Wait until that part of the block is done."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if float(line) >= share:
                return
        pytest.fail(f"it ended before {share:.0%} of the block: {self._log.read_text()}")

    def until_logged(self, what: str) -> None:
        while what not in self._log.read_text():  # it may print nothing while it waits
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)

    def records(self) -> tuple[list[LatencyRecord], list[str]]:
        """Wait for the end; the two records, and the lines of the log."""
        assert self._process.stdout is not None
        self._process.stdout.read()
        assert self._process.wait() == 0, self._log.read_text()
        store = Store(self.store)
        found = store.records("run")
        store.close()
        assert len(found) == 2
        return found, self._log.read_text().splitlines()


def test_records_hold_what_jtop_showed_and_the_energy_of_an_inference(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    with Profile(board, tmp_path, rounds=16, sustained_s=1.0) as running:
        running.until(0.01)
        board.set(gpu_rail_ma=1160)  # 1 A more at 19 V than at rest
        records, _ = running.records()
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


def test_throttled_archs_are_measured_again_after_the_throttle(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    with Profile(board, tmp_path, rounds=24) as running:
        running.until(0.5)
        board.set(temperature_c=97, cpu_mhz=729.6)
        running.until_logged("again: throttled")
        board.set(temperature_c=42, cpu_mhz=2201.6)
        records, log = running.records()
    assert len([line for line in log if "again: throttled" in line]) == 2
    for record in records:
        assert record.validity in (OK, INCONCLUSIVE)
        assert "throttled" not in record.reason
        assert record.conditions is not None
        assert record.conditions.clock_mhz["cpu"] == 2201.6
        assert max(record.conditions.temperature_c.values()) < 97


def test_a_dying_service_costs_one_warning_and_no_record(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    with Profile(board, tmp_path, rounds=8) as running:
        running.until(0.1)
        running.hold.touch()
        board.signal_service(signal.SIGKILL)
        records, log = running.records()
    assert len([line for line in log if line.startswith("WARNING")]) == 1, log
    assert {r.conditions.source for r in records if r.conditions} == {"sysfs"}


def test_the_settings_of_the_board_are_put_back_after_sigterm(
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
