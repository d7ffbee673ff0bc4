"""A camera that does not wait, for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import Image
from std_msgs.msg import Float32
from vision_msgs.msg import Detection2DArray

from ramnas_ros.perception_node import ImageExecutor, SubscriptionEventCallbacks
from ramnas_ros.stamps import PAUSE
from tests.ros2.real.station import (
    PROFILE,
    Station,
    image,
    perception,
    process,
    until,
    values_of,
)

CPU = "onnxruntime-cpu"
SECONDS = 20


def test_a_camera_at_30_hz_is_followed_and_no_frame_is_old(
    station: Station, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """640x480 rgb8 between processes that have the shipped profile of the transport."""
    found = station.listen_before(Detection2DArray, "/perception/detections", depth=1000)
    latency = station.listen_before(Float32, "/perception/pipeline_latency_ms", depth=1000)
    processing = station.listen_before(Float32, "/perception/processing_time_ms", depth=1000)
    shown = 30 * SECONDS
    with perception(bundle=bundle, engine=CPU, autostart=True, environment=PROFILE), process(
        "tests.ros2.real.camera", "/image", "30", str(shown), "480", "640", "best_effort",
        **PROFILE,
    ):  # fmt: skip
        until(lambda: found, "the first result")
        until(lambda: int(found[-1].header.frame_id) >= shown - 5, "the last frames", 120)
        _, _, values = station.status(
            lambda s: int(values_of(s)["frames processed"]) >= len(found), "all of them counted"
        )
    numbers = [int(message.header.frame_id) for message in found]
    assert numbers == sorted(set(numbers))  # never an older one after a newer one
    assert len(numbers) >= 0.5 * shown
    received, dropped, lost = (
        int(values[key]) for key in ("frames in", "frames dropped", "frames lost before")
    )
    # not counted as lost: what came before the first that arrived, and a standstill of a second
    steps = np.diff([0, *numbers])
    counted = shown - steps[0] - steps[1:][steps[1:] > 0.7 * PAUSE].sum()
    age = np.array([m.data for m in latency]).mean() - np.array([m.data for m in processing]).mean()
    with capsys.disabled():
        print(
            f"\n{shown} frames at 30 Hz: {received} arrived, {lost} lost, {dropped} replaced, "
            f"{len(numbers)} results from the {numbers[0]}th on; mean age at the start {age:.1f} ms"
        )
    assert received + lost >= 0.95 * counted
    assert lost <= 0.25 * shown  # without the profile it is 0.4
    assert age < 10 * 1000 / 30  # what a queue of ten would make of it


def test_an_event_is_waited_for_only_while_its_subscription_is(station: Station) -> None:
    """Fast DDS has one condition for both: a thread that is taking an image would be spun at."""
    node = rclpy.create_node("of_one_image", context=station.node.context)
    events = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
    images = node.create_subscription(
        Image, "/spun", lambda message: None, 1, event_callbacks=events
    )
    executor = ImageExecutor(2, context=station.node.context)
    executor.add_node(node)
    assert images.event_handlers
    assert all(executor.can_execute(event) for event in images.event_handlers)
    images._executor_event = True  # as from a message's arrival until a thread has taken it
    assert not any(executor.can_execute(event) for event in images.event_handlers)
    node.destroy_node()


def test_what_is_destroyed_while_it_is_gathered_does_not_end_the_spinning(station: Station) -> None:
    class Meanwhile(ImageExecutor):
        """As if another thread destroyed the subscription: after it was found, before the wait."""

        def can_execute(self, entity: Any) -> bool:
            found = bool(super().can_execute(entity))
            if entity in images.event_handlers:
                node.destroy_subscription(images)
            return found

    node = rclpy.create_node("of_two", context=station.node.context)
    events = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
    images = node.create_subscription(
        Image, "/destroyed", lambda message: None, 1, event_callbacks=events
    )
    heard: list[Image] = []
    node.create_subscription(Image, "/kept", heard.append, 1)
    executor = Meanwhile(2, context=station.node.context)
    executor.add_node(node)
    camera = station.camera("/kept")
    camera.publish(image(np.zeros((2, 2, 3), np.uint8)))
    until(lambda: executor.spin_once(timeout_sec=0.1) or heard, "the image of the other topic")
    assert images not in list(node.subscriptions)
    station.destroy(camera)
    executor.shutdown()
    node.destroy_node()
