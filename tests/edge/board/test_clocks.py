from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ramnas_edge.board import nvpmodel
from ramnas_edge.board.clocks import board_settings
from ramnas_edge.board.sensors import clocks_locked
from ramnas_models.errors import DeviceError
from tests.edge.board.emulated_jetson import build

HELD = """
import logging, sys, time
from pathlib import Path
from ramnas_edge.board.clocks import board_settings
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
with board_settings(lock_clocks=True, power_mode="MODE_50W", root=Path(sys.argv[1])):
    print("changed", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return build(tmp_path)


def _mode(root: Path) -> str | None:
    return nvpmodel.mode_now(root, nvpmodel.modes(root))


def _limits(root: Path) -> dict[str, str]:
    """The lowest and highest clocks of the board and its governors, by file."""
    return {
        str(file): file.read_text().strip()
        for pattern in ("*_min_freq", "*_max_freq", "min_freq", "max_freq", "*governor*")
        for file in sorted((root / "sys").rglob(pattern))
    }


def _left(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "var/lib/ramnas").iterdir() if p.suffix != ".lock")


def test_clocks_and_power_mode_are_set_in_the_block_and_restored_after_it(
    board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _limits(board)
    with board_settings(lock_clocks=True, power_mode="MODE_50W", root=board):
        assert (_mode(board), clocks_locked(board)) == ("MODE_50W", True)
        assert _left(board) == ["board_settings.json", "jetson_clocks.conf"]
    assert (_mode(board), clocks_locked(board)) == ("MAXN", False)
    assert _limits(board) == before
    assert _left(board) == []
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "power mode MODE_50W, was MAXN; clocks locked" in warning


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_settings_are_restored_however_the_block_ends(board: Path, error: BaseException) -> None:
    before = _limits(board)

    def fail() -> None:
        with board_settings(lock_clocks=True, power_mode="MODE_50W", root=board):
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])


def _start(board: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(board), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "changed\n"
    assert (_mode(board), clocks_locked(board)) == ("MODE_50W", True)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_asked_to_end_restores_the_settings_first(
    board: Path, number: int
) -> None:
    before = _limits(board)
    process = _start(board, 60)
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode in (143, -signal.SIGINT)
    assert "board settings are as before" in log
    assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])


def test_after_kill_9_the_next_start_restores_the_settings_with_a_warning(
    board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _limits(board)
    process = _start(board, 60)
    process.kill()
    process.communicate()
    assert (_mode(board), clocks_locked(board)) == ("MODE_50W", True)
    with board_settings(lock_clocks=False, power_mode=None, root=board):  # nothing asked for
        assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "an earlier process was killed" in warning


def test_two_processes_cannot_change_the_board_at_the_same_time(board: Path) -> None:
    process = _start(board, 60)
    with pytest.raises(DeviceError, match="another process"), board_settings(
        lock_clocks=True, power_mode=None, root=board
    ):
        pass
    assert _mode(board) == "MODE_50W"  # the first process keeps its settings
    process.terminate()
    process.communicate(timeout=30)
    assert _mode(board) == "MAXN"


def test_the_old_handler_of_sigterm_is_restored(board: Path) -> None:
    def own(number: int, frame: object) -> None: ...

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with board_settings(lock_clocks=True, power_mode=None, root=board):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, own)
    try:
        with board_settings(lock_clocks=True, power_mode=None, root=board):
            assert signal.getsignal(signal.SIGTERM) is own  # a program's own handler stays
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_without_a_request_nothing_is_changed_or_written(tmp_path: Path) -> None:
    with board_settings(lock_clocks=False, power_mode=None, root=tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_already_as_requested_are_not_touched(
    board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run([board / "usr/bin/jetson_clocks"], check=True)
    with board_settings(lock_clocks=True, power_mode="MAXN", root=board):
        assert _left(board) == []
    assert clocks_locked(board)  # they were locked before, so they stay locked
    assert not caplog.records


def test_clocks_that_were_locked_are_locked_again_after_another_mode(board: Path) -> None:
    subprocess.run([board / "usr/bin/jetson_clocks"], check=True)
    tool = board / "usr/bin/nvpmodel"  # like the real tool, this one also sets clocks with a mode
    frees = f"for f in {board}/sys/devices/system/cpu/cpu*/cpufreq/scaling_min_freq; do"
    tool.write_text(tool.read_text().replace("printf", f"{frees} echo 115200 > $f; done; printf"))
    before = _limits(board)
    with board_settings(lock_clocks=False, power_mode="MODE_50W", root=board):
        assert clocks_locked(board) is False
    assert _limits(board) == before


def test_an_unknown_mode_is_an_error_that_lists_the_modes(board: Path) -> None:
    with pytest.raises(
        DeviceError, match="no power mode 'TURBO'; it has MAXN, MODE_15W"
    ), board_settings(lock_clocks=False, power_mode="TURBO", root=board):
        pass


def test_a_mode_that_needs_a_reboot_is_refused_before_anything_is_changed(board: Path) -> None:
    before = _limits(board)
    tool = board / "usr/bin/nvpmodel"
    tool.write_text(f"#!/bin/sh\necho $* >> {board}/asked\n")
    with pytest.raises(
        DeviceError, match="changing from power mode MAXN to MODE_15W needs"
    ), board_settings(lock_clocks=True, power_mode="MODE_15W", root=board):
        pass
    assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])
    assert not (board / "asked").exists()


def test_a_reboot_that_only_nvpmodel_asks_for_is_declined(board: Path) -> None:
    before = _limits(board)
    (board / "etc/nvpmodel.conf").unlink()  # the tool then lists the modes, without their layout
    with pytest.raises(
        DeviceError, match="changing from power mode MAXN to MODE_15W needs"
    ), board_settings(lock_clocks=True, power_mode="MODE_15W", root=board):
        pass
    assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])
    assert not (board / "rebooted").exists()


def test_a_mode_on_a_machine_without_modes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="only a Jetson has power modes"), board_settings(
        lock_clocks=False, power_mode="MAXN", root=tmp_path
    ):
        pass


def test_an_error_of_a_tool_is_reported_and_the_settings_are_restored(board: Path) -> None:
    before = _limits(board)
    tool = board / "usr/bin/nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NVPM ERROR: Permission denied'\nexit 1\n")
    with pytest.raises(DeviceError, match=r"NVPM ERROR: Permission denied.*root"), board_settings(
        lock_clocks=True, power_mode="MODE_50W", root=board
    ):
        pass
    assert (_mode(board), _limits(board), _left(board)) == ("MAXN", before, [])


# -- cpufreq, without NVIDIA's tools ---------------------------------------------------------------


@pytest.fixture
def x86(board: Path) -> Path:
    """A computer with the same cores that is not a Jetson."""
    for name in ("usr/bin/nvpmodel", "usr/bin/jetson_clocks", "sys/class/devfreq/17000000.gpu"):
        (board / name).unlink()
    for core in board.glob("sys/devices/system/cpu/cpu*/cpufreq"):
        (core / "scaling_available_governors").write_text("performance powersave\n")
    return board


def test_an_x86_board_is_locked_through_cpufreq_and_restored(x86: Path) -> None:
    before = _limits(x86)
    with board_settings(lock_clocks=True, power_mode=None, root=x86):
        assert clocks_locked(x86)
        core = x86 / "sys/devices/system/cpu/cpu0/cpufreq"
        assert (core / "scaling_governor").read_text() == "performance"
        assert (core / "scaling_min_freq").read_text() == "2201600"
    assert _limits(x86) == before


def test_a_machine_without_cpufreq_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="measure without locking"), board_settings(
        lock_clocks=True, power_mode=None, root=tmp_path
    ):
        pass


def test_cpufreq_that_cannot_be_written_is_an_error_that_names_root(x86: Path) -> None:
    governor = x86 / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    before = _limits(x86)
    governor.unlink()
    governor.symlink_to(Path("/proc/version"))  # not writable, not even for root
    with pytest.raises(DeviceError, match="setting clocks needs root"), board_settings(
        lock_clocks=True, power_mode=None, root=x86
    ):
        pass
    assert _limits(x86).items() >= {k: v for k, v in before.items() if "governor" not in k}.items()
    assert _left(x86) == []


def test_a_state_folder_that_cannot_be_created_is_an_error_that_names_root(
    board: Path,
) -> None:
    (board / "var/lib/ramnas").rmdir()
    (board / "var/lib/ramnas").write_text("in the way")
    with pytest.raises(DeviceError, match="board settings needs root"), board_settings(
        lock_clocks=True, power_mode=None, root=board
    ):
        pass
    assert clocks_locked(board) is False


def test_a_state_file_that_cannot_be_read_is_reported_and_kept(board: Path) -> None:
    state = board / "var/lib/ramnas/board_settings.json"
    state.write_text("{")
    with pytest.raises(
        DeviceError, match="check the clocks and the power mode, then remove it"
    ), board_settings(lock_clocks=False, power_mode=None, root=board):
        pass
    assert os.path.exists(state)
