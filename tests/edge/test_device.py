from __future__ import annotations

from pathlib import Path

from ramnas_edge.device import Device, this_device


def test_this_machine_has_a_stable_class_key() -> None:
    key = this_device().class_key("onnxruntime-cpu", "1.31.1")
    assert key == this_device().class_key("onnxruntime-cpu", "1.31.9")  # patch levels are alike
    assert key != this_device().class_key("onnxruntime-cpu", "1.30.0")
    assert key.endswith("_onnxruntime-cpu-1.31")


def test_a_jetson_is_known_by_its_module_and_l4t(tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/meminfo": "MemTotal:       32096308 kB\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    device = this_device(tmp_path)
    assert device.module == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (device.system, device.memory_gib) == ("L4T 36.4", 31)


def test_power_mode_and_clocks_are_part_of_the_key() -> None:
    device = Device("Orin", 8, 31, "L4T 36.4", "MAXN", True)
    assert device.class_key("e", "1.2") == "orin_8c_31gib_l4t-36.4_maxn_locked_e-1.2"
