"""The kernel's files below a root -> temperatures, clocks, loads, power rails and limits.

If a file is missing or cannot be read, its key is absent. It is never a zero and never an error,
because boards, kernels and permissions differ in what they show.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

_CPU = "sys/devices/system/cpu"
# 17000000.gpu, 17000000.ga10b, 17000000.gv11b; on Thor gpu-gpc-0 (gpu-nvd-0 only decodes video)
_GPU = re.compile(r"\.(gpu|g[a-z]\d\db)$|^gpu-gpc-")
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc/rate"  # in Hz; only root can read it
_CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# cooling devices that slow nothing down, and tcc, which is a constant offset on x86
_NO_LIMIT = re.compile(r"fan|lcd|backlight|wifi|tcc|charge", re.IGNORECASE)


def temperature_c(root: Path) -> Dict[str, float]:
    """Degrees Celsius by thermal zone, and by sensor of the processor's driver."""
    found: Dict[str, float] = {}
    for zone in _sorted(root / "sys/class/thermal", "thermal_zone*"):
        value = number(zone / "temp")  # cannot be read while that part of the chip is off
        if value is not None:
            found[_unique(found, read(zone / "type") or zone.name)] = value / 1000
    for hwmon in _sorted(root / "sys/class/hwmon", "hwmon*"):
        driver = read(hwmon / "name")
        for file in _sorted(hwmon, "temp*_input") if driver in _CPU_HWMON else ():
            value = number(file)
            if value is not None:
                label = read(file.with_name(file.name.replace("input", "label")))
                found[_unique(found, f"{driver} {label}".strip())] = value / 1000
    return found


def clock_mhz(root: Path) -> Dict[str, float]:
    """The fastest core's clock as `cpu`; a Jetson may also show `gpu` and `emc` (memory)."""
    found = {}
    cores = [number(core / "scaling_cur_freq") for core in _cores(root)]
    known = [khz for khz in cores if khz is not None]
    if known:
        found["cpu"] = max(known) / 1000
    for name, hz in (("gpu", _gpu_number(root, "cur_freq")), ("emc", number(root / _EMC))):
        if hz is not None:
            found[name] = hz / 1e6
    return found


def clocks_locked(root: Path) -> Optional[bool]:
    """Whether every core and the GPU may run at one clock only; None if that is unknown."""
    limits = [
        (number(c / "scaling_min_freq"), number(c / "scaling_max_freq")) for c in _cores(root)
    ]
    gpu = (_gpu_number(root, "min_freq"), _gpu_number(root, "max_freq"))
    if gpu != (None, None):
        limits.append(gpu)
    if not limits or any(None in limit for limit in limits):
        return None
    return all(low == high for low, high in limits)


def power_mw(root: Path) -> Dict[str, float]:
    """Power by rail, as the board names it: INA3221 (volts times amperes) or Thor's INA238."""
    found = {}
    for hwmon in _sorted(root / "sys/class/hwmon", "hwmon*"):
        driver = read(hwmon / "name")
        if "ina238" in driver:
            microwatts = number(hwmon / "power1_input")
            if microwatts is not None:
                found["VIN"] = microwatts / 1000
        elif "ina3221" in driver:
            for label in _sorted(hwmon, "in*_label"):
                channel = label.name[len("in") : -len("_label")]
                rail = read(label)
                millivolts = number(hwmon / f"in{channel}_input")
                milliamperes = number(hwmon / f"curr{channel}_input")
                # "NC" is not connected; channel 7 sums the shunts and has no current of its own
                if "NC" not in rail and millivolts is not None and milliamperes is not None:
                    found[rail or f"rail {channel}"] = millivolts * milliamperes / 1000
    return found


def memory_used_mib(root: Path) -> Optional[float]:
    """The memory that a new program could not get without swapping."""
    text = read(root / "proc/meminfo")
    kib = [re.search(rf"^{key}:\s*(\d+) kB", text, re.M) for key in ("MemTotal", "MemAvailable")]
    total, available = (int(match.group(1)) if match else None for match in kib)
    return None if total is None or available is None else (total - available) / 1024


class Changes:
    """Readings that compare two looks at the files: the CPU's load, counters that rose."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ticks: Optional[Tuple[int, int]] = None
        self._counts: Dict[str, float] = {}
        self.load_percent()
        self.limits()

    def load_percent(self) -> Dict[str, float]:
        """`cpu` is the load of all cores since the last call, `gpu` that of a Jetson's GPU now."""
        found = {}
        fields = re.match(r"cpu +([\d ]+)", read(self._root / "proc/stat"))
        if fields:
            # the two fields after these count time of guests, which is part of user time
            ticks = [int(field) for field in fields.group(1).split()[:8]]
            total, idle = sum(ticks), sum(ticks[3:5])
            if self._ticks is None:
                self._ticks = total, idle
            passed = total - self._ticks[0]
            if passed >= 10:  # a load over fewer ticks means nothing
                found["cpu"] = 100 * (1 - (idle - self._ticks[1]) / passed)
                self._ticks = total, idle
        permille = _gpu_number(self._root, "device/load")
        if permille is not None:
            found["gpu"] = permille / 10
        return found

    def limits(self) -> Tuple[str, ...]:
        """What holds clocks back: active cooling devices, and counters that rose since last time.

        The counters are x86's thermal_throttle and a Jetson's over-current events.
        """
        found: List[str] = []
        for device in _sorted(self._root / "sys/class/thermal", "cooling_device*"):
            kind = read(device / "type") or device.name
            if (number(device / "cur_state") or 0) > 0 and not _NO_LIMIT.search(kind):
                found.append(kind)
        for name, file in self._counters():
            count = number(file)
            if count is not None:
                if count > self._counts.get(name, count):
                    found.append(name)
                self._counts[name] = count
        return tuple(dict.fromkeys(found))

    def _counters(self) -> Iterator[Tuple[str, Path]]:
        for file in _sorted(self._root / _CPU, "cpu[0-9]*/thermal_throttle/*_throttle_count"):
            yield f"{file.parent.parent.name} {file.name.replace('_count', '')}", file
        for file in _sorted(self._root / "sys/class/hwmon", "hwmon*/oc*_event_cnt"):
            yield f"over-current {file.name[: -len('_event_cnt')]}", file


def read(path: Path) -> str:
    """The text of a small file, without blanks and NULs around it; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def number(path: Path) -> Optional[float]:
    """The whole number at the start of a small file; None if there is none."""
    match = re.match(r"-?\d+", read(path))
    return float(match.group()) if match else None


def _cores(root: Path) -> List[Path]:
    """The cpufreq folders of the cores that are online."""
    cores = _sorted(root / _CPU, "cpu[0-9]*/cpufreq")
    return [core for core in cores if read(core.parent / "online") != "0"]


def _gpu_number(root: Path, name: str) -> Optional[float]:
    for device in _sorted(root / "sys/class/devfreq", "*"):
        if _GPU.search(device.name):
            return number(device / name)
    return None


def _sorted(folder: Path, pattern: str) -> List[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:  # a device vanished while the folder was listed
        return []


def _unique(taken: Dict[str, float], name: str) -> str:
    """`name`, with a number if the board has several sensors of that name."""
    number_of = sum(key == name or key.startswith(f"{name} #") for key in taken)
    return f"{name} #{number_of + 1}" if number_of else name
