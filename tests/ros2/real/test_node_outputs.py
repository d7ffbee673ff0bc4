"""The outputs of the node, with real messages and fake publishers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from ramnas_edge.vision.results import Detections, Mask, Timing
from ramnas_ros import cdr, messages, outputs
from ramnas_ros.outputs import Outputs
from ramnas_ros.perception_node import TYPES

NAMES = ("background", "person", "car")
IMAGE = np.full((4, 6, 3), 100, np.uint8)
TIMING = Timing(0.1, 0.2, 0.3)
FOUND = Detections(
    np.array([[1, 2, 4, 3.5]], np.float32), np.array([0.75], np.float32), np.array([2]), NAMES,
    TIMING,
)  # fmt: skip
MASK = Mask(np.array([[0, 1, 2]] * 2, np.uint8).repeat(2, 0).repeat(2, 1), NAMES, TIMING)


class FakePublisher:
    """Has as many subscribers as a test sets, and keeps what was sent."""

    def __init__(self, kind: Any, topic: str) -> None:
        self.kind, self.topic, self.subscribers, self.sent = kind, topic, 0, []  # type: ignore[var-annotated]

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message: Any) -> None:
        if isinstance(message, bytes):
            message = deserialize_message(message, self.kind)
        assert isinstance(message, self.kind)
        self.sent.append(message)


def made() -> Outputs:
    return Outputs(FakePublisher, TYPES, "~/", ("detection", "segmentation"))


def publish(out: Outputs, stamp: int = 5, overlay: bool = True) -> None:
    header = Header(frame_id="eye")
    header.stamp.sec = stamp
    out.publish(
        header, IMAGE, [FOUND, MASK], start_s=0.0, now_ns=lambda: 5_250_000_000, overlay=overlay
    )


@pytest.mark.parametrize("name", ["detections", "mask", "mask_color", "overlay"])
def test_only_outputs_with_a_subscriber_are_computed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed_by = {
        "detections": (cdr, "detection_array"),
        "mask_color": (messages, "coloured"),
        "overlay": (outputs, "annotated"),
    }
    for other, (module, function) in computed_by.items():
        if other != name:
            monkeypatch.setattr(module, function, None)
    out = made()
    out.publishers[name].subscribers = 1
    publish(out)
    always = {"pipeline_latency_ms", "processing_time_ms"}
    assert {n for n, p in out.publishers.items() if p.sent} == {name} | always
    assert out.publishers[name].topic == f"~/{name}"


def test_every_message_carries_the_header_of_its_image() -> None:
    out = made()
    for publisher in out.publishers.values():
        publisher.subscribers = 1
    publish(out)
    for name in ("detections", "mask", "mask_color", "overlay"):
        (message,) = out.publishers[name].sent
        assert (message.header.frame_id, message.header.stamp.sec) == ("eye", 5)
    assert out.publishers["pipeline_latency_ms"].sent[0].data == 250.0


def by_hand(header: Header, found: Detections) -> Detection2DArray:
    """The message as it is usually built, from Python objects."""
    array = Detection2DArray(header=header)
    for (x0, y0, x1, y1), score, index in zip(
        found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
    ):
        one, hypothesis = Detection2D(header=header), ObjectHypothesisWithPose()
        one.bbox.center.position.x, one.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        one.bbox.size_x, one.bbox.size_y = x1 - x0, y1 - y0
        hypothesis.hypothesis.class_id = found.names[index]
        hypothesis.hypothesis.score = score
        one.results = [hypothesis]
        array.detections.append(one)
    return array


def test_boxes_are_given_by_centre_and_size_in_pixels() -> None:
    (one,) = by_hand(Header(), FOUND).detections
    box, (hypothesis,) = one.bbox, one.results
    assert (box.center.position.x, box.center.position.y) == (2.5, 2.75)
    assert (box.size_x, box.size_y, box.center.theta) == (3.0, 1.5, 0.0)
    assert (hypothesis.hypothesis.class_id, hypothesis.hypothesis.score) == ("car", 0.75)


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("frame", ["", "c", "camera", "caméra"])
def test_the_serialised_detections_equal_the_message(count: int, frame: str) -> None:
    rng = np.random.default_rng(count)
    names = ("a", "ab", "abc", "traffic light", "größer")
    found = Detections(
        rng.uniform(0, 640, (count, 4)).astype(np.float32),
        rng.random(count, np.float32),
        rng.integers(0, len(names), count),
        names,
        TIMING,
    )
    header = Header(frame_id=frame)
    header.stamp.sec, header.stamp.nanosec = 1_795_000_000, 999_999_999
    made, expected = cdr.detection_array(header, found), by_hand(header, found)
    assert deserialize_message(made, Detection2DArray) == expected
    assert len(made) == len(serialize_message(expected))  # only the padding bytes may differ


def test_a_mask_is_published_as_indices_and_in_colours_with_a_black_background() -> None:
    out = made()
    out.publishers["mask"].subscribers = out.publishers["mask_color"].subscribers = 1
    publish(out)
    (mask,), (colour,) = (out.publishers[name].sent for name in ("mask", "mask_color"))
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", 4, 6, 6)
    assert bytes(mask.data[:6]) == bytes([0, 0, 1, 1, 2, 2])
    pixels = np.frombuffer(colour.data, np.uint8).reshape(4, 6, 3)
    assert not pixels[:, :2].any()
    assert (pixels[0, 2] != pixels[0, 4]).any()


def test_an_image_without_a_stamp_gives_no_pipeline_latency() -> None:
    out = made()
    publish(out, stamp=0)
    assert not out.publishers["pipeline_latency_ms"].sent
    assert len(out.publishers["processing_time_ms"].sent) == 1


def test_the_overlay_can_be_switched_off() -> None:
    out = made()
    out.publishers["overlay"].subscribers = 1
    publish(out, overlay=False)
    assert not out.publishers["overlay"].sent
    publish(out)
    drawn = out.publishers["overlay"].sent[0]
    assert isinstance(drawn, Image)
    assert bytes(drawn.data) != IMAGE.tobytes()
