"""Shows a result to people: drawn on its frame, as JSON, or as one line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import cv2
import numpy as np

from ramnas_edge.vision.results import Detections, Labels, Mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Result

    Boxes = NDArray[np.int64]  # [n, 4]: x0, y0, x1, y1 in pixels

OPACITY = 0.5  # of a mask over its frame
SMALL = 32  # pixels; the outline of a box that is narrower is one pixel wide
HIDDEN = 0.3  # a name that would hide a larger share of an object is left out
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
        text = _Text(f"{result.name} {result.score:.2f}", frame)
        text.draw(drawn, (2, 2), (255, 255, 255))
        return drawn
    _draw(drawn, result)
    return drawn


def _draw(image: Image, found: Detections) -> None:
    """Draw boxes, and then the names of their classes where they hide as little as possible.

    A name that would hide most of a small object, or of another name, is left out.
    """
    boxes = np.rint(found.boxes).astype(np.int64)
    colours = class_colours(len(found.names))[found.classes].tolist()
    for (x0, y0, x1, y1), colour in zip(boxes.tolist(), colours):
        small = min(x1 - x0, y1 - y0) < SMALL
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, 1 if small else 2)
    taken = boxes  # what a name should not hide: the objects, and the names before it
    for box, score, index, colour in zip(boxes, found.scores, found.classes, colours):
        text = _Text(f"{found.names[index]} {score:.2f}", image)
        places = text.places(box, image)
        hidden = _hidden(places, taken)
        best = int(hidden.argmin())
        if hidden[best] <= HIDDEN:
            text.draw(image, (int(places[best, 0]), int(places[best, 1])), colour)
            taken = np.concatenate([taken, places[best : best + 1]])


def _hidden(places: Boxes, taken: Boxes) -> NDArray[np.float64]:
    """The largest share of anything in `taken` that each of `places` covers."""
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    covered = np.maximum(high - low, 0).prod(2)
    areas = np.maximum(taken[:, 2:] - taken[:, :2], 1).prod(1)
    return np.asarray((covered / areas).max(1), np.float64)


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


class _Text:
    """A line of text on a filled box, of a size that suits the image."""

    def __init__(self, text: str, image: Image) -> None:
        self._text = text
        self._scale = min(1.0, max(0.4, min(image.shape[:2]) / 1500))
        (self._width, self._above), self._below = cv2.getTextSize(text, _FONT, self._scale, 1)
        self._height = self._above + self._below

    def places(self, box: NDArray[np.int64], image: Image) -> Boxes:
        """Where it may stand, the best place first: above `box`, below, beside, or in its corner.

        int64 [n, 4], as boxes. All places lie within the image, if the text is not too wide.
        """
        x0, y0, x1, y1 = box.tolist()
        width, height = self._width, self._height
        corners = np.array([
            (x0, y0 - height), (x1 - width, y0 - height), (x0, y1), (x1 - width, y1),
            (x1, y0), (x0 - width, y0), (x0, y0),
        ])  # fmt: skip
        room = np.array([image.shape[1] - width, image.shape[0] - height])
        corners = np.maximum(np.minimum(corners, room), 0)
        return np.concatenate([corners, corners + np.array([width, height])], 1)

    def draw(self, image: Image, corner: Tuple[int, int], colour: Sequence[int]) -> None:
        x, y = corner
        cv2.rectangle(image, corner, (x + self._width - 1, y + self._height - 1), colour, -1)
        cv2.putText(
            image, self._text, (x, y + self._above), _FONT, self._scale, (0, 0, 0), 1, cv2.LINE_AA
        )
