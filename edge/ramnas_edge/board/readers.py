"""jtop's monitor process, the kernel's files or psutil -> the fields of telemetry's Samples."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from ramnas_edge.board import nvpmodel, sensors

Fields = Dict[str, Any]  # the keyword arguments of one telemetry.Sample

_START_S = 15.0  # time to import jtop and to reach its service on a busy board
# after this time without a sample the service counts as hung, but not before 4 of its intervals
_SILENT_S = 5.0


class Jtop:
    """Runs `ramnas_edge.board.jtop_monitor` in a process of its own and receives its samples.

    `trouble` says why no more samples will come, and the way out. It is empty while all is well.
    """

    def __init__(self, root: Path, interval_s: float) -> None:
        """Waits until the first sample has arrived, or until there is `trouble`."""
        self.source, self.trouble = "jtop", ""
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._buffer = b""
        self._arrived: List[Fields] = []
        if not importlib.util.find_spec("jtop"):  # an import would change how processes start
            self.trouble = "it is not installed; run sudo pip3 install jetson-stats, then reboot"
            return
        if not (root / "run/jtop.sock").exists():
            self.trouble = "its service is not running; run sudo systemctl restart jtop"
            return
        command = [
            sys.executable,
            "-m",
            "ramnas_edge.board.jtop_monitor",
            str(interval_s),
            str(root),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._heard_s, self._silent_s = time.monotonic(), _START_S
        while not self._arrived and not self.trouble:
            select.select([self._out], [], [], 0.1)
            self._receive()

    def read(self) -> List[Fields]:
        """The samples that have arrived; never waits."""
        if self._process is not None and not self.trouble:
            self._receive()
        samples, self._arrived = self._arrived, []
        return samples

    def _receive(self) -> None:
        for line in self._lines():
            if "error" in line:
                self.trouble = f"{line['error']}; run sudo systemctl restart jtop"
            elif "source" in line:
                self.source = line["source"]
                self._silent_s = max(_SILENT_S, 4 * line["interval_s"])
            else:
                self._arrived.append({**line, "limits": tuple(line["limits"])})
        if not self.trouble and time.monotonic() - self._heard_s > self._silent_s:
            self.trouble = f"no answer for {self._silent_s:.0f} s; run sudo systemctl restart jtop"

    def _lines(self) -> List[Fields]:
        """All complete lines in the pipe; sets `trouble` if the pipe has ended."""
        ended = False
        while not ended:
            try:
                arrived = os.read(self._out, 1 << 16)
            except BlockingIOError:
                break
            ended = not arrived
            self._buffer += arrived
        *whole, self._buffer = self._buffer.split(b"\n")
        lines = [json.loads(line) for line in whole]
        if lines:
            self._heard_s = time.monotonic()
        if ended and not any("error" in line for line in lines):
            self.trouble = "its monitor ended; run sudo systemctl restart jtop"
        return lines

    def close(self) -> None:
        """End the monitor by closing its stdin, and kill it if it hangs."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Sysfs:
    """The kernel's files below `root`; works on every Jetson and most Linux computers."""

    source = "sysfs"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._modes = nvpmodel.modes(root)
        self._changes = sensors.Changes(root)

    def read(self) -> List[Fields]:
        root = self._root
        return [
            {
                "time_s": time.monotonic(),
                "temperature_c": sensors.temperature_c(root),
                "clock_mhz": sensors.clock_mhz(root),
                "load_percent": self._changes.load_percent(),
                "memory_used_mib": sensors.memory_used_mib(root),
                "power_mw": sensors.power_mw(root),
                "power_mode": nvpmodel.mode_now(root, self._modes),
                "limits": self._changes.limits(),
                "clocks_locked": sensors.clocks_locked(root),
            }
        ]


class Psutil:
    """psutil, for machines whose kernel shows no sensors as files, such as virtual ones.

    What a system lacks or forbids, as Android forbids /proc/stat, is left out.
    """

    source = "psutil"

    def __init__(self) -> None:
        import psutil  # type: ignore[import-untyped,unused-ignore]

        self._psutil = psutil
        self._since_s = time.monotonic()
        with contextlib.suppress(OSError):
            psutil.cpu_percent()  # the first call has nothing to compare with

    def read(self) -> List[Fields]:
        psutil, now_s = self._psutil, time.monotonic()
        temperature_c: Dict[str, float] = {}
        clock_mhz: Dict[str, float] = {}
        load_percent: Dict[str, float] = {}
        fields: Fields = {
            "time_s": now_s,
            "temperature_c": temperature_c,
            "clock_mhz": clock_mhz,
            "load_percent": load_percent,
        }
        with contextlib.suppress(AttributeError, OSError):
            for chip, found in psutil.sensors_temperatures().items():
                for number, sensor in enumerate(found, 1):
                    name = f"{chip} {sensor.label or (number if len(found) > 1 else '')}"
                    temperature_c[name.strip()] = float(sensor.current)
        with contextlib.suppress(AttributeError, OSError, NotImplementedError):
            cores = psutil.cpu_freq(percpu=True)
            if cores and max(core.current for core in cores):
                clock_mhz["cpu"] = float(max(core.current for core in cores))
        if now_s - self._since_s > 0.1:  # over a shorter time the load means nothing
            with contextlib.suppress(OSError):
                load_percent["cpu"] = float(psutil.cpu_percent())
            self._since_s = now_s
        with contextlib.suppress(OSError):
            memory = psutil.virtual_memory()
            fields["memory_used_mib"] = (memory.total - memory.available) / 2**20
        return [fields]


Reader = Union[Jtop, Sysfs, Psutil]


def without_jtop(root: Path) -> Optional[Reader]:
    """The kernel's files if they show anything, else psutil where it is installed, else None."""
    looks = (sensors.temperature_c, sensors.clock_mhz, sensors.power_mw)
    if any(look(root) for look in looks):
        return Sysfs(root)
    if root == Path("/") and importlib.util.find_spec("psutil"):  # psutil can read no other root
        return Psutil()
    return None
