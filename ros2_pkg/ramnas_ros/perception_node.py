"""Camera topics in, detections and masks out: the life-cycle node that a robot launches."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, List, Optional, Sequence, Tuple, Union

import diagnostic_msgs.msg
import rcl_interfaces.msg
import rclpy
import vision_msgs.msg
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import Node, TransitionCallbackReturn
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32, Header

from ramnas_edge.board.device import this_device
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.runtime.perception import Perception
from ramnas_edge.vision.results import Detections, Labels, Mask
from ramnas_models.errors import DataError, RamnasError
from ramnas_ros import logs, messages, parameters
from ramnas_ros.cameras import CameraWatch
from ramnas_ros.convert import compressed_to_bgr, to_bgr
from ramnas_ros.diagnosis import board_values, diagnose
from ramnas_ros.inbox import Inbox
from ramnas_ros.outputs import Outputs
from ramnas_ros.worker import Worker

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

if TYPE_CHECKING:
    from ramnas_edge.board.telemetry import Sample
    from ramnas_edge.vision.preprocessing import Image as Pixels
    from ramnas_edge.vision.results import Result

log = logging.getLogger(__name__)
DIAGNOSTICS_S = 1.0
WAKE_S = 0.2  # a signal is noticed within this time
TYPES = SimpleNamespace(
    Image=Image,
    Float32=Float32,
    Detection2DArray=vision_msgs.msg.Detection2DArray,
    LabelInfo=vision_msgs.msg.LabelInfo,
    VisionClass=vision_msgs.msg.VisionClass,
)
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PerceptionNode(Node):  # type: ignore[misc]  # rclpy has no types
    """The node `perception`.

    configure opens the models, activate starts, deactivate pauses and cleanup frees everything.
    """

    def __init__(self) -> None:
        super().__init__("perception")
        self._values = self._declare_parameters()
        refused = parameters.refusal(self._values, self._values, configured=False)
        if refused:
            raise DataError(f"parameter {refused}")
        self.add_on_set_parameters_callback(self._on_parameters)
        self._device = this_device()
        self._failure = ""  # why the last configure failed
        self._worker: Optional[Worker] = None
        self._telemetry: Optional[Telemetry] = None
        self._inbox = Inbox(0)
        self._cameras: List[CameraWatch] = []
        self._outputs: List[Outputs] = []
        self._label_info: Any = None
        self._labels: Any = None  # the (names, threshold) that were published last
        self._inputs: List[Any] = []
        self._image_group = MutuallyExclusiveCallbackGroup()
        self._change_state, self._service_change_state.callback = (
            self._service_change_state.callback, self._on_change_state,
        )  # fmt: skip
        # not a life-cycle publisher, which would be silent in the other states
        self._status = self.create_publisher(
            diagnostic_msgs.msg.DiagnosticArray, "/diagnostics", 10
        )
        self._diagnose_now = self.create_guard_condition(self._diagnose)
        # a steady clock, as the clock of a simulation may stand still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_S, self._diagnose, clock=steady)

    # -- the life cycle ---------------------------------------------------------------------------

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Open the bundle and choose the models; if that fails, report why and stay alive."""
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow the error without a trace
            level = logging.ERROR if isinstance(error, RamnasError) else logging.CRITICAL
            log.log(level, "cannot configure: %s", error, exc_info=level == logging.CRITICAL)
            self._release()
            self._failure = f"cannot configure: {error}"
            self._diagnose()
            return FAILURE
        return super().on_configure(state)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        done = super().on_activate(state)  # activates the publishers, before images come
        assert self._worker
        for camera in range(len(self._cameras)):
            self._inputs.append(self._subscription(camera))
        self._worker.start()
        return done

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        self._pause()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        self._release()
        return super().on_error(state)

    def _on_change_state(self, request: Any, response: Any) -> Any:
        """Handle a request for a transition.

        rclpy would end the process when the current state does not have it; refuse it instead.
        """
        try:
            return self._change_state(request, response)
        except RuntimeError as error:
            log.warning("transition refused: %s", error)
            response.success = False
            return response

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _configure(self) -> None:
        values, topics = self._values, self._values["image_topics"]
        several = len(topics) > 1
        tasks = parameters.TASKS[values["task"]]
        self._failure = ""
        self._inbox = Inbox(len(topics), together=values["cameras"] == "batch")
        self._worker = Worker(
            self._inbox, self._open, compressed_to_bgr if values["compressed"] else to_bgr,
            self._deliver, batch=parameters.batch(values), can_fall_back=values["engine"] == "auto",
            on_failure=self._diagnose_now.trigger,
        )  # fmt: skip
        self._telemetry = Telemetry.open()
        names = parameters.camera_names(topics)
        self._cameras = [CameraWatch(*camera) for camera in zip(names, map(self._topic, topics))]
        self._outputs = [
            Outputs(self._publisher, TYPES, f"~/{name}/" if several else "~/", tasks)
            for name in names
        ]
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._label_info = self.create_lifecycle_publisher(
            TYPES.LabelInfo, "~/label_info", latched
        )  # fmt: skip

    def _open(self, failed: FrozenSet[str], frame_hw: Tuple[int, int]) -> Perception:
        values = self._values
        return Perception.open(
            Path(values["bundle"]) if values["bundle"] else None,
            tasks=parameters.TASKS[values["task"]],
            latency_budget_ms=parameters.budget_ms(values),
            policy=values["policy"],
            engine=values["engine"],
            precision=values["precision"],
            threads=values["threads"],
            frame_hw=frame_hw,
            limits=parameters.limits(values),
            batch=parameters.batch(values),
            without_engines=parameters.without_engines(values) | failed,
        )

    def _pause(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._worker:
            self._worker.stop()

    def _release(self) -> None:
        self._pause()
        publishers = [p for outputs in self._outputs for p in outputs.publishers.values()]
        for publisher in [*publishers, *([self._label_info] if self._label_info else [])]:
            self.destroy_lifecycle_publisher(publisher)
        self._outputs, self._label_info, self._labels, self._cameras = [], None, None, []
        worker, telemetry = self._worker, self._telemetry
        self._worker = self._telemetry = None
        if telemetry:
            telemetry.close()
        if worker:
            worker.close()

    # -- images in, results out -------------------------------------------------------------------

    def _topic(self, topic: str) -> str:
        """Resolve an image topic.

        A remapping also moves the compressed topic, as image_transport does.
        """
        resolved: str = self.resolve_topic_name(topic)
        return f"{resolved}/compressed" if self._values["compressed"] else resolved

    def _subscription(self, camera: int) -> Any:
        watch, inbox = self._cameras[camera], self._inbox
        best_effort = self._values["input_qos"] == "sensor_data"

        def arrived(message: Any) -> None:
            watch.arrived(message.header)
            inbox.put(camera, message)

        def incompatible(event: Any) -> None:
            watch.incompatible(qos_policy_name_from_kind(event.last_policy_kind).lower())
            self._diagnose_now.trigger()

        watch.expect()
        # a group of its own: images must come in while a budget is set, which may take seconds
        return self.create_subscription(
            CompressedImage if self._values["compressed"] else Image,
            watch.topic,
            arrived,
            QoSProfile(
                depth=self._values["input_depth"],
                reliability=ReliabilityPolicy.BEST_EFFORT
                if best_effort
                else ReliabilityPolicy.RELIABLE,
            ),
            callback_group=self._image_group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
        )

    def _publisher(self, kind: Any, topic: str) -> Any:
        depth = 1 if kind is Image else 10  # only the newest image is worth sending again
        return self.create_lifecycle_publisher(kind, topic, QoSProfile(depth=depth))

    def _deliver(
        self, camera: int, message: Any, image: Pixels, results: Sequence[Result], start_s: float
    ) -> None:
        """Publish the results of one image; called in the worker's thread."""
        last = results[-1]
        if not isinstance(last, Labels):
            self._publish_labels(message.header, last)
        self._outputs[camera].publish(
            message.header, image, results,
            start_s=start_s, now_ns=lambda: self.get_clock().now().nanoseconds,
            overlay=self._values["publish_overlay"],
        )  # fmt: skip

    def _publish_labels(self, header: Any, result: Union[Detections, Mask]) -> None:
        """Publish names and threshold with the first result and whenever the threshold changes.

        They describe the mask if there is one, else the detections.
        """
        threshold = 0.0 if isinstance(result, Mask) else self._values["score_threshold"]
        labels = (result.names, float(threshold))
        if labels != self._labels:
            self._labels = labels
            self._label_info.publish(messages.label_info(TYPES, header, *labels))

    # -- parameters -------------------------------------------------------------------------------

    def _declare_parameters(self) -> Dict[str, Any]:
        """Declare every parameter and return the values."""
        found = {}
        for parameter in parameters.PARAMETERS:
            descriptor = messages.descriptor(rcl_interfaces.msg, parameter)
            found[parameter.name] = self.declare_parameter(
                parameter.name, parameter.default, descriptor
            ).value
        return found

    def _on_parameters(self, changed: Sequence[Any]) -> Any:
        ours = {p.name: p.value for p in changed if p.name in parameters.BY_NAME}
        reason = parameters.refusal(ours, self._values, self._worker is not None)
        if not reason:
            try:
                self._apply(ours)
            except RamnasError as error:
                reason = str(error)
        return rcl_interfaces.msg.SetParametersResult(successful=not reason, reason=reason)

    def _apply(self, changes: Dict[str, Any]) -> None:
        new = {**self._values, **changes}

        def set_all(perception: Perception) -> None:
            parameters.apply(new, perception)
            self._values = new  # before any other models can be opened with the old values

        if self._worker:
            self._worker.change(set_all)
        self._values = new

    # -- diagnostics ------------------------------------------------------------------------------

    def _diagnose(self) -> None:
        worker, failure, running = self._worker, self._failure, None
        if worker:
            failure = worker.failure or failure
            running = worker.running(parameters.TASKS[self._values["task"]])
            for camera, reason in worker.take_refused():
                self._cameras[camera].refused(reason)
        found = diagnose(
            self._state_machine.current_state[1],
            failure,
            running,
            tuple(
                camera.state(self._inbox.received[i], self._inbox.replaced[i])
                for i, camera in enumerate(self._cameras)
            ),
            board_values(self._device, self._sample()),
        )
        header = Header(stamp=self.get_clock().now().to_msg())
        name = f"{self.get_fully_qualified_name()}: perception"
        self._status.publish(
            messages.diagnostics(diagnostic_msgs.msg, header, name, self._device.module, found)
        )

    def _sample(self) -> Optional[Sample]:
        now_s = time.monotonic()
        recent = self._telemetry.between(now_s - 5.0, now_s) if self._telemetry else ()
        return recent[-1] if recent else None


class ImageExecutor(MultiThreadedExecutor):  # type: ignore[misc]  # rclpy has no types
    """Waits for a subscription's events only while it also waits for the subscription's messages.

    In Fast DDS both share one condition. While a thread was about to take a message, waiting for
    the events alone returned at once, thousands of times a second, and the thread hardly ran.

    It also survives a transition that destroys, in another thread, an entity that it is about to
    wait for. rclpy skips destroyed entities, but not their events (ros2/rclpy #1284).
    """

    def spin_once(self, timeout_sec: Optional[float] = None) -> None:
        try:
            super().spin_once(timeout_sec)
        except InvalidHandle as error:  # the next call collects the entities that are left
            log.debug("an entity was destroyed before the executor waited for it: %s", error)

    def can_execute(self, entity: Any) -> bool:
        owners = (
            subscription
            for node in self.get_nodes()
            for subscription in node.subscriptions
            if entity in subscription.event_handlers
        )
        return all(super(ImageExecutor, self).can_execute(one) for one in (entity, *owners))


def main(args: Optional[Sequence[str]] = None) -> int:
    """Run the executable `perception_node`; exit code 2 if a parameter is refused."""
    # rclpy's own signal handlers would close the context while the worker still publishes
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        node = PerceptionNode()
    except (RamnasError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 2
    logs.to_ros(node.get_logger())
    executor = ImageExecutor(2)  # one thread for images, one for services and timers
    executor.add_node(node)
    if node.get_parameter("autostart").value and node.trigger_configure() == SUCCESS:
        node.trigger_activate()
    while not ended.is_set():
        executor.spin_once(timeout_sec=WAKE_S)
    node.destroy_node()
    executor.shutdown()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
