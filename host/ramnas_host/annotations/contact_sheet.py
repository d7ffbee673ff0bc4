"""Some pictures of every split with their labels drawn on them -> one picture to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from ramnas_edge.vision.annotate import OPACITY, class_colours
from ramnas_host.annotations.check import PARTS, AnySplit, Data
from ramnas_host.annotations.detection_data import DetectionSplit
from ramnas_host.annotations.segmentation_data import IGNORED, SegmentationSplit, resize_labels
from ramnas_host.data.images import Dataset
from ramnas_models.errors import SourceError

_COLUMNS, _ROWS = 6, 2  # of tiles, for each split
_TILE = 256  # pixels, with a margin between a picture and the next one
_PICTURE = _TILE - 4  # pixels, the longer side of a picture
_LINE = 20  # pixels, for a line of text
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
_WHITE = (255, 255, 255)


def contact_sheet(data: Data) -> np.ndarray:
    """Up to 12 pictures of each split, evenly spread, uint8 [h, w, 3] in BGR.

    Boxes and masks are drawn in the colours of their classes, which a legend at the bottom names.
    The name of a class stands in a box if there is room. A crowd's box is grey. Ignored pixels are
    black. The class of a whole picture stands above it. Pictures that cannot be used are left out.
    """
    colours = class_colours(len(data.classes))
    rows: list[np.ndarray] = []
    for name in PARTS:
        split: AnySplit = getattr(data, name)
        tiles = list(_tiles(split, data.classes, colours))
        rows.append(_caption(f"{name}: {len(tiles)} of {len(split)}", _COLUMNS * _TILE))
        for start in range(0, len(tiles), _COLUMNS):
            group = tiles[start : start + _COLUMNS]
            blank = [np.full((1, _TILE, 3), 255, np.uint8)] * (_COLUMNS - len(group))
            rows.append(_row([*group, *blank]))
    if not isinstance(data, Dataset):  # pictures of one class have its name above them
        rows += _legend(data.classes, colours)
    return np.vstack(rows)


def _tiles(split: AnySplit, classes: Sequence[str], colours: np.ndarray) -> Iterator[np.ndarray]:
    count = min(len(split), _COLUMNS * _ROWS)
    for index in np.linspace(0, max(0, len(split) - 1), count).astype(int).tolist():
        try:
            drawn, words = _drawn(split, index, classes, colours)
        except SourceError:
            continue
        name = split.images.name(index).rpartition("/")[2]
        right = _TILE - drawn.shape[1]
        tile = cv2.copyMakeBorder(drawn, 0, 0, 0, right, cv2.BORDER_CONSTANT, value=_WHITE)
        yield np.vstack([_caption(f"{words}{name}", _TILE), tile])


def _row(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """The tiles beside each other, all as high as the highest."""
    height = max(len(tile) for tile in tiles) + 4
    return np.hstack([
        cv2.copyMakeBorder(tile, 0, height - len(tile), 0, 0, cv2.BORDER_CONSTANT, value=_WHITE)
        for tile in tiles
    ])  # fmt: skip


def _drawn(
    split: AnySplit, index: int, classes: Sequence[str], colours: np.ndarray
) -> tuple[np.ndarray, str]:
    """The picture at its size on the sheet with its labels, and words for its caption."""
    if isinstance(split, SegmentationSplit):
        image, labels = split.read(index)
        small = _fitted(image)
        labels = resize_labels(labels, small.shape[:2])
        tints = np.vstack([colours, np.zeros((256 - len(colours), 3), np.uint8)])[labels]
        if classes[0] == "background":
            tints[labels == 0] = small[labels == 0]
        mixed = cv2.addWeighted(small, 1 - OPACITY, tints, OPACITY, 0)
        mixed[labels == IGNORED] = 0
        return np.asarray(mixed), ""
    if isinstance(split, DetectionSplit):
        image, objects = split.read(index), split.objects[index]
        small = _fitted(image)
        scale = small.shape[1] / image.shape[1]
        for box, k, crowd in zip(objects.boxes, objects.classes, objects.crowd, strict=True):
            x0, y0, x1, y1 = (round(v) for v in (box * scale).tolist())
            colour = (128, 128, 128) if crowd else tuple(colours[k].tolist())
            cv2.rectangle(small, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), colour, 2)
            text = _plain(classes[k], k)
            (width, height), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
            if width + 6 < x1 - x0 and 4 * height < y1 - y0:  # or it hides the object
                cv2.rectangle(small, (x0, y0), (x0 + width + 4, y0 + height + 6), colour, -1)
                cv2.putText(
                    small, text, (x0 + 2, y0 + height + 2), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA
                )
        return small, ""
    label = int(split.labels[index])
    return _fitted(split.images[index]), f"{_plain(classes[label], label)} | "


def _fitted(image: np.ndarray) -> np.ndarray:
    """The picture, scaled so that its longer side fills a tile."""
    height, width = image.shape[:2]
    scale = _PICTURE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.array(cv2.resize(image, size, interpolation=how))


def _caption(text: str, width: int, left: int = 4) -> np.ndarray:
    line = np.full((_LINE, width, 3), 255, np.uint8)
    cv2.putText(line, _plain(text), (left, _LINE - 6), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return line


def _legend(classes: Sequence[str], colours: np.ndarray) -> list[np.ndarray]:
    """A line for every six classes: the colour and the name of each."""
    lines = []
    for start in range(0, len(classes), _COLUMNS):
        entries = []
        for k in range(start, start + _COLUMNS):
            entry = np.full((_LINE, _TILE, 3), 255, np.uint8)
            if k < len(classes):
                entry = _caption(_plain(classes[k], k), _TILE, left=28)
                entry[4 : _LINE - 4, 4:22] = colours[k]
            entries.append(entry)
        lines.append(np.hstack(entries))
    return lines


def _plain(text: str, number: int | None = None) -> str:
    """The text with what OpenCV's font has; a name of other letters is `class 3`."""
    if text.isascii():
        return text
    if number is not None:
        return f"class {number}"
    return text.encode("ascii", "replace").decode()
