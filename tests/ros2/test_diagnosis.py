from __future__ import annotations

import re
from typing import Any, Dict

import msgspec
import pytest

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Sample
from ramnas_ros.diagnosis import (
    ERROR,
    OK,
    WARN,
    Camera,
    Running,
    Status,
    board_values,
    diagnose,
)

RUNNING = Running(
    models=(("detection", "models/d.onnx", "abc"),), engine="onnxruntime-cpu",
    providers=("CPUExecutionProvider",), policy="fixed", switches=2, processed=90, failures=0,
    source="calibrated on 2026-11-24", calibrated=True, expected_p90_ms=18.0, budget_ms=25.0,
    calls=50, p50_ms=12.0, p90_ms=20.0,
)  # fmt: skip
CAMERA = Camera("image", "/image", received=100, dropped=10, lost=0, lost_share=0.0, silent_s=0.03)


def seen(failure: str = "", camera: Any = None, **running: Any) -> Status:
    cameras = (msgspec.structs.replace(CAMERA, **(camera or {})),)
    return diagnose("active", failure, msgspec.structs.replace(RUNNING, **running), cameras)


def test_all_is_well_in_one_line_and_in_figures() -> None:
    found = seen()
    assert (found.level, found.message) == (OK, "p90 20 ms, budget 25 ms")
    values = dict(found.values)
    assert values["detection arch"] == "abc"
    assert values["margin (ms)"] == "5"
    assert (values["frames in"], values["frames dropped"], values["switches"]) == ("100", "10", "2")
    assert values["providers"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("camera", "running", "text"),
    [
        ({}, {"p90_ms": 26.0}, "the budget of 25 ms is missed: p90 is 26 ms"),
        ({}, {"calibrated": False, "source": "timed at start"}, "not calibrated on this board"),
        ({}, {"left": (("tensorrt", "no memory"),)}, "engine tensorrt failed and was left for"),
        ({"lost_share": 0.4}, {}, "40% of the frames were lost .*fastdds_image.xml"),
        ({"silent_s": 9.0}, {}, "no image on /image for 9 s"),
        ({"refusal": "encoding 'x'"}, {}, "image refused: encoding 'x'"),
        ({"incompatible": "reliability"}, {}, "does not offer the reliability .*sensor_data"),
    ],
)
def test_what_an_operator_should_know_is_a_warning(
    camera: Dict[str, Any], running: Dict[str, Any], text: str
) -> None:
    found = seen(camera=camera, **running)
    assert found.level == WARN
    assert re.search(text, found.message)


def test_a_failure_is_an_error_and_comes_before_the_warnings() -> None:
    found = seen(failure="engine x failed", p90_ms=26.0)
    assert found.level == ERROR
    assert found.message.startswith("engine x failed; the budget of 25 ms is missed")


@pytest.mark.parametrize(
    "running",
    [
        {"p90_ms": 26.0, "calls": 3},  # too few to say so
        {"p90_ms": 99.0, "budget_ms": None},
        {"calibrated": False, "budget_ms": None},  # no figure was needed
    ],
)
def test_nothing_is_said_without_a_reason(running: Dict[str, Any]) -> None:
    assert seen(**running).level == OK


def test_what_is_not_known_is_left_out() -> None:
    found = seen(budget_ms=None, expected_p90_ms=None, calls=0, p50_ms=None, p90_ms=None)
    assert found.message == "no frame yet"
    assert not [key for key, _ in found.values if "(ms)" in key]


def test_before_it_is_configured_and_while_inactive_silence_is_no_warning() -> None:
    assert diagnose("unconfigured", "", None).message == "not configured"
    silent = msgspec.structs.replace(CAMERA, silent_s=60.0)
    assert diagnose("inactive", "", RUNNING, (silent,)).level == OK
    assert diagnose("unconfigured", "cannot configure: no bundle", None).level == ERROR


def test_several_cameras_are_told_apart() -> None:
    left, right = (msgspec.structs.replace(CAMERA, name=n, topic=f"/{n}/image") for n in "lr")
    right = msgspec.structs.replace(right, lost_share=0.5)
    found = diagnose("active", "", RUNNING, (left, right))
    assert found.message.startswith("/r/image: 50% of the frames")
    assert {"l: frames in", "r: frames in"} <= {key for key, _ in found.values}


def test_the_board_says_its_hottest_zone_and_its_mode() -> None:
    device = Device(module="Orin", cores=8, memory_gib=32, system="L4T 36.4", power_mode="15W")
    sample = Sample(0.0, temperature_c={"cpu": 61.0, "gpu": 64.26}, limits=("hot",))
    assert board_values(device, sample) == {
        "board": "Orin", "power mode": "15W", "temperature (degrees C)": "64.3 (gpu)",
        "throttled by": "hot",
    }  # fmt: skip
    assert set(board_values(msgspec.structs.replace(device, power_mode=None), None)) == {"board"}
