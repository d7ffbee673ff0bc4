"""Short names of device classes are readable and never the same for two classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.board.device import Device
from ramnas_edge.board.short_names import legend, short_names

XEON = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"


@pytest.mark.parametrize(
    ("device_class", "short"),
    [
        (XEON, "xeon 2c, onnxruntime-cpu"),
        (
            "amd-epyc-9r14_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32",
            "epyc 9r14 2c, onnxruntime-cpu",
        ),
        (
            "nvidia-jetson-agx-orin-developer-kit_12c_64gib_l4t-36.4_30w_locked_tensorrt-10.3",
            "agx orin 12c 30w, tensorrt",
        ),
        (
            "raspberry-pi-5-model-b-rev-1.0_4c_8gib_linux-aarch64_onnxruntime-cpu-1.20",
            "raspberry pi 5 4c, onnxruntime-cpu",
        ),
        ("board", "board"),  # not a device class
    ],
)
def test_a_device_class_has_a_short_name(device_class: str, short: str) -> None:
    assert short_names([device_class]) == {device_class: short}


def test_classes_that_would_share_a_name_say_how_they_differ() -> None:
    more, newer = XEON.replace("24gib", "64gib"), XEON.replace("1.32", "1.33")
    assert short_names([XEON, more, newer]) == {
        XEON: "xeon 2c, onnxruntime-cpu, 24gib, version 1.32",
        more: "xeon 2c, onnxruntime-cpu, 64gib",
        newer: "xeon 2c, onnxruntime-cpu, 24gib, version 1.33",
    }


def test_the_legend_says_what_a_short_name_stands_for() -> None:
    assert legend(short_names([XEON, "board"])) == [f"xeon 2c, onnxruntime-cpu = {XEON}"]


MODULES = st.sampled_from(
    ["Intel(R) Xeon(R) Processor", "AMD EPYC 9R14", "NVIDIA Jetson AGX Orin", "CPU", "Cortex-A76"]
)


@given(
    st.lists(
        st.builds(
            lambda module, cores, memory, mode, locked, engine, version: Device(
                module, cores, memory, "Linux x86_64", mode, locked
            ).class_key(engine, version),
            MODULES, st.integers(1, 3), st.sampled_from([8, 16]),
            st.sampled_from([None, "30W", "MAXN"]), st.sampled_from([None, False, True]),
            st.sampled_from(["onnxruntime-cpu", "tensorrt"]), st.sampled_from(["1.20.1", "10.3"]),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_no_two_classes_have_the_same_name(classes: list) -> None:
    names = short_names(classes)
    assert set(names) == set(classes)
    assert len(set(names.values())) == len(names)
