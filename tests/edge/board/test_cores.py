"""The CPU quota of containers, services and pods, from the files that their kernels show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.board import cores
from ramnas_edge.board.cores import Quota, Throttling
from ramnas_edge.board.device import Device, this_device
from ramnas_edge.board.short_names import short_names

UNIFIED = "31 24 0:27 {part} /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
SEPARATE = (
    "25 30 0:23 / /sys rw shared:7 - sysfs sysfs rw\n"
    "31 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 {part} /sys/fs/cgroup/memory ro master:15 - cgroup cgroup rw,memory\n"
    "33 31 0:29 {part} /sys/fs/cgroup/cpu,cpuacct ro master:17 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:30 {part} /sys/fs/cgroup/cpuset ro master:18 - cgroup cgroup rw,cpuset\n"
)
V1 = "sys/fs/cgroup/cpu,cpuacct"


def _machine(root: Path, cgroup: str, mounts: str, files: Dict[str, str]) -> Path:
    proc = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    for name, text in {**proc, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("50000 100000", 0.5), ("150000 100000", 1.5), ("max 100000", None), ("10000 20000", 0.5),
        ("200000", 2.0), ("0 100000", None), ("100000 0", None), ("", None), ("rubbish", None),
    ],
)  # fmt: skip
def test_docker_with_a_namespace_of_its_own(
    tmp_path: Path, quota: str, expected: Optional[float]
) -> None:
    files = {"sys/fs/cgroup/cpu.max": quota + "\n"}
    root = _machine(tmp_path, "0::/\n", UNIFIED.format(part="/"), files)
    assert Quota(root).cores == this_device(root).cpu_quota == expected


def test_docker_in_the_namespace_of_its_host(tmp_path: Path) -> None:
    group = "/system.slice/docker-0123.scope"
    files = {"sys/fs/cgroup/cpu.max": "50000 100000"}
    root = _machine(tmp_path, f"0::{group}\n", UNIFIED.format(part=group), files)
    assert Quota(root).cores == 0.5


def test_the_smallest_quota_of_all_ancestors_counts(tmp_path: Path) -> None:
    pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12.slice"
    top = "sys/fs/cgroup"
    files = {
        f"{top}/kubepods.slice/cpu.max": "400000 100000",
        f"{top}/{pod}/cpu.max": "90000 100000",
        f"{top}/{pod}/cri-containerd-34.scope/cpu.max": "max 100000",
        f"{top}/{pod}/cri-containerd-34.scope/inner/cgroup.procs": "1",  # no CPU controller here
        f"{top}/{pod}/cpu.stat": "usage_usec 7\nnr_periods 40\nnr_throttled 12\n",
    }
    group = f"0::/{pod}/cri-containerd-34.scope/inner\n"
    root = _machine(tmp_path, group, UNIFIED.format(part="/"), files)
    assert Quota(root).cores == 0.9
    assert Quota(root).throttling() == Throttling(40, 12)  # of the group that has the quota


def test_a_service_of_systemd_in_a_slice_with_a_quota(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/robot.slice/cpu.max": "150000 100000",
        "sys/fs/cgroup/robot.slice/robot-vision.slice/agent.service/cpu.max": "max 100000",
    }
    group = "0::/robot.slice/robot-vision.slice/agent.service\n"
    assert Quota(_machine(tmp_path, group, UNIFIED.format(part="/"), files)).cores == 1.5


@pytest.mark.parametrize("part", ["/", "/docker/0123"])
def test_version_1_with_cpu_and_cpuacct_together(tmp_path: Path, part: str) -> None:
    """The container is in the namespace of its host or, with the part `/`, in one of its own."""
    group = f"12:cpuset:{part}\n4:cpu,cpuacct:{part}\n3:memory:{part}\n1:name=systemd:{part}\n"
    files = {f"{V1}/cpu.cfs_quota_us": "150000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}
    root = _machine(tmp_path, group, SEPARATE.format(part=part), files)
    assert Quota(root).cores == 1.5


def test_version_1_without_a_quota(tmp_path: Path) -> None:
    files = {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}
    root = _machine(tmp_path, "4:cpuacct,cpu:/\n", SEPARATE.format(part="/"), files)
    assert Quota(root).cores is None
    assert Quota(root).throttling() is None


def test_version_1_beside_a_version_2_without_controllers(tmp_path: Path) -> None:
    mounts = (
        SEPARATE.format(part="/") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    files = {
        f"{V1}/user.slice/cpu.cfs_quota_us": "25000\n",
        f"{V1}/user.slice/cpu.cfs_period_us": "50000\n",
        "sys/fs/cgroup/unified/user.slice/cgroup.procs": "1\n",
    }
    root = _machine(tmp_path, "4:cpu,cpuacct:/user.slice\n0::/user.slice\n", mounts, files)
    assert Quota(root).cores == 0.5


def test_a_group_outside_of_what_is_mounted_has_the_quota_of_the_mount(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "50000 100000"}
    root = _machine(tmp_path, "0::/../other\n", UNIFIED.format(part="/mine"), files)
    assert Quota(root).cores == 0.5


def test_a_mount_may_have_a_space_and_a_group_a_colon(tmp_path: Path) -> None:
    mounts = "31 24 0:27 / /sys/fs/c\\040group rw - cgroup2 cgroup rw\n"
    files = {"sys/fs/c group/a:b/cpu.max": "50000 100000"}
    assert Quota(_machine(tmp_path, "0::/a:b\n", mounts, files)).cores == 0.5


@given(st.text("/:. \n\\0123cgroup2,-x", max_size=80), st.text("/:. \n\\04cgroup2,-x", max_size=80))
def test_whatever_the_kernel_shows_is_no_error(cgroup: str, mounts: str) -> None:
    shown = {"cgroup": cgroup, "mountinfo": f"1 2 0:3 / /sys - {mounts}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "read", lambda path: shown.get(path.name, "rubbish"))
        assert Quota().cores is None


@pytest.mark.parametrize(
    ("quota", "threads"), [("1000", 1), ("50000", 1), ("100000", 1), ("150000", 2), ("max", 4)]
)
def test_threads_follow_the_quota_and_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    files = {"sys/fs/cgroup/cpu.max": f"{quota} 100000"}
    root = _machine(tmp_path, "0::/\n", UNIFIED.format(part="/"), files)
    assert cores.usable(root) == threads


def test_only_a_quota_below_the_cores_is_in_the_device_class() -> None:
    free = Device("AMD EPYC", 2, 8, "Linux x86_64")
    wide, tight = (Device("AMD EPYC", 2, 8, "Linux x86_64", cpu_quota=q) for q in (2.0, 0.5))
    key = free.class_key("onnxruntime-cpu", "1.20")
    assert key == "amd-epyc_2c_8gib_linux-x86-64_onnxruntime-cpu-1.20"
    assert wide.class_key("onnxruntime-cpu", "1.20") == key
    limited = tight.class_key("onnxruntime-cpu", "1.20")
    assert limited == "amd-epyc_2c_0.5cpus_8gib_linux-x86-64_onnxruntime-cpu-1.20"
    assert short_names([key, limited]) == {
        key: "epyc 2c, onnxruntime-cpu",
        limited: "epyc 2c quota 0.5, onnxruntime-cpu",
    }


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real cgroup with a quota of half a core; making one needs root."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"ramnas-test-{os.getpid()}"
    try:
        group.mkdir()
        if v1.is_dir():
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


BUSY = """
import sys, time
from pathlib import Path
from ramnas_edge.board.cores import Quota, usable
Path(sys.argv[1], "cgroup.procs").write_text("0")
quota, end_s = Quota(), time.monotonic() + 1.0
before = quota.throttling()
while time.monotonic() < end_s:
    pass
print(quota.cores, usable(), quota.throttling().throttled > before.throttled)
"""


def test_a_real_cgroup_with_a_quota_is_found_and_throttles(half_a_core: Path) -> None:
    command = [sys.executable, "-c", BUSY, str(half_a_core)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "1", "True"]


@pytest.mark.parametrize("error", [AttributeError(), PermissionError(1, "Operation not permitted")])
def test_where_the_affinity_is_hidden_all_cores_count(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> None:
        raise error

    monkeypatch.setattr(os, "sched_getaffinity", refused)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.affinity() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.affinity() == 6
