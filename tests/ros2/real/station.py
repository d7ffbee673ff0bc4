"""The tests' side of a perception node: starts it, sends it images, listens and calls services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

ROOT = Path(__file__).parents[3]
LIMIT_S = 90.0  # only bounds a hang: on a busy machine a short wait may take long
_FILE = str(ROOT / "ros2_pkg/config/fastdds_image.xml")
PROFILE = {"FASTRTPS_DEFAULT_PROFILES_FILE": _FILE, "FASTDDS_DEFAULT_PROFILES_FILE": _FILE}
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4  # lifecycle_msgs/Transition


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Wait until `condition` returns something true, and return that; fail after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {limit_s:g} s in vain for {what}"
        time.sleep(0.005)


@contextmanager
def process(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module` until the end of the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, **environment}
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def perception(
    *, namespace: str = "", module: str = "ramnas_ros.perception_node", remap: str = "",
    environment: dict[str, str] | None = None, **parameters: Any,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run the node in its own process, as launch starts it."""
    arguments = ["--ros-args", "-r", f"__ns:=/{namespace}"]
    for rule in remap.split():
        arguments += ["-r", rule]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    with process(module, *arguments, **(environment or {})) as child:
        yield child


def image(frame: np.ndarray, stamp_s: float = 0.0, encoding: str = "bgr8") -> Image:
    """Put a frame, [h, w] or [h, w, channels] with the bytes of the encoding, into a message."""
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding=encoding)
    message.step = frame.nbytes // frame.shape[0]
    message.header.stamp.sec = int(stamp_s)
    message.header.stamp.nanosec = int(stamp_s % 1 * 1e9)
    message.header.frame_id = "camera"
    message.data = frame.tobytes()
    return message


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {value.key: value.value for value in status.values}


def stamp_s(message: Any) -> float:
    stamp = message.header.stamp
    return float(stamp.sec + stamp.nanosec / 1e9)


class Station:
    """A ROS node in the process of the tests, spun by a thread."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("station", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._statuses: dict[str, list[DiagnosticStatus]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, kind: Any, topic: str, depth: int = 100, **qos: Any) -> list[Any]:
        """Subscribe to a topic that has a publisher; the list grows as messages arrive."""
        found = self.listen_before(kind, topic, depth, **qos)
        until(lambda: self.node.count_publishers(topic), f"a publisher on {topic}")
        return found

    def listen_before(self, kind: Any, topic: str, depth: int = 100, **qos: Any) -> list[Any]:
        """Subscribe to a topic that may not have a publisher yet; the list grows as in `listen`."""
        found: list[Any] = []
        self.node.create_subscription(kind, topic, found.append, QoSProfile(depth=depth, **qos))
        return found

    def camera(self, topic: str, best_effort: bool = False, kind: Any = Image) -> Any:
        """Create a publisher and wait until it has a subscriber."""
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        publisher = self.node.create_publisher(
            kind, topic, QoSProfile(depth=10, reliability=reliability)
        )
        until(publisher.get_subscription_count, f"a subscriber on {topic}")
        return publisher

    def destroy(self, publisher: Any) -> None:
        """Destroy a publisher in the thread that spins.

        From another thread it could vanish while the executor is about to wait for its events.
        """
        self._in_spin_thread(self.node.destroy_publisher, publisher)

    def answer(self, camera: Any, message: Any, results: list[Any]) -> Any:
        """Publish an image until its result, which has the same stamp, arrives; any may be lost."""
        shown_s = 0.0

        def result() -> Any:
            nonlocal shown_s
            if time.monotonic() - shown_s > 0.5:
                camera.publish(message)
                shown_s = time.monotonic()
            return next((r for r in results if r.header.stamp == message.header.stamp), None)

        return until(result, f"the result of the image of {stamp_s(message):g} s")

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, service)
        try:
            until(client.service_is_ready, f"the service {service}")
            future = client.call_async(request)
            until(future.done, f"the response of {service}")
            return future.result()
        finally:
            self._in_spin_thread(self.node.destroy_client, client)

    def change(self, transition: int, node: str = "/perception") -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.ask(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str = "/perception") -> str:
        answer = self.ask(GetState, f"{node}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def set(self, node: str = "/perception", **values: Any) -> str:
        """Set parameters in one atomic request; returns why the node refuses, or an empty text."""
        request = SetParametersAtomically.Request(
            parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        )
        service = f"{node}/set_parameters_atomically"
        result = self.ask(SetParametersAtomically, service, request).result
        return "" if result.successful else str(result.reason)

    def describe(self, name: str, node: str = "/perception") -> Any:
        request = DescribeParameters.Request(names=[name])
        answer = self.ask(DescribeParameters, f"{node}/describe_parameters", request)
        return answer.descriptors[0]

    def statuses(self, node: str = "/perception") -> list[DiagnosticStatus]:
        """All statuses of the node on /diagnostics so far."""
        return self._statuses.setdefault(f"{node}: perception", [])

    def status(
        self,
        true_of: Callable[[DiagnosticStatus], Any],
        what: str,
        node: str = "/perception",
    ) -> tuple[int, str, dict[str, str]]:
        """Wait for a new status with that property; returns its (level, message, values)."""
        statuses = self.statuses(node)
        seen = len(statuses)

        def found() -> DiagnosticStatus | None:
            return next((status for status in statuses[seen:] if true_of(status)), None)

        try:
            status = until(found, what)
        except AssertionError as error:
            last = statuses[-1].message if statuses else "nothing"
            raise AssertionError(f"{error}; its last status: {last}") from None
        return status.level[0], status.message, values_of(status)

    def _in_spin_thread(self, call: Callable[[Any], Any], entity: Any) -> None:
        until(self._executor.create_task(call, entity).done, f"the end of {call.__name__}")

    def _spin(self) -> None:
        while not self._closing.is_set():  # shutting it down while it spins may raise
            self._executor.spin_once(timeout_sec=0.1)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._statuses.setdefault(status.name, []).append(status)
