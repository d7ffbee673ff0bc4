"""Which board this is: the facts that make two boards alike for latency, as one class key."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Optional

import msgspec


class Device(msgspec.Struct, frozen=True):
    """The facts of a device class. `power_mode` and `clocks_locked` are None where unknown."""

    module: str  # Jetson module, or CPU model
    cores: int
    memory_gib: int
    system: str  # "L4T 36.4" on a Jetson, else "Linux x86_64"
    power_mode: Optional[str] = None
    clocks_locked: Optional[bool] = None

    def class_key(self, engine: str, version: str) -> str:
        """Boards with the same key share measurements: `<module>_..._<engine>-<version>`."""
        clocks = {None: "", True: "locked", False: "free"}[self.clocks_locked]
        facts = (
            self.module,
            f"{self.cores}c",
            f"{self.memory_gib}gib",
            self.system,
            self.power_mode or "",
            clocks,
            f"{engine}-{'.'.join(version.split('.')[:2])}",
        )
        return "_".join(re.sub(r"[^a-z0-9.]+", "-", f.lower()).strip("-") for f in facts if f)


def this_device(root: Path = Path("/")) -> Device:
    """Read the facts of this machine from /proc, /etc and /sys below `root`."""
    release = _read(root / "etc/nv_tegra_release")
    l4t = re.search(r"R(\d+).*?REVISION: (\d+)", release)
    model = _read(root / "proc/device-tree/model").strip("\0 \n")
    cpu = re.search(r"^model name\s*: (.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"))
    return Device(
        module=model or (cpu.group(1).strip() if cpu else platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(int(memory.group(1)) / 2**20) if memory else 0,
        system=f"L4T {l4t.group(1)}.{l4t.group(2)}" if l4t
        else f"{platform.system()} {platform.machine()}",
    )  # fmt: skip


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
