"""Image files and frames -> the graph's input; a classifier's logits -> its best class."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

import cv2
import numpy as np

from ramnas_edge.vision.formats import has_16_bits, jpeg_fault, unreadable
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.bundle import Preprocessing

    Image = NDArray[np.uint8]  # [height, width, 3], BGR

log = logging.getLogger(__name__)
IMAGE_SUFFIXES = (  # of the formats that every OpenCV reads
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pbm", ".pgm",
    ".ppm", ".pnm",
)  # fmt: skip


_dark: List[str] = []  # the name of the first image of few bits, the only one that is logged


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
        # a mean of areas makes no moire where a picture gets smaller
        enlarging = _INTERPOLATION[how.interpolation]
        frame = _resize(frame, short, cv2.INTER_AREA if scale < 1 else enlarging)
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
    data = _bytes(path)
    image = decode_image(data, path, upright=upright)
    if upright and hw and hw != image.shape[:2] and hw == image.shape[1::-1]:
        stored = decode_image(data, path, upright=False)
        return stored if stored.shape[:2] == hw else image
    return image


def _bytes(path: str) -> NDArray[np.uint8]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a pipe would wait for ever, and a device may have no end
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
            raise SourceError(f"{path} cannot be read as an image: it is {what}, not a file")
        with open(path, "rb") as file:
            return np.frombuffer(file.read(), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"it is a link to {os.readlink(path)}, which does not exist"
        raise SourceError(f"{path} cannot be read as an image: {reason}") from error


def decode_image(data: NDArray[np.uint8], name: str, *, upright: bool = True) -> Image:
    """Decode the bytes of an image file to BGR; messages call it `name`.

    With `upright`, the image is turned as its EXIF says. SourceError, with the reason, if they are
    not an image or if the image is cut off.
    """
    fault = jpeg_fault(data)
    if fault:
        raise SourceError(f"{name} {fault}")
    how = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, how) if data.size else None
    except cv2.error as error:
        reason = " ".join(str(error).split())
        if "MAX_IMAGE_" in reason:
            reason = "it has more pixels than OpenCV accepts; raise OPENCV_IO_MAX_IMAGE_PIXELS"
        raise SourceError(f"{name} cannot be read as an image: {reason}") from error
    if image is None:
        raise SourceError(f"{name} cannot be read as an image: {unreadable(data)}")
    decoded = np.asarray(image, np.uint8)
    if not _dark and has_16_bits(data):
        _look_for_few_bits(decoded, name)
    return decoded


def _look_for_few_bits(image: Image, name: str) -> None:
    """Log once that a 16-bit image is nearly black, as it is if its samples have 10 or 12 bits."""
    below = (int(image.max()) + 1) * 256
    if below <= 2**12:
        _dark.append(name)
        log.warning(
            "%s is nearly black: all values are below %d of 65535; is it an image of 10 or 12 "
            "bits? then scale it to 16 bits (others like it are not named)",
            name, below,
        )  # fmt: skip
