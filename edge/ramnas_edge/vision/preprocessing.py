"""Image files and frames -> the graph's input; a classifier's logits -> its best class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Tuple

import cv2
import numpy as np

from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.bundle import Preprocessing

    Image = NDArray[np.uint8]  # [height, width, 3], BGR

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def check_frame(frame: Any) -> Image:
    """Return `frame` itself if it is a uint8 image [h, w, 3]; else raise SourceError."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise SourceError(f"a frame must be a uint8 array, not {kind}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SourceError(f"a frame must be [height, width, 3], not {list(frame.shape)}")
    return frame


_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def prepare(frame: Image, how: Preprocessing, hw: Tuple[int, int]) -> Image:
    """Scale, crop and resize a frame to the graph's input size `hw`, as `how` says.

    Training, calibration and runtime all use this function.
    """
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
    return np.asarray(resized, np.uint8)  # makes no copy, as cv2 keeps the type


def label(logits: NDArray[np.float32]) -> Tuple[int, float]:
    """Return the most likely class of logits [classes] and its softmax score."""
    best = int(logits.argmax())
    return best, 1.0 / float(np.exp(logits - logits[best]).sum())


def read_image(path: str, hw: Optional[Tuple[int, int]] = None, *, upright: bool = True) -> Image:
    """Read an image file as BGR; SourceError if it cannot be read or decoded.

    The image is turned upright as its EXIF says, unless only the stored pixels have the size `hw`.
    With `upright` False it is never turned.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{path} cannot be read as an image: {error}") from error
    image = decode_image(data, path, upright=upright)
    if upright and hw and hw != image.shape[:2] and hw == image.shape[1::-1]:
        stored = decode_image(data, path, upright=False)
        return stored if stored.shape[:2] == hw else image
    return image


def decode_image(data: NDArray[np.uint8], name: str, *, upright: bool = True) -> Image:
    """Decode the bytes of an image file to BGR; messages call it `name`.

    With `upright`, the image is turned as its EXIF says.

    SourceError if they are not an image, or if a JPEG is cut off. OpenCV can fill the missing part
    of such a JPEG with grey and report no error.
    """
    # JPEG's end marker cannot occur within image data; padding may follow it
    if data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-1024:].tobytes():
        raise SourceError(f"{name} is cut off: its JPEG data has no end marker")
    how = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, how) if data.size else None
    except cv2.error as error:  # for example, it has more pixels than OpenCV accepts
        raise SourceError(f"{name} cannot be read as an image: {error}") from error
    if image is None:
        raise SourceError(f"{name} cannot be read as an image")
    return np.asarray(image, np.uint8)
