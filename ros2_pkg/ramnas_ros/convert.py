"""sensor_msgs/Image and CompressedImage <-> numpy, by duck typing: no rclpy, no message package."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import cv2
import numpy as np

from ramnas_edge.vision.preprocessing import decode_image
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

# encoding of sensor_msgs -> (samples of a pixel, OpenCV's conversion to BGR; None: it is BGR).
# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first four.
_PACKED: Dict[str, Tuple[int, Optional[int]]] = {
    "bgr8": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),  # yuv422 by its newer name
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),  # yuv422_yuy2 by its newer name
}
# a plane of brightness, then one of half the height with the colours of 2x2 pixels
_PLANAR = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}
# two bytes a sample over the whole range, as cv_bridge reads them: the upper byte is the image
_WIDE = {name[:-1] + "16": name for name in _PACKED if name.endswith("8")}
ENCODINGS = (*_PACKED, *_PLANAR, *_WIDE)


def to_bgr(message: Any) -> Image:
    """A sensor_msgs/Image of any of ENCODINGS -> uint8 BGR [height, width, 3].

    Rows may be padded (`step`), 16-bit samples are of the byte order that the message names. bgr8
    is a view of the message's data, the others are one conversion. SourceError names an unknown
    encoding, an odd size where the encoding has none, or data that is too short.
    """
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding not in ENCODINGS:
        raise SourceError(f"image encoding '{encoding}' is not one of {', '.join(ENCODINGS)}")
    planar, wide = encoding in _PLANAR, encoding in _WIDE
    channels, conversion = (
        (1, _PLANAR[encoding]) if planar else _PACKED[_WIDE.get(encoding, encoding)]
    )
    if (width % 2 and (planar or channels == 2)) or (height % 2 and planar):
        even = "width and height" if planar else "width"
        raise SourceError(f"image of {width}x{height} {encoding}: {even} must be even")
    rows = height * 3 // 2 if planar else height
    row_bytes = width * channels * (2 if wide else 1)
    data = np.frombuffer(message.data, np.uint8)
    if not rows or not width or step < row_bytes or data.size < rows * step:
        raise SourceError(
            f"image of {width}x{height} {encoding} with step {step} "
            f"does not fit its {data.size} bytes"
        )
    samples = data[: rows * step].reshape(rows, step)[:, :row_bytes]
    if wide:
        samples = samples[:, 0 if message.is_bigendian else 1 :: 2]
    image = samples.reshape(rows, width, channels)
    return image if conversion is None else np.asarray(cv2.cvtColor(image, conversion), np.uint8)


def compressed_to_bgr(message: Any) -> Image:
    """A sensor_msgs/CompressedImage (JPEG, PNG, whatever OpenCV reads) -> uint8 BGR [h, w, 3].

    SourceError names the format of one that cannot be decoded or is cut off.
    """
    data = np.frombuffer(message.data, np.uint8)
    return decode_image(data, f"compressed image '{message.format}' of {data.size} bytes")


def fill_image(message: Any, image: Image, encoding: str) -> Any:
    """Put a uint8 image ([h, w] mono8 or [h, w, 3] bgr8) into a sensor_msgs/Image; returns it."""
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = image.shape[1] * (image.shape[2] if image.ndim == 3 else 1)
    # an array is what rclpy keeps as it is; it would copy anything else once more
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(image))
    return message
