"""Feature-map sizes -> SSD anchor boxes; boxes <-> the deltas that a detector learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, Tuple

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # SSD: 0.1, 0.1, 0.2, 0.2
# exp() of a wild delta would overflow; no object is 62 times as long as its anchor
MAX_LOG_SCALE = math.log(1000 / 16)


class Anchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The anchors on every level of a detector, in pixels of its input.

    `feature_hw` is the true size of each level's feature map. `sizes` holds two sizes per level:
    that of its own anchors, and that of the next level's. `ratios` holds, per level, width / height
    of each anchor of its own size. Every place of the map has one more anchor, a square whose side
    is the geometric mean of the two sizes.
    """

    input_hw: Tuple[int, int]
    feature_hw: Tuple[Tuple[int, int], ...]
    sizes: Tuple[Tuple[float, float], ...]
    ratios: Tuple[Tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not len(self.feature_hw) == len(self.sizes) == len(self.ratios) > 0:
            raise ValueError(
                "anchors need one entry of feature_hw, sizes and ratios per level, but have "
                f"{len(self.feature_hw)}, {len(self.sizes)} and {len(self.ratios)}"
            )
        numbers: List[float] = [*self.input_hw, *(n for level in self.feature_hw for n in level)]
        numbers += [n for level in (*self.sizes, *self.ratios) for n in level]
        if not all(math.isfinite(n) and n > 0 for n in numbers):
            raise ValueError("anchors need lengths and ratios that are finite and above 0")

    @property
    def shapes(self) -> Tuple[int, ...]:
        """How many anchors each place of the feature map has, per level."""
        return tuple(len(ratios) + 1 for ratios in self.ratios)

    @property
    def count(self) -> int:
        return sum(h * w * shapes for (h, w), shapes in zip(self.feature_hw, self.shapes))

    def boxes(self) -> Array:
        """All anchors: float32 [count, 4] of cx, cy, w, h, ordered by level, row, column, shape.

        The centres divide the input evenly by the size of the feature map (SSD, section 2.2). That
        is right for any input size; steps of the stride would drift where it does not divide the
        input.
        """
        levels = zip(self.feature_hw, self.sizes, self.ratios)
        return np.concatenate([self._level(*level) for level in levels])

    def _level(
        self, feature_hw: Tuple[int, int], sizes: Tuple[float, float], ratios: Tuple[float, ...]
    ) -> Array:
        rows, columns = feature_hw
        own, between = sizes[0], math.sqrt(sizes[0] * sizes[1])
        root = np.sqrt(np.array(ratios))
        made = np.empty((rows, columns, len(ratios) + 1, 4), np.float32)
        made[..., 0] = ((np.arange(columns) + 0.5) * self.input_hw[1] / columns)[None, :, None]
        made[..., 1] = ((np.arange(rows) + 0.5) * self.input_hw[0] / rows)[:, None, None]
        made[..., 2] = [*(own * root), between]
        made[..., 3] = [*(own / root), between]
        return made.reshape(-1, 4)


def encode(boxes_xyxy: Array, anchors: Array) -> Array:
    """Boxes [..., 4] of x1, y1, x2, y2, each with its anchor [..., 4] -> deltas [..., 4].

    `anchors` are rows of `Anchors.boxes()`. The first two deltas are the offsets of the centre in
    anchor sides, the last two the logarithms of box side / anchor side; each is divided by its
    variance. Every box must have an area.
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    centre, side = anchors[..., :2], anchors[..., 2:]
    offset = ((low + high) / 2 - centre) / (side * CENTRE_VARIANCE)
    scale = np.log((high - low) / side) / SIZE_VARIANCE
    return np.concatenate([offset, scale], -1)


def decode(deltas: Array, anchors: Array) -> Array:
    """Deltas [..., 4], each with its anchor [..., 4] -> boxes [..., 4] of x1, y1, x2, y2.

    The boxes are in pixels of the detector's input and may reach beyond it. This inverts `encode`
    for boxes up to 62 times as long as their anchor.
    """
    centre, side = anchors[..., :2], anchors[..., 2:]
    centre = centre + deltas[..., :2] * CENTRE_VARIANCE * side
    half = np.exp(np.minimum(deltas[..., 2:] * SIZE_VARIANCE, MAX_LOG_SCALE)) * side / 2
    return np.concatenate([centre - half, centre + half], -1)
