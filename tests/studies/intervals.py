"""Whether the 95 % intervals and the cross-validated errors of the family `cost` hold on new archs.

It prints three tables from the public set of latencies (`--data ofa_mbv3_latency.npz`): the share
of new measurements inside the intervals, the printed MAPE beside the true one, and what a floor of
the noise in milliseconds gains on a board whose fast networks scatter most.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.surrogates.cost_gp import CostGp
from ramnas_host.surrogates.surrogate import COST, fit, score, space_costs
from tests.studies.measured_latencies import Measured, read_npz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_host.surrogates.robust_gp import Inputs

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]

SPREAD = 1.96
# Noise in ms is added to this column, which has little of its own. Its fastest networks take a
# quarter of the time of its slowest, so they then scatter four times as much.
QUIET, FLOOR_MS = "titan_rtx_32", 1.0
ENDS = 0.1  # share of the archs that are called the fastest, and the slowest


class WithoutFloor(CostGp):
    """The same process with noise that is relative only."""

    def _relative(self, parts: Floats, totals: Floats, rows: Rows, guess: Floats) -> Inputs:
        found = super()._relative(parts, totals, rows, guess)
        return replace(found, floors=np.zeros(len(rows)))


def covered(ms: Floats, mean: Floats, std: Floats) -> float:
    """The share of `ms` [n] within SPREAD standard deviations of the mean."""
    return float(np.mean(np.abs(ms - mean) <= SPREAD * std))


def coverage_and_errors(data: Measured, sizes: list[int], seeds: int) -> str:
    """Two Markdown tables: coverage by device and size, and the printed and true MAPE by size."""
    shares, mapes = {}, {}
    for n, (j, device) in itertools.product(sizes, enumerate(data.devices)):
        found = []
        for seed in range(seeds):
            some, test = data.split(n, seed)
            fitted = fit(data.space, data.rows[some], data.ms[some, j], COST, log=True)
            mean, std = fitted.predict(data.rows[test])
            true = score(data.ms[test, j], mean).mape
            found.append([covered(data.ms[test, j], mean, std), fitted.score.mape, true])
        shares[n, device], *mapes[n, device] = np.mean(found, axis=0)
        print(f"{device} n {n}: {shares[n, device]:.1%} inside", flush=True)
    lines = [*_header("inside the 95 % interval", sizes)]
    for device in data.devices:
        lines.append(_line(device, [f"{shares[n, device]:.1%}" for n in sizes]))
    mean_share = [np.mean([shares[n, device] for device in data.devices]) for n in sizes]
    lines.append(_line("mean", [f"{share:.1%}" for share in mean_share]))
    lines += ["", *_header("MAPE, mean of all devices", sizes)]
    for i, name in enumerate(("printed", "true")):
        cells = [np.mean([mapes[n, device][i] for device in data.devices]) for n in sizes]
        lines.append(_line(name, [f"{cell:.1%}" for cell in cells]))
    return "\n".join(lines)


def floor_gain(data: Measured, sizes: list[int], seeds: int) -> str:
    """A Markdown table: tau and coverage with relative noise only, a floor, and a measured floor.

    The board is the column QUIET with noise of FLOOR_MS, which follows Student's t. Tau is against
    the column without that noise.
    """
    ms = data.ms[:, data.devices.index(QUIET)]
    costs = space_costs(data.space)
    lines = ["| n | noise | tau | all | the fastest | the slowest |", "|---" * 6 + "|"]
    for n in sizes:
        found = []
        for seed in range(seeds):
            some, test = data.split(n, seed)
            noise = FLOOR_MS * np.random.default_rng(seed).standard_t(4, len(ms)) / np.sqrt(2)
            noisy = np.maximum(ms + noise, ms / 2)
            order = test[np.argsort(ms[test])]
            ends = round(ENDS * len(order))
            for process in (
                WithoutFloor(costs), CostGp(costs), CostGp(costs, floor_ms=FLOOR_MS / np.sqrt(2))
            ):  # fmt: skip
                process.fit(data.rows[some], np.log(noisy[some]))
                mean, std = process.predict(data.rows[order])
                inside = np.abs(np.log(noisy[order]) - mean) <= SPREAD * std
                tau = score(ms[order], mean).tau
                found.append([tau, *(x.mean() for x in (inside, inside[:ends], inside[-ends:]))])
        means = np.array(found).reshape(seeds, 3, 4).mean(0)
        for name, (tau, *shares) in zip(("relative", "floor", "measured"), means, strict=True):
            lines.append(_line(f"{n} | {name} | {tau:.3f}", [f"{share:.1%}" for share in shares]))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _header(title: str, sizes: Iterable[int]) -> tuple[str, str]:
    cells = [str(n) for n in sizes]
    return _line(title, cells), "|---" * (len(cells) + 1) + "|"


def _line(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="ofa_mbv3_latency.npz", help="the public set", required=True
    )
    parser.add_argument(
        "--samples", default="8,10,20,30,50,100,300",
        help="numbers of archs to learn from (default: 8,10,20,30,50,100,300)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=10, help="draws of each size (default: 10)")
    args = parser.parse_args()
    data = read_npz(args.data)
    sizes = data.sizes([int(n) for n in args.samples.split(",")])
    tables = coverage_and_errors(data, sizes, args.seeds), floor_gain(data, sizes, args.seeds)
    print("", *tables, sep="\n\n")


if __name__ == "__main__":
    main()
