"""A perception node, ours or a plain one, that records the times of every frame.

python -m tests.benchmarks.ros_nodes ours|plain BUNDLE OUT: on SIGINT it ends and writes OUT, a JSON
list with one row per frame. A row holds five times in ns since 1970 (stamp, arrival, begin and end
of the runtime's call, publication) and the CPU time of the process in ns.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from ramnas_edge.runtime.perception import Perception

Row = tuple[int, int, int, int, int, int]
TASKS = ("detection",)


def stamp_ns(header: Any) -> int:
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


class FrameTimes:
    """The times of every frame; it wraps Perception.__call__ to time the runtime's calls."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.arrived: dict[int, int] = {}
        self._call = (0, 0)
        call = Perception.__call__

        def timed(perception: Perception, frames: Any) -> Any:
            begun = time.time_ns()
            results = call(perception, frames)
            self._call = (begun, time.time_ns())
            return results

        Perception.__call__ = timed  # type: ignore[method-assign]

    def published(self, header: Any) -> None:
        stamp, cpu = stamp_ns(header), time.process_time_ns()
        self.rows.append((stamp, self.arrived[stamp], *self._call, time.time_ns(), cpu))


def ours(bundle: str, times: FrameTimes) -> None:
    from ramnas_ros import perception_node
    from ramnas_ros.inbox import Inbox
    from ramnas_ros.outputs import Outputs

    put, publish = Inbox.put, Outputs.publish

    def arrived(inbox: Inbox, camera: int, message: Any) -> None:
        times.arrived[stamp_ns(message.header)] = time.time_ns()
        put(inbox, camera, message)

    def published(outputs: Outputs, header: Any, *rest: Any, **options: Any) -> None:
        publish(outputs, header, *rest, **options)
        times.published(header)

    Inbox.put, Outputs.publish = arrived, published  # type: ignore[method-assign]
    values = {"bundle": bundle, "engine": "onnxruntime-cpu", "autostart": "true"}
    arguments = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    perception_node.main(["--ros-args", *arguments])


def plain(bundle: str, times: FrameTimes) -> None:
    """A node as it is usually written: the work in the callback, a reliable queue of ten."""
    import cv2
    import numpy as np
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from sensor_msgs.msg import Image
    from vision_msgs import msg

    rclpy.init()
    node = rclpy.create_node("perception")
    publisher = node.create_publisher(msg.Detection2DArray, "/perception/detections", 10)
    with Perception.open(bundle, tasks=TASKS, engine="onnxruntime-cpu") as perception:

        def on_image(message: Any) -> None:
            times.arrived[stamp_ns(message.header)] = time.time_ns()
            rgb = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
            frame = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
            found: Any = perception([frame])[0][0]
            array = msg.Detection2DArray(header=message.header)
            for box, score, index in zip(found.boxes, found.scores, found.classes):
                x0, y0, x1, y1 = map(float, box)
                one = msg.Detection2D(header=message.header)
                one.bbox.center.position.x = (x0 + x1) / 2
                one.bbox.center.position.y = (y0 + y1) / 2
                one.bbox.size_x, one.bbox.size_y = x1 - x0, y1 - y0
                hypothesis = msg.ObjectHypothesisWithPose()
                hypothesis.hypothesis.class_id = found.names[index]
                hypothesis.hypothesis.score = float(score)
                one.results.append(hypothesis)
                array.detections.append(one)
            publisher.publish(array)
            times.published(message.header)

        node.create_subscription(Image, "/image", on_image, 10)
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(node)


def main(which: str, bundle: str, out: str) -> None:
    times = FrameTimes()
    (ours if which == "ours" else plain)(bundle, times)
    Path(out).write_text(json.dumps(times.rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
