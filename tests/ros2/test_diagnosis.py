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
    CameraState,
    Diagnosis,
    RunningModels,
    board_values,
    diagnose,
)

RUNNING = RunningModels(
    models=(("detection", "models/d.onnx", "abc"),), engine="onnxruntime-cpu",
    providers=("CPUExecutionProvider",), policy="fixed", switches=2, processed=90, failures=0,
    source="calibrated on 2026-11-24", calibrated=True, expected_p90_ms=18.0, budget_ms=25.0,
    calls=50, p50_ms=12.0, p90_ms=20.0,
)  # fmt: skip
CAMERA = CameraState(
    "image", "/image", received=100, dropped=10, lost=0, lost_share=0.0, silent_s=0.03
)


def diagnosed(failure: str = "", camera: Any = None, **running: Any) -> Diagnosis:
    cameras = (msgspec.structs.replace(CAMERA, **(camera or {})),)
    return diagnose("active", failure, msgspec.structs.replace(RUNNING, **running), cameras)


def test_when_all_is_well_the_message_is_one_line_and_the_values_hold_the_details() -> None:
    found = diagnosed()
    assert (found.level, found.message) == (OK, "p90 20 ms, budget 25 ms")
    values = dict(found.values)
    assert values["detection arch"] == "abc"
    assert values["margin (ms)"] == "5"
    assert (values["frames in"], values["frames dropped"], values["switches"]) == ("100", "10", "2")
    assert values["providers"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("camera", "running", "text"),
    [
        ({}, {"p90_ms": 26.0}, "p90 is 26 ms, over the budget of 25 ms"),
        (
            {},
            {"calibrated": False, "source": "timed at start"},
            "were not calibrated on this board \\(timed at start\\)",
        ),
        ({}, {"failed_engines": (("tensorrt", "no memory"),)}, "engine tensorrt failed and onn"),
        ({"lost_share": 0.4}, {}, "40% of the frames were lost .*fastdds_image.xml"),
        ({"silent_s": 9.0}, {}, "no image on /image for 9 s"),
        ({"refusal": "encoding 'x'"}, {}, "image refused: encoding 'x'"),
        (
            {"incompatible": "reliability"},
            {},
            "does not offer the requested reliability.*sensor_data",
        ),
    ],
)
def test_a_problem_that_an_operator_can_solve_is_a_warning(
    camera: Dict[str, Any], running: Dict[str, Any], text: str
) -> None:
    found = diagnosed(camera=camera, **running)
    assert found.level == WARN
    assert re.search(text, found.message)


def test_a_failure_is_an_error_and_comes_before_the_warnings() -> None:
    found = diagnosed(failure="engine x failed", p90_ms=26.0)
    assert found.level == ERROR
    assert found.message.startswith("engine x failed; p90 is 26 ms, over the budget")


@pytest.mark.parametrize(
    "running",
    [
        {"p90_ms": 26.0, "calls": 3},  # too few calls to judge
        {"p90_ms": 99.0, "budget_ms": None},
        {"calibrated": False, "budget_ms": None},  # without a budget no latency was needed
    ],
)
def test_there_is_no_warning_without_a_reason(running: Dict[str, Any]) -> None:
    assert diagnosed(**running).level == OK


def test_unknown_values_are_left_out() -> None:
    found = diagnosed(budget_ms=None, expected_p90_ms=None, calls=0, p50_ms=None, p90_ms=None)
    assert found.message == "no frame yet"
    assert not [key for key, _ in found.values if "(ms)" in key]


def test_a_silent_camera_is_a_warning_only_while_the_node_is_active() -> None:
    assert diagnose("unconfigured", "", None).message == "not configured"
    silent = msgspec.structs.replace(CAMERA, silent_s=60.0)
    assert diagnose("inactive", "", RUNNING, (silent,)).level == OK
    assert diagnose("unconfigured", "cannot configure: no bundle", None).level == ERROR


def test_warnings_and_values_name_the_camera_if_there_are_several() -> None:
    left, right = (msgspec.structs.replace(CAMERA, name=n, topic=f"/{n}/image") for n in "lr")
    right = msgspec.structs.replace(right, lost_share=0.5)
    found = diagnose("active", "", RUNNING, (left, right))
    assert found.message.startswith("/r/image: 50% of the frames")
    assert {"l: frames in", "r: frames in"} <= {key for key, _ in found.values}


def test_the_values_of_the_board_are_its_name_mode_hottest_zone_and_throttling() -> None:
    device = Device(module="Orin", cores=8, memory_gib=32, system="L4T 36.4", power_mode="15W")
    sample = Sample(0.0, temperature_c={"cpu": 61.0, "gpu": 64.26}, limits=("hot",))
    assert board_values(device, sample) == {
        "board": "Orin", "power mode": "15W", "temperature (degrees C)": "64.3 (gpu)",
        "throttled by": "hot",
    }  # fmt: skip
    assert set(board_values(msgspec.structs.replace(device, power_mode=None), None)) == {"board"}
