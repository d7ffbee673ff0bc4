"""Lock the clocks or choose the power mode for a measurement, and put back what was found.

What is changed is written down first, so that even after kill -9 the next start puts it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Dict, Iterator, Optional

import msgspec

from ramnas_edge.board import nvpmodel
from ramnas_edge.board.sensors import clocks_locked, read
from ramnas_models.errors import DeviceError, FileError
from ramnas_models.files import make_folder, write_file, writing

log = logging.getLogger(__name__)

_STATE = "var/lib/ramnas/board_settings.json"
_TOOL_S = 60  # nvpmodel and jetson_clocks take up to seconds; longer is a question or a hang


class _Found(msgspec.Struct, frozen=True):
    """What was there before: a power mode, jetson_clocks' own store, cpufreq files with content."""

    power_mode: Optional[str] = None
    jetson_clocks: bool = False
    cpufreq: Dict[str, str] = {}


@contextlib.contextmanager
def board_settings(
    *, lock_clocks: bool, power_mode: Optional[str], root: Path = Path("/")
) -> Iterator[None]:
    """Change what is asked for, and put it back at the end of the block, however it ends.

    Needs root. SIGTERM becomes SystemExit(143) inside the block, so that it cleans up too; after
    kill -9 the next call puts back what the killed one had found, with a warning. DeviceError for a
    mode that the board does not have or that needs a reboot, and where clocks cannot be set; never
    reboots. Settings that are already as asked stay as they are.
    """
    state = root / _STATE
    if not lock_clocks and power_mode is None and not state.exists():
        yield
        return
    with _alone(state), _terminate_by_exit():
        _restore_leftovers(root, state)
        found = _look(root, lock_clocks=lock_clocks, power_mode=power_mode)
        if found == _Found():
            yield
            return
        try:
            write_file(state, msgspec.json.encode(found))
            _change(root, found, lock_clocks=lock_clocks, power_mode=power_mode)
            yield
        finally:
            with _not_interrupted():
                _restore(root, found)
                state.unlink(missing_ok=True)


def _look(root: Path, *, lock_clocks: bool, power_mode: Optional[str]) -> _Found:
    """What will have to be put back; DeviceError if what is asked for cannot be."""
    mode_before = _mode_to_leave(root, power_mode) if power_mode is not None else None
    locked = clocks_locked(root)
    if mode_before is None and (locked or not lock_clocks):
        return _Found()
    if nvpmodel.tool(root, "jetson_clocks"):
        # a switch of mode sets clocks of its own, so locked ones have to be put back as well
        return _Found(mode_before, jetson_clocks=lock_clocks or bool(locked))
    if not lock_clocks:
        return _Found(mode_before)
    files = [
        core / name
        for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
        for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
    ]
    if not files:
        raise DeviceError(
            "the clocks of this machine cannot be locked: it has no jetson_clocks and no cpufreq "
            "(a virtual machine?); measure without locking, or lock them on its host"
        )
    return _Found(mode_before, cpufreq={str(file.relative_to(root)): read(file) for file in files})


def _mode_to_leave(root: Path, wanted: str) -> Optional[str]:
    """The power mode that is on now, None if it is `wanted`."""
    modes, now = nvpmodel.modes(root), nvpmodel.ask_mode(root)
    if not modes or not nvpmodel.tool(root, "nvpmodel"):
        raise DeviceError(f"no power mode '{wanted}': only a Jetson has them (nvpmodel is missing)")
    if wanted not in modes:
        raise DeviceError(f"no power mode '{wanted}': this board has {', '.join(modes)}")
    if now not in modes:
        raise DeviceError("the power mode cannot be read (nvpmodel -q): run as root")
    if now == wanted:
        return None
    if modes[now].layout != modes[wanted].layout:
        raise _needs_reboot(now, wanted)
    return now


def _change(root: Path, found: _Found, *, lock_clocks: bool, power_mode: Optional[str]) -> None:
    done = []
    if found.jetson_clocks:
        _store(root).unlink(missing_ok=True)  # jetson_clocks asks before it overwrites
        _run(root, "jetson_clocks", "--store", str(_store(root)))
    if found.power_mode is not None and power_mode is not None:
        _set_mode(root, power_mode)
        done.append(f"power mode {power_mode}, was {found.power_mode}")
    if lock_clocks:
        if found.jetson_clocks:
            _run(root, "jetson_clocks")
        for core in sorted({(root / name).parent for name in found.cpufreq}):
            if "performance" in read(core / "scaling_available_governors").split():
                _write(core / "scaling_governor", "performance")
            _write(core / "scaling_min_freq", read(core / "scaling_max_freq"))
        if not clocks_locked(root):
            raise DeviceError("the clocks did not lock; measure without locking")
        done.append("clocks locked")
    log.warning("board settings for now: %s", "; ".join(done))


def _restore(root: Path, found: _Found) -> None:
    """Put back, the last change first."""
    for name, text in found.cpufreq.items():
        if read(root / name) != text:
            _write(root / name, text)
    store = _store(root)
    if found.jetson_clocks and store.exists():
        _run(root, "jetson_clocks", "--restore", str(store))
    if found.power_mode is not None and nvpmodel.ask_mode(root) != found.power_mode:
        _set_mode(root, found.power_mode)
        if found.jetson_clocks and store.exists():
            _run(root, "jetson_clocks", "--restore", str(store))  # the mode set clocks of its own
    store.unlink(missing_ok=True)
    log.info("board settings are as before")


def _restore_leftovers(root: Path, state: Path) -> None:
    if not state.exists():
        return
    try:
        found = msgspec.json.decode(state.read_bytes(), type=_Found)
    except msgspec.MsgspecError as error:
        raise DeviceError(
            f"{state} cannot be read ({error}): check the board, remove it"
        ) from error
    log.warning("an earlier process was killed with changed board settings: putting them back")
    _restore(root, found)
    state.unlink()


def _set_mode(root: Path, name: str) -> None:
    said = _run(root, "nvpmodel", "-m", str(nvpmodel.modes(root)[name].id))
    now = nvpmodel.ask_mode(root)
    if "reboot" in said.lower():
        raise _needs_reboot(now, name)
    if now != name:
        raise DeviceError(f"power mode {name} was not taken, the board stays in {now}: {said}")


def _needs_reboot(now: Optional[str], wanted: str) -> DeviceError:
    return DeviceError(
        f"from power mode {now} to {wanted} the board must reboot: switch it yourself "
        "(sudo nvpmodel -m NUMBER), then measure without asking for a mode"
    )


def _store(root: Path) -> Path:
    return root / Path(_STATE).with_name("jetson_clocks.conf")


def _run(root: Path, name: str, *options: str) -> str:
    """Run one of NVIDIA's tools; any question is answered with no."""
    program = nvpmodel.tool(root, name)
    if program is None:
        raise DeviceError(f"{name} is missing: it comes with JetPack")
    try:
        ran = subprocess.run(
            [program, *options], input="no\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=_TOOL_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{program} did not run ({error})") from error
    said = " ".join(ran.stdout.split())
    if ran.returncode != 0 and "reboot" not in said.lower():
        raise DeviceError(f"{' '.join([program, *options])} failed ({said}): it needs root")
    return said


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise DeviceError(f"cannot set {file} ({error.strerror}): clocks need root") from error


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock of a killed one."""
    try:
        make_folder(state.parent)
        with writing(state):
            lock = state.with_suffix(".lock").open("w")
    except FileError as error:
        raise DeviceError(f"board settings need root ({error})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeviceError(
                "another process holds board settings changed: wait for it or end it"
            ) from error
        yield


@contextlib.contextmanager
def _terminate_by_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit here; a program that handles it itself, or a thread, is left be."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: Optional[FrameType]) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """Signals wait until all is put back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
