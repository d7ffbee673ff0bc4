"""A camera that does not wait for results, and the executor that takes its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from ramnas_ros.perception_node import ImageExecutor, SubscriptionEventCallbacks
from tests.ros2.real.station import (
    PROFILE,
    Station,
    image,
    perception,
    process,
    until,
    values_of,
)

RESULTS = 100


def test_results_of_a_camera_at_30_hz_come_in_order_and_every_frame_is_accounted_for(
    station: Station, bundle: Path
) -> None:
    """With 640x480 rgb8 images, best effort, between processes that use the transport profile."""
    found = station.listen_before(Detection2DArray, "/perception/detections", depth=1000)
    camera = ("tests.ros2.real.camera", "/image", "30", "100000", "480", "640", "best_effort")
    with perception(bundle=bundle, engine="onnxruntime-cpu", autostart=True, environment=PROFILE):
        with process(*camera, **PROFILE):
            until(lambda: len(found) >= RESULTS, f"{RESULTS} results")

        def all_done(status: DiagnosticStatus) -> bool:
            values = values_of(status)
            done = int(values["frames processed"]) + int(values["frames dropped"])
            return int(values["frames in"]) == done

        _, _, values = station.status(all_done, "the end of the last frame")
    numbers = [int(message.header.frame_id) for message in found]
    assert numbers == sorted(set(numbers))  # never an older one after a newer one
    assert int(values["failures"]) == int(values["frames refused"]) == 0
    assert int(values["frames in"]) >= RESULTS


def test_an_event_is_waited_for_only_while_its_subscription_is(station: Station) -> None:
    """In Fast DDS a subscription and its events share one condition: while a thread takes an image,
    a wait for events alone would return at once, over and over."""
    node = rclpy.create_node("one_subscription", context=station.node.context)
    events = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
    images = node.create_subscription(
        Image, "/spun", lambda message: None, 1, event_callbacks=events
    )
    executor = ImageExecutor(2, context=station.node.context)
    executor.add_node(node)
    assert images.event_handlers
    assert all(executor.can_execute(event) for event in images.event_handlers)
    images._executor_event = True  # as rclpy sets it until a thread has taken the message
    assert not any(executor.can_execute(event) for event in images.event_handlers)
    node.destroy_node()


def test_destroying_a_subscription_before_the_wait_does_not_end_the_spinning(
    station: Station,
) -> None:
    class DestroyingExecutor(ImageExecutor):
        """Destroys a subscription after finding it and before the wait, as another thread may."""

        def can_execute(self, entity: Any) -> bool:
            found = bool(super().can_execute(entity))
            if entity in images.event_handlers:
                node.destroy_subscription(images)
            return found

    node = rclpy.create_node("two_subscriptions", context=station.node.context)
    events = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
    images = node.create_subscription(
        Image, "/destroyed", lambda message: None, 1, event_callbacks=events
    )
    received: list[Image] = []
    node.create_subscription(Image, "/kept", received.append, 1)
    executor = DestroyingExecutor(2, context=station.node.context)
    executor.add_node(node)
    camera = station.camera("/kept")
    camera.publish(image(np.zeros((2, 2, 3), np.uint8)))
    until(lambda: executor.spin_once(timeout_sec=0.1) or received, "the image of the other topic")
    assert images not in list(node.subscriptions)
    station.destroy(camera)
    executor.shutdown()
    node.destroy_node()
