"""Lock the clocks or set the power mode for a measurement, and restore the old settings after it.

The old settings are saved in a file first, so that after kill -9 the next start can restore them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
from pathlib import Path
from typing import Dict, Iterator, Optional

import msgspec

from ramnas_edge.board import nvpmodel
from ramnas_edge.board.sensors import clocks_locked, read
from ramnas_models.errors import DeviceError, FileError
from ramnas_models.files import lock, make_folder, write_file, writing
from ramnas_models.signals import stoppable

log = logging.getLogger(__name__)

_STATE = "var/lib/ramnas/board_settings.json"
_TOOL_S = 60  # nvpmodel and jetson_clocks take seconds; after that they hang or wait for an answer


class _OldSettings(msgspec.Struct, frozen=True):
    """What to restore: the power mode, jetson_clocks' own store, cpufreq files and their text."""

    power_mode: Optional[str] = None
    jetson_clocks: bool = False
    cpufreq: Dict[str, str] = {}


@contextlib.contextmanager
def board_settings(
    *, lock_clocks: bool, power_mode: Optional[str], root: Path = Path("/")
) -> Iterator[None]:
    """Lock the clocks and set the power mode inside the block, then restore the old settings.

    They are restored however the block ends: inside it SIGTERM and SIGHUP raise `Stopped`. After
    kill -9 the next call restores what the killed process had found, with a warning. Settings that
    are already as requested are not touched.

    Changing settings needs root. DeviceError for a power mode that the board does not have or that
    needs a reboot (this never reboots the board), and if the clocks cannot be set.
    """
    state = root / _STATE
    if not lock_clocks and power_mode is None and not state.exists():
        yield
        return
    with _alone(state), stoppable():
        _restore_leftovers(root, state)
        old = _look(root, lock_clocks=lock_clocks, power_mode=power_mode)
        if old == _OldSettings():
            yield
            return
        try:
            write_file(state, msgspec.json.encode(old))
            _change(root, old, lock_clocks=lock_clocks, power_mode=power_mode)
            yield
        finally:
            with _not_interrupted():
                _restore(root, old)
                state.unlink(missing_ok=True)


def _look(root: Path, *, lock_clocks: bool, power_mode: Optional[str]) -> _OldSettings:
    """The settings that will have to be restored; DeviceError if the request cannot be met."""
    mode_before = _mode_to_leave(root, power_mode) if power_mode is not None else None
    locked = clocks_locked(root)
    if mode_before is None and (locked or not lock_clocks):
        return _OldSettings()
    if nvpmodel.tool(root, "jetson_clocks"):
        # a new mode sets clocks too, so clocks that were locked must be restored as well
        return _OldSettings(mode_before, jetson_clocks=lock_clocks or bool(locked))
    if not lock_clocks:
        return _OldSettings(mode_before)
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
    return _OldSettings(
        mode_before, cpufreq={str(file.relative_to(root)): read(file) for file in files}
    )


def _mode_to_leave(root: Path, wanted: str) -> Optional[str]:
    """The current power mode, or None if it is `wanted`; DeviceError if that cannot be set."""
    modes, now = nvpmodel.modes(root), nvpmodel.ask_mode(root)
    if not modes or not nvpmodel.tool(root, "nvpmodel"):
        raise DeviceError(
            f"cannot set power mode '{wanted}': only a Jetson has power modes (nvpmodel is missing)"
        )
    if wanted not in modes:
        raise DeviceError(f"this board has no power mode '{wanted}'; it has {', '.join(modes)}")
    if now not in modes:
        raise DeviceError("the power mode cannot be read (nvpmodel -q): run as root")
    if now == wanted:
        return None
    if modes[now].layout != modes[wanted].layout:
        raise _needs_reboot(now, wanted)
    return now


def _change(root: Path, old: _OldSettings, *, lock_clocks: bool, power_mode: Optional[str]) -> None:
    done = []
    if old.jetson_clocks:
        _store(root).unlink(missing_ok=True)  # jetson_clocks asks before it overwrites
        _run(root, "jetson_clocks", "--store", str(_store(root)))
    if old.power_mode is not None and power_mode is not None:
        _set_mode(root, power_mode)
        done.append(f"power mode {power_mode}, was {old.power_mode}")
    if lock_clocks:
        if old.jetson_clocks:
            _run(root, "jetson_clocks")
        for core in sorted({(root / name).parent for name in old.cpufreq}):
            if "performance" in read(core / "scaling_available_governors").split():
                _write(core / "scaling_governor", "performance")
            _write(core / "scaling_min_freq", read(core / "scaling_max_freq"))
        if not clocks_locked(root):
            raise DeviceError(
                "the clocks did not lock, though no tool reported an error; measure without locking"
            )
        done.append("clocks locked")
    log.warning("board settings changed for now: %s", "; ".join(done))


def _restore(root: Path, old: _OldSettings) -> None:
    """Restore the old settings, the last change first."""
    for name, text in old.cpufreq.items():
        if read(root / name) != text:
            _write(root / name, text)
    store = _store(root)
    if old.jetson_clocks and store.exists():
        _run(root, "jetson_clocks", "--restore", str(store))
    if old.power_mode is not None and nvpmodel.ask_mode(root) != old.power_mode:
        _set_mode(root, old.power_mode)
        if old.jetson_clocks and store.exists():
            _run(root, "jetson_clocks", "--restore", str(store))  # the mode set clocks too
    store.unlink(missing_ok=True)
    log.info("board settings are as before")


def _restore_leftovers(root: Path, state: Path) -> None:
    if not state.exists():
        return
    try:
        old = msgspec.json.decode(state.read_bytes(), type=_OldSettings)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DeviceError(
            f"{state} cannot be read ({error}): check the clocks and the power mode, then remove it"
        ) from error
    log.warning(
        "an earlier process was killed before it restored the board settings: restoring them"
    )
    _restore(root, old)
    state.unlink()


def _set_mode(root: Path, name: str) -> None:
    output = _run(root, "nvpmodel", "-m", str(nvpmodel.modes(root)[name].id))
    now = nvpmodel.ask_mode(root)
    if "reboot" in output.lower():
        raise _needs_reboot(now, name)
    if now != name:
        raise DeviceError(f"the board stays in power mode {now} and did not take {name}: {output}")


def _needs_reboot(now: Optional[str], wanted: str) -> DeviceError:
    return DeviceError(
        f"changing from power mode {now} to {wanted} needs a reboot: switch it yourself "
        "(sudo nvpmodel -m NUMBER), then measure without asking for a power mode"
    )


def _store(root: Path) -> Path:
    return root / Path(_STATE).with_name("jetson_clocks.conf")


def _run(root: Path, name: str, *options: str) -> str:
    """Run one of NVIDIA's tools and return its output; its questions are answered with no."""
    program = nvpmodel.tool(root, name)
    if program is None:
        raise DeviceError(f"{name} is missing: it comes with JetPack")
    try:
        ran = subprocess.run(
            [program, *options], input="no\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=_TOOL_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{program} did not run ({error}): check JetPack") from error
    output = " ".join(ran.stdout.split())
    if ran.returncode != 0 and "reboot" not in output.lower():
        raise DeviceError(f"{' '.join([program, *options])} failed ({output}): run as root")
    return output


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise DeviceError(
            f"cannot set {file} ({error.strerror}): setting clocks needs root"
        ) from error


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Only one process at a time gets in; if it is killed, the kernel frees the lock."""
    try:
        make_folder(state.parent)
        with writing(state):
            file = state.with_suffix(".lock").open("w")
    except FileError as error:
        raise DeviceError(f"changing board settings needs root ({error})") from error
    with file:
        if not lock(file.fileno(), wait=False):
            raise DeviceError(
                "another process has changed the board settings: wait until it ends, or end it"
            )
        yield


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP wait until the block has ended."""
    asking = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asking)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
