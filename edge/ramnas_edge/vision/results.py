"""The result of a task for one frame: a label, boxes or a mask, with the time of each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Tuple, Union

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds that each stage of a call took, for the whole batch."""

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
    """The n objects found in a frame, best first.

    `boxes` float32 [n, 4] holds x0, y0, x1, y1 in pixels of the frame as it came in. These are the
    edges of the box, not indices of pixels, and lie within [0, width] and [0, height]. `scores`
    float32 [n] are softmax values. `classes` int64 [n] are indices into `names`, which lists all
    classes of the model.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: Tuple[str, ...]
    timing: Timing


class Mask(msgspec.Struct, frozen=True, eq=False):
    """The class of every pixel of a frame.

    `classes` uint8 [height, width] has the size of the frame as it came in and holds indices into
    `names`.
    """

    classes: NDArray[np.uint8]
    names: Tuple[str, ...]
    timing: Timing


Result = Union[Labels, Detections, Mask]
