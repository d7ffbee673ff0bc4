"""A folder of images, a video or a camera -> sensor_msgs/Image at a fixed rate, to try the node."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image

from ramnas_edge.vision.sources import Source
from ramnas_models import ready
from ramnas_models.errors import DataError, RamnasError
from ramnas_ros.convert import fill_image

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image as Pixels

RELIABILITIES = {
    "reliable": ReliabilityPolicy.RELIABLE,
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
}
DEPTH = 5  # as in the sensor-data profile of ROS 2
FLUSH_S = 2.0  # how long the player waits at the end until subscribers have the last images


class ImagePlayer(Node):  # type: ignore[misc]  # rclpy has no types
    """Publishes bgr8 images on `image`, each stamped at the moment it is sent.

    The parameters `source`, `rate_hz`, `reliability`, `loop` and `frame_id` are read at the start;
    DataError or SourceError if one of them cannot be used. A broken image is logged and skipped.
    The future `done` completes after the last image, or holds the error that ended the player.
    """

    def __init__(self) -> None:
        super().__init__("image_player")
        choices = " or ".join(RELIABILITIES)
        source = self._parameter(
            "source", str(ready.frames()), "a folder of images, an image, a video or a camera"
        )
        rate_hz = self._parameter("rate_hz", 30.0, "images per second")
        reliability = self._parameter("reliability", "reliable", f"QoS of the images: {choices}")
        loop = self._parameter("loop", True, "start again after the last image")
        self._frame_id = self._parameter("frame_id", "camera", "frame_id of the images")
        if reliability not in RELIABILITIES:
            raise DataError(f"reliability '{reliability}' is not {choices}")
        if type(rate_hz) not in (int, float) or not 0 < rate_hz <= 1000:
            raise DataError(f"rate_hz {rate_hz!r} is not a number above 0 and up to 1000")
        self.done = Future()
        self._frames = _frames(source, loop)
        self._next: Optional[Pixels] = next(self._frames)
        self._publisher = self.create_publisher(
            Image, "image", QoSProfile(depth=DEPTH, reliability=RELIABILITIES[reliability])
        )
        self.create_timer(1 / rate_hz, self._play)

    def _parameter(self, name: str, default: Any, description: str) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        descriptor.dynamic_typing = isinstance(default, float)  # so that a rate of 5 is accepted
        return self.declare_parameter(name, default, descriptor).value

    def _play(self) -> None:
        """Send the image that is ready, then decode the next, so that decoding delays no stamp."""
        if self._next is None:
            return
        message = fill_image(Image(), self._next, "bgr8")
        message.header.frame_id = self._frame_id
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)
        try:
            self._next = next(self._frames, None)
        except RamnasError as error:
            self._next = None
            self.done.set_exception(error)
            return
        if self._next is None:
            self._publisher.wait_for_all_acked(Duration(seconds=FLUSH_S))
            self.done.set_result(None)


def _frames(source: str, loop: bool) -> Iterator[Pixels]:
    while True:
        for _, frame in Source(source, ahead=1):
            yield frame
        if not loop:
            return


def main(args: Optional[Sequence[str]] = None) -> int:
    """Run the executable `image_player`; exit code 0 after the last image, 2 after an error."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    rclpy.init(args=args)
    try:
        player = ImagePlayer()
        rclpy.spin_until_future_complete(player, player.done)
        player.done.result()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the usual ways to end a node
    except (RamnasError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
