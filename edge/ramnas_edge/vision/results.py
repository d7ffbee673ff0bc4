"""What a runtime gives for a frame: labels, boxes or a mask, with the time of each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Tuple, Union

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of one call, stage by stage; of a batch they are the whole batch's."""

    resize_ms: float
    engine_ms: float
    decode_ms: float

    @property
    def total_ms(self) -> float:
        return self.resize_ms + self.engine_ms + self.decode_ms

    def by_stage(self) -> Dict[str, float]:
        return {"resize": self.resize_ms, "engine": self.engine_ms, "decode": self.decode_ms}


class Labels(msgspec.Struct, frozen=True):
    """The most likely class of a frame and its softmax score."""

    index: int
    name: str
    score: float
    timing: Timing


class Detections(msgspec.Struct, frozen=True, eq=False):
    """The n objects of a frame, best first.

    `boxes` float32 [n, 4]: x0, y0, x1, y1 in pixels of the frame as it came in, corners of the
    box and not indices, within [0, width] and [0, height]. `scores` float32 [n]: softmax.
    `classes` int64 [n] are indices of `names`, which are all classes of the model.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: Tuple[str, ...]
    timing: Timing


class Mask(msgspec.Struct, frozen=True, eq=False):
    """`classes` uint8 [height, width] of the frame as it came in: indices of `names`."""

    classes: NDArray[np.uint8]
    names: Tuple[str, ...]
    timing: Timing


Result = Union[Labels, Detections, Mask]
