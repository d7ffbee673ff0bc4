"""sensor_msgs/Image and CompressedImage <-> numpy, by duck typing, without any ROS package."""

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

# encoding of sensor_msgs -> (samples per pixel, OpenCV's conversion to BGR; None: already BGR).
# OpenCV names a Bayer pattern after the second and third pixel of the second row, ROS after the
# first 2x2 pixels.
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
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),  # the newer name of yuv422
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),  # the newer name of yuv422_yuy2
}
# a plane of brightness, then a plane of half the height with one colour for each 2x2 pixels
_PLANAR = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}
# two bytes per sample over the whole range, as in cv_bridge: only the upper byte is used
_WIDE = {name[:-1] + "16": name for name in _PACKED if name.endswith("8")}
ENCODINGS = (*_PACKED, *_PLANAR, *_WIDE)


def to_bgr(message: Any) -> Image:
    """Convert a sensor_msgs/Image in any of ENCODINGS to uint8 BGR [height, width, 3].

    Rows may be padded (`step`), and 16-bit samples have the byte order that the message names. For
    bgr8 the result is a view of the message's data; the other encodings take one conversion.
    SourceError if the encoding is unknown, the size is odd where the encoding needs an even one, or
    the data is too short.
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
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, whatever OpenCV reads) to BGR [h, w, 3].

    SourceError, with the format, if the image cannot be decoded or is cut off.
    """
    data = np.frombuffer(message.data, np.uint8)
    return decode_image(data, f"compressed image '{message.format}' of {data.size} bytes")


def fill_image(message: Any, image: Image, encoding: str) -> Any:
    """Fill a sensor_msgs/Image with a uint8 image, [h, w] mono8 or [h, w, 3] bgr8; return it."""
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = image.shape[1] * (image.shape[2] if image.ndim == 3 else 1)
    # rclpy keeps an array.array as it is and copies anything else once more
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(image))
    return message
