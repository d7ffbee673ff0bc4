"""A camera in its own process, which sends numbered frames; the number determines the pixels.

python -m tests.ros2.real.camera TOPIC RATE_HZ FRAMES HEIGHT WIDTH [best_effort]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


def frame(number: int, height: int, width: int) -> np.ndarray:
    """The pixels of a frame: uint8 RGB [height, width, 3]."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def main(topic: str, rate_hz: float, frames: int, hw: tuple[int, int], best_effort: bool) -> None:
    rclpy.init()
    node = rclpy.create_node("camera")
    reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    publisher = node.create_publisher(Image, topic, QoSProfile(depth=1, reliability=reliability))
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    some = [frame(number, *hw).tobytes() for number in range(16)]
    message = Image(height=hw[0], width=hw[1], encoding="rgb8", step=3 * hw[1])
    due_s = time.monotonic()
    try:
        for number in range(frames):
            time.sleep(max(0.0, due_s - time.monotonic()))
            # after a delay it does not catch up: no camera sends faster than its rate
            due_s = max(due_s, time.monotonic()) + 1 / rate_hz
            message.header.stamp = node.get_clock().now().to_msg()
            message.header.frame_id = str(number)
            message.data = some[number % len(some)]
            publisher.publish(message)
        while True:  # when a publisher goes, images that are still on their way are lost
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    topic, rate, frames, height, width, *rest = sys.argv[1:]
    main(topic, float(rate), int(frames), (int(height), int(width)), rest == ["best_effort"])
