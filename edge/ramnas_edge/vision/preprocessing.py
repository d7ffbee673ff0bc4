"""Image files and frames -> the graph's input; logits of a classifier -> its best class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Tuple

import cv2
import numpy as np

from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.bundle import Preprocessing

    Image = NDArray[np.uint8]  # [height, width, 3], BGR

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def check_frame(frame: Any) -> Image:
    """`frame` itself if it is a uint8 image [h, w, 3], else SourceError."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise SourceError(f"a frame must be a uint8 array, not {kind}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SourceError(f"a frame must be [height, width, 3], not {list(frame.shape)}")
    return frame


_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def prepare(frame: Image, how: Preprocessing, hw: Tuple[int, int]) -> Image:
    """Frame -> the graph's input at `hw`; training, calibration and runtime all use this one."""
    if how.resize_short:
        height, width = frame.shape[:2]
        scale = how.resize_short / min(height, width)
        short = (max(1, round(height * scale)), max(1, round(width * scale)))
        frame = _resize(frame, short, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if how.crop:
        top, left = (max(0, (n - how.crop) // 2) for n in frame.shape[:2])
        frame = frame[top : top + how.crop, left : left + how.crop]
    return _resize(frame, hw, _INTERPOLATION[how.interpolation])


def _resize(frame: Image, hw: Tuple[int, int], interpolation: int) -> Image:
    if frame.shape[:2] == hw:
        return np.ascontiguousarray(frame)
    resized = cv2.resize(frame, (hw[1], hw[0]), interpolation=interpolation)
    return np.asarray(resized, np.uint8)  # no copy: cv2 keeps the type


def label(logits: NDArray[np.float32]) -> Tuple[int, float]:
    """Logits [classes] -> the most likely class and its softmax score."""
    best = int(logits.argmax())
    return best, 1.0 / float(np.exp(logits - logits[best]).sum())


def read_image(path: str) -> Image:
    """An image file -> BGR; SourceError as `decode_image`."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{path} cannot be read as an image: {error}") from error
    return decode_image(data, path)


def decode_image(data: NDArray[np.uint8], name: str) -> Image:
    """Bytes of an image file -> BGR; SourceError if they are none, or a JPEG with no end.

    OpenCV may give the missing part of a cut-off JPEG as grey and say nothing.
    """
    # the marker of the end may be followed by padding, and cannot stand within image data
    if data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-1024:].tobytes():
        raise SourceError(f"{name} is cut off: its JPEG data has no end")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:  # such as more pixels than OpenCV takes
        raise SourceError(f"{name} cannot be read as an image: {error}") from error
    if image is None:
        raise SourceError(f"{name} cannot be read as an image")
    return np.asarray(image, np.uint8)
