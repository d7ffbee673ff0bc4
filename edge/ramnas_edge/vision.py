"""Frame -> the graph's input, and the graph's outputs -> labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence, Tuple

import cv2
import msgspec
import numpy as np

from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]  # [height, width, 3], BGR

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Labels(msgspec.Struct, frozen=True):
    """The most likely class of a frame and its softmax score."""

    index: int
    name: str
    score: float


def check_frame(frame: Any) -> Image:
    """`frame` itself if it is a uint8 BGR image [h, w, 3], else SourceError."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise SourceError(f"a frame must be a uint8 array, not {kind}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SourceError(f"a frame must be [height, width, 3], not {list(frame.shape)}")
    return frame


def resize(frame: Image, hw: Tuple[int, int]) -> Image:
    """The whole frame at `hw`, bilinear; training, calibration and runtime all use this one."""
    if frame.shape[:2] == hw:
        return frame
    resized = cv2.resize(frame, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)  # no copy: cv2 keeps the type


def label(logits: NDArray[np.float32], classes: Sequence[str]) -> Labels:
    """Logits [classes] -> the most likely class."""
    best = int(logits.argmax())
    score = 1.0 / float(np.exp(logits - logits[best]).sum())
    return Labels(best, classes[best], score)


def read_image(path: str) -> Image:
    """An image file -> BGR; SourceError if it is none."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{path} cannot be read as an image")
    return np.asarray(image, np.uint8)
