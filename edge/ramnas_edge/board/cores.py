"""What this process may use of the processors: its affinity, and the CPU quota of its cgroups.

A quota (`docker --cpus 0.5`, a Kubernetes limit, CPUQuota= of systemd) does not take cores away. It
stops all threads of the group for the rest of a period of 0.1 s, as soon as they have used up their
share. A call that takes 7 ms then takes 50 ms now and again: the median says nothing about it.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ramnas_edge.board.sensors import read


class Throttling(NamedTuple):
    """What the kernel has counted so far: the periods, and those in which it stopped the group."""

    periods: int
    throttled: int


class Quota:
    """The CPU quotas of the cgroups that this process is in, as the files below `root` show them.

    Each group up to the root of the hierarchy may have one, and the smallest counts. A container
    sees its own group and those below it, so a smaller quota outside of it stays unknown.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        limits = [(cores, group) for group in _groups(root) for cores in _cores(group)]
        tightest = min(limits, default=None, key=lambda limit: limit[0])
        self.cores: Optional[float] = tightest[0] if tightest else None  # None: there is no quota
        self._group = tightest[1] if tightest else None

    def throttling(self) -> Optional[Throttling]:
        """The counts of the group with the smallest quota; None without a quota."""
        found = dict(re.findall(r"^(\w+) (\d+)$", read(self._group / "cpu.stat"), re.MULTILINE)
                     if self._group else [])  # fmt: skip
        try:
            return Throttling(int(found["nr_periods"]), int(found["nr_throttled"]))
        except KeyError:
            return None


def affinity() -> int:
    """The number of cores that this process may run on; all cores where a sandbox hides that."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux, or a seccomp filter without this call
        return os.cpu_count() or 1


def usable(root: Path = Path("/")) -> int:
    """The number of threads or processes that can do work at the same time, 1 or more.

    A quota of 1.5 cores is worth two: one of them alone would leave a part of it unused.
    """
    quota = Quota(root).cores
    return affinity() if quota is None else min(affinity(), max(1, math.ceil(quota)))


def _groups(root: Path) -> Iterator[Path]:
    """The folder of every cgroup, of either version, that can limit the CPU time of this process.

    `/proc/self/cgroup` has a line `ID:CONTROLLERS:PATH` per hierarchy; version 2 has no controllers
    (cgroups(7)). The path is relative to the root of the hierarchy, of which `/proc/self/mountinfo`
    says what part is mounted where (proc_pid_mountinfo(5)).
    """
    mounts = list(_mounts(root))
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mounted, folder in (m[1:] for m in mounts if m[0] == bool(controllers)):
            inside = os.path.relpath(path, mounted)
            # a group outside of what is mounted: the folder is the nearest that can be seen
            parts = () if inside.startswith("..") else Path(inside).parts
            for depth in range(len(parts), -1, -1):
                yield folder.joinpath(*parts[:depth])


def _mounts(root: Path) -> Iterator[Tuple[bool, str, Path]]:
    """Mounted hierarchies with CPU control: (is version 1, the part of it that is mounted, where).

    The fields are: id, parent, device, part, folder, options, optional fields, "-", type, source,
    options of the hierarchy.
    """
    for line in read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        v1 = kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        if v1 or kind[0] == "cgroup2":
            yield v1, _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")


def _unescaped(text: str) -> str:
    """A path of mountinfo, where a space is written as the octal number \\040."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), text)


def _cores(group: Path) -> List[float]:
    """The quotas of one group in cores: none or one."""
    quota, _, period = read(group / "cpu.max").partition(" ")  # version 2: "max 100000"
    if not quota:
        quota = read(group / "cpu.cfs_quota_us")  # version 1: -1 if there is none
        period = read(group / "cpu.cfs_period_us")
    try:
        cores = int(quota) / int(period or 100_000)
    except (ValueError, ZeroDivisionError):
        return []
    return [cores] if cores > 0 else []
