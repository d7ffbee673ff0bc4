"""How large the checks are: on a GPU, on a CPU, and where only this script itself is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Sizes:
    """The sizes of all sections.

    A step of `space` takes `batch` pictures whose sides have `pixels`; `steps` of them are timed.
    `archs` are evaluated with `pictures` of the selection split and a quarter as many for the
    calibration of BatchNorm. `graph_space` is that of the ONNX graphs, which are timed `calls`
    times. `measured` archs of `measured_space` are calibrated, twice.
    """

    space: str
    batch: int
    pixels: int
    steps: int
    archs: int
    pictures: int
    graph_space: str
    detection_hw: Tuple[int, int]
    segmentation_hw: Tuple[int, int]
    calls: int
    measured_space: str
    measured: int


# the batch is what each GPU of the paper has (Table II)
GPU = Sizes("table1", 56, 224, 10, 20, 1024, "table1", (320, 320), (512, 1024), 50, "table1", 24)
CPU = Sizes("micro", 32, 48, 3, 20, 128, "table1", (320, 320), (256, 512), 5, "micro", 24)
QUICK = Sizes("micro", 4, 48, 1, 2, 16, "micro", (64, 96), (64, 96), 2, "micro", 3)


def chosen(*, quick: bool, on_gpu: bool) -> Sizes:
    """The sizes for this run."""
    if quick:
        return QUICK
    return GPU if on_gpu else CPU
