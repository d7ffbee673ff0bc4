from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ramnas_ros import parameters, transport
from tests.ros2.recorded_launch import Context, record

SHARE = Path(__file__).parents[2] / "ros2_pkg"
CONFIG = SHARE / "config"
DEFAULTS = {p.name: p.default for p in parameters.PARAMETERS}


@pytest.fixture(autouse=True)
def no_profile_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in transport.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def launched(name: str, **arguments: str) -> Context:
    return record(SHARE / "launch" / f"{name}.launch.py", SHARE, **arguments)


def overrides(context: Context) -> dict[str, Any]:
    (perception,) = (p for p in context.processes if p.executable == "perception_node")
    return dict(perception.parameters[-1])


def test_without_arguments_the_parameter_file_decides_everything() -> None:
    context = launched("perception")
    (process,) = context.processes
    assert (process.package, process.executable) == ("ramnas", "perception_node")
    assert process.parameters == [str(CONFIG / "perception.yaml"), {"autostart": True}]
    assert process.ros_arguments == [
        "-r", "__node:=perception", "-r", "__ns:=/", "-r", "image:=image"
    ]  # fmt: skip


def test_arguments_override_the_parameter_file() -> None:
    context = launched(
        "perception", bundle="2026", task="both", latency_budget_ms="20", autostart="false",
        namespace="robot1", image_topic="/front/image_raw", params_file="mine.yaml",
    )  # fmt: skip
    (process,) = context.processes
    assert process.parameters[0] == "mine.yaml"
    assert overrides(context) == {
        "bundle": "2026", "task": "both", "latency_budget_ms": 20.0, "autostart": False
    }  # fmt: skip
    assert "__ns:=/robot1" in process.ros_arguments
    assert "image:=/front/image_raw" in process.ros_arguments
    assert not parameters.refusal({**DEFAULTS, **overrides(context)}, DEFAULTS, False)


def test_a_budget_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'soon' is not a float"):
        launched("perception", latency_budget_ms="soon")


@pytest.mark.parametrize("name", ["perception", "perception_with_camera"])
def test_every_process_gets_the_transport_profile(name: str) -> None:
    processes = launched(name).processes
    assert len(processes) == (2 if name.endswith("camera") else 1)
    for process in processes:
        for variable in transport.VARIABLES:
            assert process.environment[variable] == str(CONFIG / "fastdds_image.xml")


@pytest.mark.parametrize(("segments", "warnings"), [(0, 0), (2**30, 1)])
def test_too_little_shared_memory_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, segments: int, warnings: int
) -> None:
    monkeypatch.setattr(transport, "SEGMENTS", segments)
    messages = launched("perception").messages
    assert len(messages) == warnings
    assert all(message.startswith("warning: /dev/shm has ") for message in messages)


def test_camera_and_node_share_topic_and_namespace() -> None:
    context = launched("perception_with_camera", namespace="robot1", latency_budget_ms="15")
    node, camera = context.processes
    assert (camera.package, camera.executable) == ("v4l2_camera", "v4l2_camera_node")
    assert "__ns:=/robot1" in node.ros_arguments
    assert "__ns:=/robot1" in camera.ros_arguments
    assert "image:=image_raw" in node.ros_arguments
    assert overrides(context) == {"latency_budget_ms": 15.0, "autostart": True}


@pytest.mark.parametrize("name", ["perception", "perception_with_camera"])
def test_every_argument_has_a_description_and_is_in_the_docs(name: str) -> None:
    arguments = launched(name).arguments
    assert {"bundle", "task", "latency_budget_ms", "image_topic", "namespace", "autostart"} <= set(
        arguments
    )
    assert all(description for _, description in arguments.values())
    guide = (SHARE.parent / "docs/ros2.md").read_text(encoding="utf-8")
    assert all(f"`{argument}`" in guide for argument in arguments)


@pytest.mark.parametrize("file", ["perception.yaml", "two_cameras.yaml"])
def test_the_node_accepts_every_value_of_the_parameter_file(file: str) -> None:
    values = yaml.safe_load((CONFIG / file).read_text())["/**"]["ros__parameters"]
    assert set(values) <= set(DEFAULTS)
    assert parameters.refusal(values, DEFAULTS, configured=False) == ""
    if file == "perception.yaml":  # the shipped file shows the defaults
        assert values == {name: DEFAULTS[name] for name in values}
