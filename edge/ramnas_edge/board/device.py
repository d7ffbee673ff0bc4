"""This board -> the facts that its latencies depend on, and one class key made of them."""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path
from typing import Dict, Optional

import msgspec

from ramnas_edge.board.cores import Quota, affinity
from ramnas_edge.board.nvpmodel import ask_mode
from ramnas_edge.board.sensors import clocks_locked, read

# https://developer.nvidia.com/embedded/jetson-linux-archive
_JETPACK: Dict[str, str] = {
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3",
    "35.6.0": "5.1.4", "35.6.1": "5.1.5", "36.2.0": "6.0 DP", "36.3.0": "6.0", "36.4.0": "6.1",
    "36.4.3": "6.2", "36.4.4": "6.2.1", "38.2.0": "7.0", "38.2.1": "7.0", "38.4.0": "7.1",
}  # fmt: skip
# a word in the module's name -> its GPU; Orin comes before Nano because of Orin Nano
_JETSON_GPU = {
    "Thor": "Blackwell gb10b", "Orin": "Ampere ga10b", "Xavier": "Volta gv11b",
    "TX2": "Pascal gp10b", "Nano": "Maxwell gm20b",
}  # fmt: skip
_TREES = ("sys/firmware/devicetree/base", "proc/device-tree")


class Device(msgspec.Struct, frozen=True):
    """Facts about a board that a reboot does not change; None where unknown.

    The first six and `cpu_quota` make its device class. `memory_gib` is the size that was bought:
    kernels reserve a part of it, and not all of them the same part.
    """

    module: str  # the name of the Jetson module or other board, else the CPU's
    cores: int  # how many this process may use
    memory_gib: int
    system: str  # "L4T 36.4" on a Jetson, else "Linux x86_64"
    power_mode: Optional[str] = None
    clocks_locked: Optional[bool] = None
    cpu: Optional[str] = None
    gpu: Optional[str] = None
    l4t: Optional[str] = None  # with the revision, as "36.4.3"
    jetpack: Optional[str] = None
    cpu_quota: Optional[float] = None  # cores' worth of CPU time that the cgroups grant

    @property
    def is_throttled(self) -> bool:
        """Whether the CPU quota is less than the cores, so that busy threads are stopped by it."""
        return self.cpu_quota is not None and self.cpu_quota < self.cores

    def class_key(self, engine: str, version: str) -> str:
        """`<module>_..._<engine>-<version>`; boards with the same key share measurements."""
        facts = (
            self.module,
            f"{self.cores}c",
            f"{self.cpu_quota:.3g}cpus" if self.is_throttled else "",
            f"{self.memory_gib}gib",
            self.system,
            self.power_mode or "",
            "locked" if self.clocks_locked else "",
            f"{engine}-{'.'.join(version.split('.')[:2])}",
        )
        return "_".join(re.sub(r"[^a-z0-9.]+", "-", f.lower()).strip("-") for f in facts if f)


def this_device(root: Path = Path("/")) -> Device:
    """Read the facts of this machine from /proc, /etc and /sys below `root`."""
    release = re.search(r"R(\d+).*?REVISION: (\d+)\.?(\d*)", read(root / "etc/nv_tegra_release"))
    l4t = f"{release.group(1)}.{release.group(2)}.{release.group(3) or 0}" if release else None
    board, cpu = _device_tree(root, "model"), _cpu(root)
    return Device(
        module=board or cpu or platform.machine(),
        cores=affinity(),
        memory_gib=_memory_gib(root),
        system=f"L4T {l4t.rpartition('.')[0]}" if l4t
        else f"{platform.system()} {platform.machine()}",
        power_mode=ask_mode(root),
        clocks_locked=clocks_locked(root),
        cpu=cpu,
        gpu=_gpu(root, board if l4t else ""),
        l4t=l4t,
        jetpack=_JETPACK.get(l4t or ""),
        cpu_quota=Quota(root).cores,
    )  # fmt: skip


def _cpu(root: Path) -> Optional[str]:
    named = re.search(r"^model name\s*: (.+)$", read(root / "proc/cpuinfo"), re.MULTILINE)
    if named:
        return named.group(1).strip()
    compatible = _device_tree(root, "cpus/cpu@0/compatible")  # on most ARM boards
    return compatible.split("\0")[0] or None


def _gpu(root: Path, jetson: str) -> Optional[str]:
    for word, gpu in _JETSON_GPU.items():
        if word in jetson:
            return gpu
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+?)\s*$", read(card), re.MULTILINE)
        if model:
            return model.group(1)
    return None


def _memory_gib(root: Path) -> int:
    """MemTotal, rounded up to eighths of a power of two (30.6 and 31.2 give 32); 0 if unknown."""
    kib = re.search(r"MemTotal:\s*(\d+) kB", read(root / "proc/meminfo"))
    if not kib:
        return 0
    gib = int(kib.group(1)) / 2**20
    step = max(1.0, 2.0 ** (math.ceil(math.log2(gib)) - 3))
    return int(math.ceil(gib / step) * step)


def _device_tree(root: Path, name: str) -> str:
    return next((text for text in (read(root / tree / name) for tree in _TREES) if text), "")
