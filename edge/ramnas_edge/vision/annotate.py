"""Shows a result to people: drawn on its frame, as JSON, or as one line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import cv2
import numpy as np

from ramnas_edge.vision.results import Detections, Labels, Mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Result

OPACITY = 0.5  # of a mask over its frame
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotated(frame: Image, result: Result) -> Image:
    """Return a copy of the BGR `frame` with `result` drawn on it.

    Where class 0 of a mask is called "background", its pixels are not tinted.
    """
    if isinstance(result, Mask):
        colours = class_colours(len(result.names))[result.classes]
        mixed = cv2.addWeighted(frame, 1 - OPACITY, colours, OPACITY, 0)
        if result.names[0] == "background":
            return np.where(result.classes[..., None] == 0, frame, mixed)
        return np.asarray(mixed, np.uint8)
    drawn = np.array(frame, order="C")
    if isinstance(result, Labels):
        _text(drawn, f"{result.name} {result.score:.2f}", (2, 2), (255, 255, 255))
        return drawn
    colours = class_colours(len(result.names))
    for box, score, index in zip(result.boxes, result.scores, result.classes):
        x0, y0, x1, y1 = (round(v) for v in box.tolist())
        colour = tuple(int(c) for c in colours[index])
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), colour, 2)
        _text(drawn, f"{result.names[index]} {score:.2f}", (x0, y0), colour)
    return drawn


def plain(result: Result) -> Dict[str, Any]:
    """Convert `result` to what JSON can hold, under a key that names its kind.

    `labels` is one class, `detections` a list of boxes, `mask` the share of pixels of each class.
    """
    if isinstance(result, Labels):
        return {"labels": {"index": result.index, "name": result.name, "score": result.score}}
    if isinstance(result, Detections):
        objects = zip(result.boxes.tolist(), result.scores.tolist(), result.classes.tolist())
        return {
            "detections": [
                {"name": result.names[index], "score": score, "box": box}
                for box, score, index in objects
            ]
        }
    return {"mask": dict(shares(result))}


def words(result: Result) -> str:
    """Describe `result` in one line, such as `2 cat, 1 cup`."""
    if isinstance(result, Labels):
        return f"{result.name} ({result.score:.2f})"
    if isinstance(result, Detections):
        names = [result.names[index] for index in result.classes]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        return counts or "nothing"
    return ", ".join(f"{share:.0%} {name}" for name, share in shares(result))


def shares(mask: Mask) -> List[Tuple[str, float]]:
    """List the classes that occur in the mask with their share of its pixels, largest first."""
    counts = np.bincount(mask.classes.ravel(), minlength=len(mask.names))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return [(mask.names[i], float(counts[i] / mask.classes.size)) for i in order]


def class_colours(count: int) -> NDArray[np.uint8]:
    """Return uint8 [count, 3], a BGR colour for each class.

    The hues of neighbouring classes lie a golden angle apart, so that they differ well.
    """
    hues = (np.arange(count) * 113 % 180).astype(np.uint8)
    hsv = np.stack([hues, np.full(count, 200, np.uint8), np.full(count, 255, np.uint8)], -1)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0], np.uint8)


def _text(image: Image, text: str, corner: Tuple[int, int], colour: Tuple[int, ...]) -> None:
    """Write black text on a filled box, which is moved to lie within the image."""
    (width, height), below = cv2.getTextSize(text, _FONT, 0.5, 1)
    x = max(0, min(corner[0], image.shape[1] - width))
    y = max(0, min(corner[1], image.shape[0] - height - below))
    cv2.rectangle(image, (x, y), (x + width, y + height + below), colour, -1)
    cv2.putText(image, text, (x, y + height), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
