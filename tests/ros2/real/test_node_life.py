"""The node's life cycle and parameters, changed through services as on a robot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vision_msgs.msg import Detection2DArray, LabelInfo

from tests.ros2.real.station import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    Station,
    image,
    perception,
    stamp_s,
    until,
    values_of,
)

FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def node(station: Station, bundle: Path) -> Iterator[None]:
    """A running node that is not configured."""
    with perception(bundle=bundle, engine="onnxruntime-cpu", score_threshold=0.26):
        assert station.state() == "unconfigured"
        yield


@pytest.fixture(autouse=True)
def unconfigured(station: Station, node: None) -> Iterator[None]:
    yield
    if station.state() == "active":
        assert station.change(DEACTIVATE)
    if station.state() == "inactive":
        assert station.change(CLEANUP)


def test_the_node_works_only_while_active_and_keeps_its_models_open(station: Station) -> None:
    station.status(lambda s: s.message == "not configured", "the message of an unconfigured node")
    assert station.change(CONFIGURE)
    assert station.state() == "inactive"
    found = station.listen(Detection2DArray, "/perception/detections")
    assert not station.node.count_subscribers("/image")
    assert station.change(ACTIVATE)
    camera = station.camera("/image")
    first = station.answer(camera, image(FRAME, 1.0), found)
    assert station.change(DEACTIVATE)
    until(lambda: not camera.get_subscription_count(), "the end of the subscription")
    camera.publish(image(FRAME, 2.0))
    assert station.change(ACTIVATE)
    until(camera.get_subscription_count, "the new subscription")
    second = station.answer(camera, image(FRAME, 3.0), found)
    assert {stamp_s(message) for message in found} == {1.0, 3.0}
    assert first.header.frame_id == first.detections[0].header.frame_id == "camera"
    assert [(d.results, d.bbox) for d in first.detections] == [
        (d.results, d.bbox) for d in second.detections
    ]
    station.destroy(camera)


def test_a_late_subscriber_receives_the_labels(station: Station) -> None:
    from rclpy.qos import DurabilityPolicy

    assert station.change(CONFIGURE)
    assert station.change(ACTIVATE)
    camera = station.camera("/image")
    found = station.listen(Detection2DArray, "/perception/detections")
    station.answer(camera, image(FRAME, 4.0), found)
    latched = DurabilityPolicy.TRANSIENT_LOCAL
    labels = station.listen(LabelInfo, "/perception/label_info", durability=latched)
    until(lambda: labels, "the labels")
    assert [(c.class_id, c.class_name) for c in labels[0].class_map] == [
        (0, "a"), (1, "b"), (2, "c"),
    ]  # fmt: skip
    assert labels[0].threshold == pytest.approx(0.26)
    station.destroy(camera)


def test_a_transition_that_the_state_does_not_have_is_refused_and_the_node_lives(
    station: Station,
) -> None:
    assert not station.change(ACTIVATE)
    assert station.state() == "unconfigured"
    assert station.change(CONFIGURE)
    assert not station.change(CONFIGURE)
    assert station.state() == "inactive"


def test_a_missing_bundle_is_reported_and_another_can_be_set(
    station: Station, bundle: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(bundle, gone)
    assert station.set(bundle=str(gone)) == ""
    shutil.rmtree(gone)
    assert not station.change(CONFIGURE)
    assert station.state() == "unconfigured"
    level, message, _ = station.status(lambda s: "cannot configure" in s.message, "the reason")
    assert level == 2
    assert f"{gone} is not a bundle" in message
    assert station.set(bundle=str(bundle)) == ""
    assert station.change(CONFIGURE)
    station.status(lambda s: s.level == b"\x00", "a status without warnings")


def test_parameters_have_descriptions_and_ranges(station: Station) -> None:
    budget, policy = station.describe("latency_budget_ms"), station.describe("policy")
    assert "p90" in budget.description
    assert (budget.floating_point_range[0].from_value, budget.floating_point_range[0].to_value) == (
        0.0, 60_000.0,
    )  # fmt: skip
    assert policy.additional_constraints == "one of fixed, adaptive"
    assert station.describe("max_detections").integer_range[0].to_value == 1000


def test_bad_values_are_refused_with_a_reason(station: Station) -> None:
    assert "out of range" in station.set(latency_budget_ms=-1.0)
    assert "is not between 0 and 60000" in station.set(latency_budget_ms=-1)
    assert "is not a number" in station.set(latency_budget_ms="fast")
    assert "out of range" in station.set(max_detections=0)
    assert "is not one of" in station.set(task="classification")
    assert "gives two cameras the same name" in station.set(image_topics=["/a/image", "/a/color"])
    assert station.set(image_topics=["/left/image", "/right/image"]) == ""
    assert station.set(image_topics=["image"]) == ""
    assert station.change(CONFIGURE)
    assert "clean the node up first" in station.set(task="segmentation")
    assert "needs a budget to keep" in station.set(policy="adaptive")
    assert "no model fits 0.001 ms: the fastest" in station.set(latency_budget_ms=0.001)
    assert station.set(latency_budget_ms=60_000, policy="adaptive") == ""
    now = {"budget (ms)": "6e+04", "policy": "adaptive"}
    station.status(lambda s: now.items() <= values_of(s).items(), "the budget and the policy")
    assert station.set(latency_budget_ms=0.0, policy="fixed") == ""
    station.status(
        lambda s: values_of(s).get("policy") == "fixed" and "budget (ms)" not in values_of(s),
        "policy fixed without a budget",
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("latency_budget_ms:=-3.5", "latency_budget_ms"),
        ("task:=everything", "is not one of detection, segmentation, both"),
        ("threads:=two", "expecting type 'INTEGER'"),
    ],
)
def test_a_bad_value_at_the_start_is_one_line_and_exit_code_2(value: str, reason: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ramnas_ros.perception_node", "--ros-args", "-p", value],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
