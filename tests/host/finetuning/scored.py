"""Objects and the boxes that were found -> mAP50-95 and mAP50, with every image counted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramnas_host.annotations.detection_data import Objects
from ramnas_host.finetuning.detection_metrics import SCORES, Found, coco_matches


def coco_scores(objects: Sequence[Objects], found: Sequence[Found]) -> dict[str, float]:
    """The scores of `coco_matches` by their names."""
    matches = coco_matches(objects, found)
    return dict(zip(SCORES, matches.scores(np.ones(matches.n, np.int64)), strict=True))
