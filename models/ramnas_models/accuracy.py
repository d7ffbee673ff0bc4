"""An accuracy with all that it takes to read it: metric, value, split, number of images, interval.

A share of correct answers, such as top-1, has Wilson's interval. A metric that is not a share, such
as mAP or mIoU, comes with an interval of its own. A figure that others published says so.
"""

from __future__ import annotations

import math
from typing import Optional, Tuple

import msgspec

FP32 = "fp32"
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An accuracy that was measured here, or that somebody published (`source`).

    `metric` is `top1`, `mAP50-95` or `mIoU`, and `value` lies between 0 and 1. `split` names the
    images it was measured on: `selection` if anything was chosen by them, `report` if nothing was.
    `n` is the number of images, and `interval` the 95 % interval of `value`. Both are None only in
    files of an earlier version.

    `precision` is that of the network's arithmetic. `source` says who published the figure, on
    which `split` of theirs; it is empty for a figure that was measured here. The two kinds are not
    comparable, because their images differ.
    """

    metric: str
    value: float
    split: str
    n: Optional[int] = None
    interval: Optional[Tuple[float, float]] = None
    precision: str = FP32
    source: str = ""

    @property
    def images(self) -> str:
        """The images, for people: `report split, n 250, 95 % interval 91.8 to 97.2 %`."""
        words = [f"published by {self.source}"] if self.source else []
        words.append(f"{self.split} split")
        if self.n is not None:
            words.append(f"n {self.n}")
        if self.interval is not None:
            low, high = (100 * end for end in self.interval)
            words.append(f"95 % interval {low:.1f} to {high:.1f} %")
        return ", ".join(words)

    def __str__(self) -> str:
        """For people: `top1 95.2 % (report split, n 250, 95 % interval 91.8 to 97.2 %)`."""
        metric = self.metric if self.precision == FP32 else f"{self.metric} in {self.precision}"
        return f"{metric} {100 * self.value:.1f} % ({self.images})"


def share(metric: str, value: float, split: str, n: int) -> Accuracy:
    """The accuracy of `value` * `n` correct answers among `n`, with its Wilson interval."""
    return Accuracy(metric, value, split, n, wilson(value, n))


def wilson(value: float, n: int) -> Tuple[float, float]:
    """The 95 % score interval of a share `value` of `n` (Wilson 1927).

    Unlike value +- 1.96 standard errors it has a width at 0 and 1, and it stays between them.
    """
    if n < 1 or not 0 <= value <= 1:
        raise ValueError(f"a share lies between 0 and 1 of at least one image: {value} of {n}")
    centre = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(value * (1 - value) / n + (_Z / (2 * n)) ** 2)
    # the ends are exact at 0 and 1, where rounding could cross them
    return (
        0.0 if value == 0 else max(0.0, centre - half),
        1.0 if value == 1 else min(1.0, centre + half),
    )
