"""sensor_msgs/Image <-> numpy, by duck typing: no rclpy, no message package needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

import cv2
import numpy as np

from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

# encoding -> (channels, OpenCV's conversion to BGR; None where it is BGR already)
_ENCODINGS: Dict[str, Tuple[int, Any]] = {
    "bgr8": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
}


def to_bgr(message: Any) -> Image:
    """A sensor_msgs/Image -> uint8 BGR [height, width, 3]; rows may be padded (`step`).

    bgr8 is a view of the message's data, the others one conversion. SourceError names an unknown
    encoding or data that is too short.
    """
    if message.encoding not in _ENCODINGS:
        raise SourceError(
            f"image encoding '{message.encoding}' is not one of {', '.join(_ENCODINGS)}"
        )
    channels, conversion = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if not height or not width or step < width * channels or data.size < height * step:
        raise SourceError(
            f"image of {width}x{height} {message.encoding} with step {step} "
            f"does not fit its {data.size} bytes"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    image = rows.reshape(height, width, channels)
    return image if conversion is None else np.asarray(cv2.cvtColor(image, conversion), np.uint8)


def fill_image(message: Any, image: Image, encoding: str) -> Any:
    """Put a uint8 image ([h, w] mono8 or [h, w, 3] bgr8) into a sensor_msgs/Image; returns it."""
    message.height, message.width = image.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = image.shape[1] * (image.shape[2] if image.ndim == 3 else 1)
    message.data = np.ascontiguousarray(image).tobytes()
    return message
