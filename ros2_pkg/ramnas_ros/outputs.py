"""The results of one camera's image -> its topics; a result is encoded only for subscribers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Sequence

from ramnas_edge.vision.annotate import annotated
from ramnas_edge.vision.results import Detections, Mask
from ramnas_models.head_plan import DETECTION, SEGMENTATION
from ramnas_ros import cdr, messages
from ramnas_ros.convert import fill_image

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Result

TOPICS = {DETECTION: ("detections",), SEGMENTATION: ("mask", "mask_color")}
COMMON = ("overlay", "pipeline_latency_ms", "processing_time_ms")


class Outputs:
    """The publishers of one camera's results.

    `create(message class, topic)` makes a publisher; `types` has the message classes as attributes.
    Every message carries the header of its image.
    """

    def __init__(
        self, create: Callable[[Any, str], Any], types: Any, prefix: str, tasks: Sequence[str]
    ) -> None:
        self._types = types
        kinds = {
            "detections": types.Detection2DArray,
            "pipeline_latency_ms": types.Float32, "processing_time_ms": types.Float32,
        }  # fmt: skip
        names = [topic for task in tasks for topic in TOPICS[task]]
        self.publishers: Dict[str, Any] = {
            name: create(kinds.get(name, types.Image), f"{prefix}{name}")
            for name in (*names, *COMMON)
        }

    def publish(
        self,
        header: Any,
        image: Image,
        results: Sequence[Result],
        *,
        start_s: float,
        now_ns: Callable[[], int],
        overlay: bool,
    ) -> None:
        """Publish what has subscribers, and the two latencies.

        `start_s` is perf_counter() at the moment work on the image began; `now_ns` reads the clock
        that stamps images. Detections and masks, which a robot acts on, go out first. The pictures
        for people come after the latencies have been taken, so neither latency includes them.
        """
        for result in results:
            if isinstance(result, Detections) and self._has_subscribers("detections"):
                self._send("detections", cdr.detection_array(header, result))
            elif isinstance(result, Mask) and self._has_subscribers("mask"):
                self._send_image("mask", header, result.classes, "mono8")
        done_s = time.perf_counter()
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
        self._send("processing_time_ms", self._types.Float32(data=(done_s - start_s) * 1e3))
        if stamp_ns:  # 0 means that the driver does not stamp its images
            latency_ms = (now_ns() - stamp_ns) / 1e6
            self._send("pipeline_latency_ms", self._types.Float32(data=latency_ms))
        for result in results:
            if isinstance(result, Mask) and self._has_subscribers("mask_color"):
                self._send_image("mask_color", header, messages.coloured(result), "bgr8")
        if overlay and self._has_subscribers("overlay"):
            for result in results:
                image = annotated(image, result)
            self._send_image("overlay", header, image, "bgr8")

    def _has_subscribers(self, name: str) -> bool:
        return bool(self.publishers[name].get_subscription_count())

    def _send_image(self, name: str, header: Any, image: Any, encoding: str) -> None:
        self._send(name, fill_image(self._types.Image(header=header), image, encoding))

    def _send(self, name: str, message: Any) -> None:
        self.publishers[name].publish(message)
