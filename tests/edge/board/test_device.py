from __future__ import annotations

from pathlib import Path

import pytest

from ramnas_edge.board.device import Device, this_device
from tests.edge.board.emulated_jetson import build


def test_this_machine_has_a_stable_class_key() -> None:
    key = this_device().class_key("onnxruntime-cpu", "1.31.1")
    # the patch level does not matter
    assert key == this_device().class_key("onnxruntime-cpu", "1.31.9")
    assert key != this_device().class_key("onnxruntime-cpu", "1.30.0")
    assert key.endswith("_onnxruntime-cpu-1.31")


def test_every_fact_of_a_jetson_is_found(tmp_path: Path) -> None:
    build(tmp_path)
    _files(tmp_path, {"proc/meminfo": "MemTotal:       32096308 kB\n"})
    device = this_device(tmp_path)
    assert device.module == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (device.system, device.l4t, device.jetpack) == ("L4T 36.4", "36.4.3", "6.2")
    assert (device.gpu, device.memory_gib) == ("Ampere ga10b", 32)
    assert (device.power_mode, device.clocks_locked) == ("MAXN", False)
    assert "_l4t-36.4_maxn_onnxruntime-cuda-1.18" in device.class_key("onnxruntime-cuda", "1.18.0")


def test_an_unknown_l4t_gives_no_jetpack_version(tmp_path: Path) -> None:
    build(tmp_path)
    _files(tmp_path, {"etc/nv_tegra_release": "# R36 (release), REVISION: 99.7, GCID: 1\n"})
    device = this_device(tmp_path)
    assert (device.system, device.l4t, device.jetpack) == ("L4T 36.99", "36.99.7", None)


def test_nvpmodel_tells_the_power_mode_if_its_status_file_is_missing(
    tmp_path: Path,
) -> None:
    build(tmp_path)
    tool = tmp_path / "usr/bin/nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: MODE_30W'\necho 2\n")
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    assert this_device(tmp_path).power_mode == "MODE_30W"
    tool.unlink()
    assert this_device(tmp_path).power_mode is None


def test_an_arm_board_without_a_model_name_is_identified_by_its_device_tree(tmp_path: Path) -> None:
    _files(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\n",
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/cpus/cpu@0/compatible": "arm,cortex-a76\0",
        },
    )
    device = this_device(tmp_path)
    assert (device.module, device.cpu) == ("Raspberry Pi 5 Model B Rev 1.0", "arm,cortex-a76")
    assert (device.gpu, device.power_mode, device.clocks_locked) == (None, None, None)


def test_the_nvidia_card_of_an_x86_board_is_found(tmp_path: Path) -> None:
    _files(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Intel(R) Core(TM) i7-1270P\n",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": (
                "Model: \t\t NVIDIA RTX A500 Laptop GPU\nIRQ:   \t\t 16\n"
            ),
        },
    )
    device = this_device(tmp_path)
    assert device.module == device.cpu == "Intel(R) Core(TM) i7-1270P"
    assert device.gpu == "NVIDIA RTX A500 Laptop GPU"


@pytest.mark.parametrize(
    ("reserved_gib", "bought"),
    [([0.4, 0.7], 8), ([0.5, 1.7], 16), ([0.8, 1.4, 2.0], 32), ([1.2, 3.9], 64), ([0.05], 2)],
)
def test_boards_of_one_kind_have_the_same_memory_size(
    tmp_path: Path, reserved_gib: list[float], bought: int
) -> None:
    """Kernels and device trees reserve a part of the memory, and not always the same part."""
    for reserved in reserved_gib:
        kib = int((bought - reserved) * 2**20)
        _files(tmp_path, {"proc/meminfo": f"MemTotal:       {kib} kB\n"})
        assert this_device(tmp_path).memory_gib == bought


def test_power_mode_and_locked_clocks_are_part_of_the_key() -> None:
    device = Device("Orin", 8, 31, "L4T 36.4", "MAXN", True)
    assert device.class_key("e", "1.2") == "orin_8c_31gib_l4t-36.4_maxn_locked_e-1.2"
    free = Device("Orin", 8, 31, "L4T 36.4", "MAXN", False)
    assert free.class_key("e", "1.2") == "orin_8c_31gib_l4t-36.4_maxn_e-1.2"


def test_facts_that_do_not_change_the_speed_are_not_part_of_the_key() -> None:
    one = Device("Orin", 8, 32, "L4T 36.4", gpu="Ampere ga10b", l4t="36.4.3", jetpack="6.2")
    other = Device("Orin", 8, 32, "L4T 36.4", l4t="36.4.4", jetpack="6.2.1")
    assert one.class_key("e", "1") == other.class_key("e", "1")


def _files(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
