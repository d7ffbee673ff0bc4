"""The other side of a robot's perception node: starts it, feeds it, listens to it, asks it."""

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
LIMIT_S = 90.0  # for what should take a moment, on a machine that is busy with other things
_FILE = str(ROOT / "ros2_pkg/config/fastdds_image.xml")
PROFILE = {"FASTRTPS_DEFAULT_PROFILES_FILE": _FILE, "FASTDDS_DEFAULT_PROFILES_FILE": _FILE}
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4  # lifecycle_msgs/Transition


def until(true: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """What `true` gives once it is that; the test fails if it does not come."""
    deadline = time.monotonic() + limit_s
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {limit_s:g} s in vain: {what}"
        time.sleep(0.005)


@contextmanager
def process(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m module`, ended with the block whatever happens."""
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
    """The node in a process of its own, as launch starts it."""
    arguments = ["--ros-args", "-r", f"__ns:=/{namespace}"]
    for rule in remap.split():
        arguments += ["-r", rule]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    with process(module, *arguments, **(environment or {})) as child:
        yield child


def image(frame: np.ndarray, stamp_s: float = 0.0, encoding: str = "bgr8") -> Image:
    """A message of a frame [h, w] or [h, w, channels] whose bytes are those of the encoding."""
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
    """A node of the test's own process, spun by a thread."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("station", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._statuses: dict[str, list[DiagnosticStatus]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
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
        """The messages of `topic`, which come in as they come, once somebody publishes there."""
        found = self.listen_before(kind, topic, depth, **qos)
        until(lambda: self.node.count_publishers(topic), f"nobody has {topic}")
        return found

    def listen_before(self, kind: Any, topic: str, depth: int = 100, **qos: Any) -> list[Any]:
        """The messages of `topic`, whoever will publish there."""
        found: list[Any] = []
        self.node.create_subscription(kind, topic, found.append, QoSProfile(depth=depth, **qos))
        return found

    def camera(self, topic: str, best_effort: bool = False, kind: Any = Image) -> Any:
        """A publisher that somebody listens to."""
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        publisher = self.node.create_publisher(
            kind, topic, QoSProfile(depth=10, reliability=reliability)
        )
        until(publisher.get_subscription_count, f"nobody listens to {topic}")
        return publisher

    def destroy(self, publisher: Any) -> None:
        """In the thread that spins, which else may be about to wait for the publisher's events."""
        self._spun(self.node.destroy_publisher, publisher)

    def answer(self, camera: Any, message: Any, results: list[Any]) -> Any:
        """The result of `message`, by its stamp; shown again until it comes, as it may be lost."""
        wanted, shown_s = message.header.stamp, 0.0

        def found() -> Any:
            nonlocal shown_s
            if time.monotonic() - shown_s > 0.5:
                camera.publish(message)
                shown_s = time.monotonic()
            return next((r for r in results if r.header.stamp == wanted), None)

        return until(found, f"the result of the image of {stamp_s(message):g} s")

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        try:
            until(client.service_is_ready, f"no service {service}")
            future = client.call_async(request)
            until(future.done, f"no answer from {service}")
            return future.result()
        finally:
            self._spun(self.node.destroy_client, client)

    def change(self, transition: int, node: str = "/perception") -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.ask(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str = "/perception") -> str:
        answer = self.ask(GetState, f"{node}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def set(self, node: str = "/perception", **values: Any) -> str:
        """Why the node refuses the values, all at once; empty: it takes them."""
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
        """All that it has said on /diagnostics."""
        return self._statuses.setdefault(f"{node}: perception", [])

    def status(self, true: Callable[[DiagnosticStatus], Any], what: str, node: str = "/perception"
               ) -> tuple[int, str, dict[str, str]]:  # fmt: skip
        """(level, message, values) of the first status from now on for which it is `true`."""
        statuses = self.statuses(node)
        seen = len(statuses)

        def found() -> DiagnosticStatus | None:
            return next((status for status in statuses[seen:] if true(status)), None)

        try:
            status = until(found, what)
        except AssertionError as error:
            last = statuses[-1].message if statuses else "nothing"
            raise AssertionError(f"{error}; it said: {last}") from None
        return status.level[0], status.message, values_of(status)

    def _spun(self, call: Callable[[Any], Any], of: Any) -> None:
        until(self._executor.create_task(call, of).done, f"{call.__name__} is not done")

    def _spin(self) -> None:
        while not self._closing.is_set():  # an executor that is shut down while it spins may raise
            self._executor.spin_once(timeout_sec=0.1)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._statuses.setdefault(status.name, []).append(status)
