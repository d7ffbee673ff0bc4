"""ramnas reads the real jtop service (jetson-stats) on an emulated board."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Tuple

import msgspec
import pytest

from ramnas_edge.board.telemetry import Conditions, Sample, conditions, disturbance
from tests.edge.board.emulated_jetson import EmulatedJetson

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]

# polls like a measuring process, prints every sample with its source, and logs to stderr
WATCH = """
import logging, sys, time
import msgspec
from ramnas_edge.board.telemetry import Telemetry
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
with Telemetry.open(interval_s=0.1) as telemetry:
    seen = 0
    while True:
        samples = telemetry.between(0, time.monotonic())
        for sample in samples[seen:]:
            print(msgspec.json.encode((telemetry.source, sample)).decode(), flush=True)
        seen = len(samples)
        time.sleep(0.02)
"""
DEVICE = """
import msgspec
from ramnas_edge.board.device import this_device
print(msgspec.json.encode(this_device()).decode())
"""
SETTINGS = """
import logging, sys, time
from ramnas_edge.board.clocks import board_settings
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
with board_settings(lock_clocks="lock" in sys.argv, power_mode=sys.argv[1] or None):
    print("changed", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[EmulatedJetson]:
    with EmulatedJetson(tmp_path / "board") as board:
        yield board


class Watcher:
    """Runs a process on the board that watches the telemetry, and receives its samples."""

    def __init__(self, board: EmulatedJetson, log_file: Path) -> None:
        self._log_file = log_file
        with log_file.open("w") as log:
            self.process = subprocess.Popen(
                [*board.inside, sys.executable, "-c", WATCH],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.source = ""

    def next(self, count: int, source: str = "jtop") -> list[Sample]:
        """The next `count` samples that came from `source`."""
        assert self.process.stdout is not None
        found: list[Sample] = []
        while len(found) < count:
            line = self.process.stdout.readline()
            assert line, self._log_file.read_text()
            self.source, sample = msgspec.json.decode(line, type=Tuple[str, Sample])
            if self.source.startswith(source):
                found.append(sample)
            else:
                # only jtop may come before another source: it never comes back
                assert self.source.startswith("jtop"), self._log_file.read_text()
        return found

    def until(self, power_mode: str, clocks_locked: bool) -> None:
        """Skip the samples from before a change, which the service notices only after a while."""
        while True:
            (sample,) = self.next(1)
            if (sample.power_mode, sample.clocks_locked) == (power_mode, clocks_locked):
                return

    def log(self) -> list[str]:
        return self._log_file.read_text().splitlines()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def watcher(board: EmulatedJetson, tmp_path: Path) -> Iterator[Watcher]:
    with Watcher(board, tmp_path / "log") as watcher:
        yield watcher


def test_every_fact_of_the_board_is_that_of_a_jetson(board: EmulatedJetson) -> None:
    ran = subprocess.run(
        [*board.inside, sys.executable, "-c", DEVICE], capture_output=True, text=True, check=True
    )
    device = msgspec.json.decode(ran.stdout)
    assert device["module"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (device["system"], device["jetpack"]) == ("L4T 36.4", "6.2")
    assert (device["power_mode"], device["clocks_locked"]) == ("MAXN", False)


def test_samples_arrive_with_gpu_power_temperature_and_power_mode(
    board: EmulatedJetson, watcher: Watcher
) -> None:
    (before,) = watcher.next(1)
    assert before.temperature_c == {"cpu": 42, "gpu": 42.5, "tj": 43}
    assert before.clock_mhz == {"cpu": 1190.4, "gpu": 306, "emc": 3199}
    assert before.power_mw["total"] == sum(v for k, v in before.power_mw.items() if k != "total")
    assert before.power_mw["VDD_GPU_SOC"] == 3040
    assert (before.power_mode, before.clocks_locked, before.limits) == ("MAXN", False, ())
    assert before.memory_used_mib is not None
    board.set(gpu_load_percent=87, gpu_rail_ma=1000, gpu_mhz=1300.5)
    after = watcher.next(5)
    assert after[-1].load_percent["gpu"] == 87
    assert after[-1].clock_mhz["gpu"] == 1300.5
    assert after[-1].power_mw["VDD_GPU_SOC"] == 19000
    assert 0 <= after[-1].load_percent["cpu"] <= 100
    times = [before.time_s, *(sample.time_s for sample in after)]
    assert times == sorted(set(times))
    assert times[-1] <= time.monotonic()  # all processes of the board share one clock
    summed = conditions(after, watcher.source)
    assert isinstance(summed, Conditions)
    assert summed.source.startswith("jtop ")
    assert watcher.log() == []


@pytest.mark.parametrize("unit", ["cpu", "gpu"])
def test_a_throttle_on_the_board_is_reported(
    board: EmulatedJetson, watcher: Watcher, unit: str
) -> None:
    board.set(cpu_mhz=2201.6, gpu_mhz=1300.5, gpu_load_percent=95)
    watcher.next(5)
    before, steady = watcher.next(5), watcher.next(5)
    assert disturbance(steady, before, unit) == ""
    board.set(temperature_c=99, **{f"{unit}_mhz": 729.6})
    during = watcher.next(10)
    # the load of the cores is this machine's own, but only a busy board counts as throttled
    during, before = (
        [msgspec.structs.replace(s, load_percent={unit: 95.0}) for s in samples]
        for samples in (during, before)
    )
    reason = disturbance(during, before, unit)
    assert reason.startswith(f"throttled: the {unit} clock fell from")
    assert "to 730 MHz" in reason


def test_a_cooling_device_that_becomes_active_is_reported(
    board: EmulatedJetson, watcher: Watcher
) -> None:
    before = watcher.next(3)
    board.set(cpu_throttle_state=1)
    reason = disturbance(watcher.next(6), before, "cpu")
    assert reason == "throttled: cpu-throttle-alert became active"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_service_that_dies_or_hangs_gives_one_warning_and_sysfs_takes_over(
    board: EmulatedJetson, watcher: Watcher, number: int
) -> None:
    last = watcher.next(4)[-1]
    board.signal_service(number)
    later = watcher.next(8, source="sysfs")
    assert later[0].time_s > last.time_s
    assert later[-1].temperature_c["tj-thermal"] == 43
    assert later[-1].power_mode == "MAXN"
    (warning,) = watcher.log()
    assert "telemetry comes from sysfs, not from jtop" in warning
    assert ("no answer for 5 s" in warning) == (number == signal.SIGSTOP)


def test_a_service_that_only_repeats_its_last_answer_counts_as_hung(
    board: EmulatedJetson, watcher: Watcher
) -> None:
    """The service's process that answers stays alive while the one that reads the board hangs."""
    watcher.next(3)
    _, reads_the_board = _children(board.service)
    os.kill(reads_the_board, signal.SIGSTOP)
    assert len(watcher.next(3, source="sysfs")) == 3
    (warning,) = watcher.log()
    assert "no answer for 5 s" in warning


def test_without_the_service_the_kernels_files_are_read_from_the_start(
    board: EmulatedJetson, tmp_path: Path
) -> None:
    board.signal_service(signal.SIGKILL)  # its socket remains
    with Watcher(board, tmp_path / "log") as watcher:
        assert len(watcher.next(3, source="sysfs")) == 3
        (warning,) = watcher.log()
        assert "telemetry comes from sysfs, not from jtop" in warning


@pytest.mark.parametrize("hanging", [False, True])
def test_the_monitor_ends_with_the_process_that_reads_it(
    board: EmulatedJetson, tmp_path: Path, hanging: bool
) -> None:
    with Watcher(board, tmp_path / "log") as watcher:
        watcher.next(2)
        (monitor,) = _children(watcher.process.pid)
        if hanging:
            board.signal_service(signal.SIGSTOP)
    until_s = time.monotonic() + 20
    while _runs(monitor) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not _runs(monitor)


def test_jtop_sees_the_power_mode_and_the_clocks_change_and_come_back(
    board: EmulatedJetson, watcher: Watcher
) -> None:
    before = watcher.next(3)
    with _settings(board, "MODE_50W", "60", "lock") as held:
        watcher.until("MODE_50W", True)
        during = watcher.next(3)
        assert {(s.power_mode, s.clocks_locked) for s in during} == {("MODE_50W", True)}
        assert disturbance(during, before, "gpu") == "the power mode changed from MAXN to MODE_50W"
        held.terminate()
        assert held.wait(30) == 143
    watcher.until("MAXN", False)
    after = watcher.next(3)
    assert {(s.power_mode, s.clocks_locked) for s in after} == {("MAXN", False)}
    assert watcher.log() == []


def test_after_kill_9_on_the_board_the_next_start_restores_the_settings(
    board: EmulatedJetson, watcher: Watcher, tmp_path: Path
) -> None:
    with _settings(board, "MODE_50W", "60", "lock"):
        pass  # the process is killed here
    watcher.until("MODE_50W", True)
    ran = subprocess.run(
        [*board.inside, sys.executable, "-c", SETTINGS, "", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "an earlier process was killed" in ran.stderr
    watcher.until("MAXN", False)


@contextlib.contextmanager
def _settings(board: EmulatedJetson, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process on the board that has changed the settings and waits; it is killed at the end."""
    process = subprocess.Popen(
        [*board.inside, sys.executable, "-c", SETTINGS, *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "changed\n"
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
