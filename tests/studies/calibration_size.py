"""Top-1 and seconds by the number of images on which BatchNorm is recalibrated.

The recipes choose their number by this, so top-1 is that on the selection split.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import msgspec
import numpy as np

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import checkpoint
from ramnas_host.training.evaluate import recalibrated, score
from ramnas_models.accuracy import wilson
from ramnas_models.sampling import sample_by_macs

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder with the IDX files of Fashion-MNIST")
    args = parser.parse_args()
    net = checkpoint.load(args.supernet).net
    images = msgspec.structs.replace(load_recipe("fashion").images, calibration=max(SIZES))
    dataset = load_dataset("fashion", images, args.data)
    archs = sample_by_macs(net.space, np.random.default_rng(0), 10)
    n = len(dataset.selection)
    print(f"Top-1 in % and its 95 % interval, selection split, n {n}:\n")
    print("| images | min | max | mean of 8 random | seconds for all 10 |\n|---|---|---|---|---|")
    for size in SIZES:
        calibration = dataset.calibration.take(np.arange(size))
        seconds, found = 0.0, []
        for arch in archs:
            calibration.at(
                arch.resolution
            )  # prepared once per resolution, outside of the measured time
            subnet = net.extract(arch)
            start = time.perf_counter()
            recalibrated(subnet, calibration)
            seconds += time.perf_counter() - start
            found.append(score(subnet, dataset.selection))
        values = found[0].top1, found[1].top1, statistics.mean(one.top1 for one in found[2:])
        cells = " | ".join(_text(value, n) for value in values)
        print(f"| {size} | {cells} | {seconds:.1f} |", flush=True)


def _text(value: float, n: int) -> str:
    """Top-1 in % with its 95 % interval; a mean has that of one arch, as all have the same images.

    It has two digits, because the rows differ by a tenth of a point.
    """
    low, high = (100 * end for end in wilson(value, n))
    return f"{100 * value:.2f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
