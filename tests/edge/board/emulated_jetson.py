"""A Jetson AGX Orin as a folder of plain files, with the real jtop service on it (Linux, root).

`build(root)` writes the folder: /sys, /etc and the tools nvpmodel and jetson_clocks, as on the
board. Code that takes a `root` can read it without any privilege.

    with EmulatedJetson(folder) as board:
        process = subprocess.Popen([*board.inside, sys.executable, "-m", "ramnas_edge", "agent"])
        board.set(cpu_mhz=729.6, temperature_c=97)  # causes a throttle from outside

This runs jetson-stats' own service in a private mount namespace, where the folder's files are /sys,
/etc, /usr/bin and /var/lib, and /run is private. A command after `board.inside` runs there too and
finds a Jetson in every file. Give it absolute paths, because it starts in /. Files below
`board.root` are the same files inside and outside. Two boards may run at the same time. Nothing
changes outside the namespace.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, Optional

import pytest

CPU = "sys/devices/system/cpu"
GPU = "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu"
THERMAL = "sys/devices/virtual/thermal"
INA = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
CPU_MAX_KHZ, GPU_MAX_HZ = 2201600, 1300500000

# id, name, number of cores online, TPC mask, as in the board's nvpmodel.conf
MODES = (
    (0, "MAXN", 12, 0),
    (1, "MODE_15W", 4, 252),
    (2, "MODE_30W", 8, 240),
    (3, "MODE_50W", 12, 0),
)

# what `set` may change: the files, and how many of their units make one unit of the name
_KNOBS = {
    "cpu_mhz": (f"{CPU}/cpu*/cpufreq/scaling_cur_freq", 1000),
    "gpu_mhz": (f"{GPU}/cur_freq", 1_000_000),
    "gpu_load_percent": (f"{GPU}/device/load", 10),
    "gpu_rail_ma": (f"{INA}/curr1_input", 1),
    "temperature_c": (f"{THERMAL}/thermal_zone*/temp", 1000),
    "cpu_throttle_state": (f"{THERMAL}/cooling_device1/cur_state", 1),
}

# the kernel's files are never empty, not even while being written; an empty one kills the service
_PUT = """put() {{ echo "$2" > {root}/next-value.$$; mv {root}/next-value.$$ "$1"; }}"""
_NVPMODEL = """#!/bin/sh
# like NVIDIA's: -p lists the modes, -q prints the mode, -m sets it; asks if it needs a reboot
status={root}/var/lib/nvpmodel/status
{put}
now=$(sed 's/.*pmode:0*\\([0-9]\\).*/\\1/' $status)
name() {{ i=$1; set -- {names}; shift $i; echo $1; }}
layout() {{ i=$1; set -- {layouts}; shift $i; echo $1; }}
case "$1" in
 -p) echo "NVPM VERB: PM_CONFIG: DEFAULT=MODE_30W(2)"
     for mode in 0 1 2 3; do echo "NVPM VERB: POWER_MODEL: ID=$mode NAME=$(name $mode)"; done;;
 -q) echo "NV Power Mode: $(name $now)"; echo $now;;
 -m) if [ "$(layout $2)" != "$(layout $now)" ]; then
       echo "NVPM WARN: Reboot required for changing to this power mode: $2"
       echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
       read answer
       case "$answer" in YES|yes) echo $2 > {root}/rebooted;; *) exit 255;; esac
     fi
     put $status $(printf 'pmode:%04d' $2);;
esac
"""
_JETSON_CLOCKS = """#!/bin/sh
# like NVIDIA's: --store FILE (asks before it overwrites), --restore FILE; else locks at the maximum
files="{root}/{gpu}/min_freq {root}/{cpu}/cpu*/cpufreq/scaling_min_freq"
{put}
case "$1" in
 --show) echo "cpu0: Online=1 Governor=schedutil MinFreq=1 MaxFreq=2 CurrentFreq=1 IdleStates: C1=1"
         echo "GPU MinFreq=1 MaxFreq=2 CurrentFreq=1";;
 --store) if [ -e "$2" ]; then
            echo "File $2 already exists. Can I overwrite it? Y/N:"; read answer
            [ "$answer" = Y ] || exit 1
          fi
          for f in $files; do echo "$f:$(cat $f)"; done > "$2";;
 --restore) while IFS=: read -r f value; do put "$f" $value; done < "$2";;
 *) for f in $files; do put $f $(cat "$(dirname $f)/$(basename $f | sed s/min/max/)"); done;;
esac
"""


def build(root: Path) -> Path:
    """Write a board below `root` that is idle and cool, in mode MAXN, with free clocks.

    Its symbolic links are relative.
    """
    for core in range(os.cpu_count() or 1):
        folder = root / CPU / f"cpu{core}"
        for name, khz in (("min", 729600), ("max", CPU_MAX_KHZ), ("cur", 1190400)):
            _put(folder / f"cpufreq/scaling_{name}_freq", khz)
            _put(folder / f"cpufreq/cpuinfo_{name}_freq", khz if name != "min" else 115200)
        _put(folder / "cpufreq/scaling_governor", "schedutil")
    for name in ("online", "possible", "present"):  # libraries count the cores by these files
        here = Path("/", CPU, name)
        _put(root / CPU / name, here.read_text().strip() if here.exists() else 0)
    gpu = {
        "cur_freq": 306000000, "min_freq": 306000000, "max_freq": GPU_MAX_HZ,
        "governor": "nvhost_podgov", "device/load": 0, "device/railgate_enable": 1,
        "device/tpc_pg_mask": 0, "device/enable_3d_scaling": 1, "device/of_node/name": "gpu",
    }  # fmt: skip
    for name, value in gpu.items():
        _put(root / GPU / name, value)
    _link(root / "sys/class/devfreq/17000000.gpu", root / GPU)
    for name, hz in (("rate", 3199000000), ("max_rate", 3199000000), ("min_rate", 204000000),
                     ("mrq_rate_locked", 0)):  # fmt: skip
        _put(root / "sys/kernel/debug/bpmp/debug/clk/emc" / name, hz)
    _put(root / "sys/kernel/actmon_avg_activity/mc_all", 0)
    for number, zone in enumerate(("cpu-thermal", "gpu-thermal", "tj-thermal")):
        _put(root / THERMAL / f"thermal_zone{number}/type", zone)
        _put(root / THERMAL / f"thermal_zone{number}/temp", 42000 + 500 * number)
    for number, (kind, state) in enumerate((("pwm-fan", 1), ("cpu-throttle-alert", 0))):
        _put(root / THERMAL / f"cooling_device{number}/type", kind)
        _put(root / THERMAL / f"cooling_device{number}/cur_state", state)
    for entry in sorted((root / THERMAL).iterdir()):
        _link(root / "sys/class/thermal" / entry.name, entry)
    _put(root / INA / "name", "ina3221")
    _put(root / INA.replace("hwmon/hwmon3", "name"), "ina3221")
    rails = (("VDD_GPU_SOC", 19000, 160), ("VDD_CPU_CV", 19000, 40), ("VIN_SYS_5V0", 4950, 800))
    for number, (rail, millivolts, milliamperes) in enumerate(rails, 1):
        _put(root / INA / f"in{number}_label", rail)
        _put(root / INA / f"in{number}_input", millivolts)
        _put(root / INA / f"curr{number}_input", milliamperes)
    _link(root / "sys/class/hwmon/hwmon3", root / INA)
    _put(root / "sys/firmware/devicetree/base/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    _put(root / "etc/nv_tegra_release", release)
    _put(root / "etc/nvpmodel.conf", "\n".join(_conf()))
    _put(root / "var/lib/nvpmodel/status", "pmode:0000")
    (root / "var/lib/ramnas").mkdir(parents=True)
    names = {
        "root": root, "gpu": GPU, "cpu": CPU, "names": " ".join(name for _, name, _, _ in MODES),
        "layouts": " ".join(f"{cores}-{mask}" for _, _, cores, mask in MODES),
    }  # fmt: skip
    for tool, text in (("nvpmodel", _NVPMODEL), ("jetson_clocks", _JETSON_CLOCKS)):
        _put(root / "usr/bin" / tool, text.format(put=_PUT.format(root=root), **names))
        (root / "usr/bin" / tool).chmod(0o755)
    return root


def change(root: Path, **values: float) -> None:
    """Set the board's values by name (`_KNOBS`); each file changes in one step."""
    for knob, value in values.items():
        pattern, scale = _KNOBS[knob]
        for file in root.glob(pattern):
            aside = root / "next-value"
            aside.write_text(str(int(value * scale)))
            aside.replace(file)


class EmulatedJetson:
    """The board with its service running, as a context manager; skips the test if it cannot run."""

    def __init__(self, root: Path) -> None:
        self.root = build(root)
        self._holder: Optional[subprocess.Popen[str]] = None
        self.service = 0  # the id of its process, which leads a process group

    def __enter__(self) -> EmulatedJetson:
        missing = [tool for tool in ("unshare", "nsenter", "mount") if not shutil.which(tool)]
        missing += ["root"] if os.geteuid() != 0 else []
        missing += ["jetson-stats"] if not importlib.util.find_spec("jtop") else []
        if missing:
            pytest.skip(f"an emulated Jetson needs {', '.join(missing)}")
        shutil.copy("/etc/group", self.root / "etc/group")
        with (self.root / "etc/group").open("a") as file:
            file.write("jtop:x:64999:root\n")  # the group that may use the service
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__]
        with (self.root / "service.log").open("w") as log:
            self._holder = subprocess.Popen(
                [*command, "hold", str(self.root)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._holder.stdout is not None
        answer = self._holder.stdout.readline().split()
        if not answer:
            self.__exit__()
            log_text = (self.root / "service.log").read_text().strip()
            if "mount" in log_text.rpartition("\n")[2]:
                pytest.skip(f"a private /sys cannot be mounted here: {log_text[-200:]}")
            raise RuntimeError(f"the jtop service did not start: {log_text}")
        self.service = int(answer[0])
        return self

    def __exit__(self, *exc: Any) -> None:
        assert self._holder is not None
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(timeout=30)
        self._holder.stdout.close()

    @property
    def inside(self) -> List[str]:
        """The beginning of a command line that runs on the board."""
        assert self._holder is not None
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    def set(self, **values: float) -> None:
        change(self.root, **values)

    def signal_service(self, number: int) -> None:
        """Send the service a signal: SIGKILL ends it, SIGSTOP makes it hang."""
        os.killpg(self.service, number)


def _conf() -> List[str]:
    lines = ["< PARAM TYPE=FILE NAME=CPU_ONLINE >"]
    for number, name, cores, mask in MODES:
        lines += [f"< POWER_MODEL ID={number} NAME={name} >"]
        lines += [f"CPU_ONLINE CORE_{core} {int(core < cores)}" for core in range(12)]
        lines += [f"TPC_POWER_GATING TPC_PG_MASK {mask}", "CPU_A78_0 MAX_FREQ -1"]
    return [*lines, "< PM_CONFIG DEFAULT=2 >"]


def _put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(value))


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def _hold(root: Path) -> None:
    """Inside the namespace: mount the board, start the service, wait until stdin ends."""
    mounts = [("--bind", str(root / "sys"), "/sys"), ("-t", "tmpfs", "none", "/run")]
    # the overlays are read-only, so nothing outside can change
    for folder in ("etc", "usr/bin", "var/lib"):
        over = f"lowerdir={root / folder}:/{folder}"
        mounts.append(("-t", "overlay", "none", "-o", over, f"/{folder}"))
    for folder in ("var/lib/nvpmodel", "var/lib/ramnas"):
        mounts.append(("--bind", str(root / folder), f"/{folder}"))
    for options in mounts:
        if subprocess.run(["mount", *options]).returncode != 0:
            sys.exit("cannot mount")
    service = subprocess.Popen(
        [sys.executable, __file__, "serve", str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while not Path("/run/jtop.sock").exists():
            if service.poll() is not None:
                sys.exit("the service ended at its start")
            time.sleep(0.05)
        print(service.pid, flush=True)
        sys.stdin.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        service.wait()


def _serve(root: Path) -> None:
    import platform

    platform.machine = lambda: "aarch64"  # the service refuses to run on other machines
    sys.base_prefix = str(root / "usr")  # the service keeps its settings below it
    from jtop.service import JtopServer  # type: ignore[import-untyped,unused-ignore]

    JtopServer(force=True).loop_for_ever()


if __name__ == "__main__":
    {"hold": _hold, "serve": _serve}[sys.argv[1]](Path(sys.argv[2]))
