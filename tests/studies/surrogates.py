"""How many measurements a latency surrogate needs: the score of each family by number of samples.

This is Fig. 6 of the paper, on data that anybody can get (`--data ofa_mbv3_latency.npz`) or on your
own records (`--store`). It prints tables and writes a JSON file and a plot.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ramnas_host.surrogates import families
from ramnas_host.surrogates.cost_gp import CostGp
from ramnas_host.surrogates.cost_prior import MixedGp
from ramnas_host.surrogates.encodings import ENCODINGS
from ramnas_host.surrogates.surrogate import COST, Score, cost_table, fit, score, space_costs
from ramnas_models.files import write_file
from ramnas_models.space import load_space
from tests.studies.measured_latencies import Measured, read_npz, read_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

PAPER_SHARE = 0.8  # share of the records to learn from
PRIOR_RECORDS, PRIOR_SIZES, PRIOR_SEEDS, PRIOR_TEST = 300, (10, 20, 50), 10, 1000
NEAR = 0.01  # in rho
QUIET_RHO = 0.95
UNIFORM_SIZES, UNIFORM_TEST, BINS = (20, 50, 100), 2000, 10


class Result(msgspec.Struct, frozen=True):
    """The score of one fit: a family and encoding learnt from `n` archs of a device."""

    family: str
    encoding: str
    n: int
    device: str
    seed: int
    score: Score


def predicted(
    data: Measured, family: str, encoding: str, rows: Rows, ms: Floats, ask: Rows
) -> Floats:
    """Predicted ms for the encodings `ask`, learnt from `rows` and `ms`."""
    if family == COST:
        costs = space_costs(data.space, data.input_hw)
        return np.exp(CostGp(costs).fit(rows, np.log(ms)).predict(ask)[0])
    encode = ENCODINGS[encoding](data.space, cost_table(data.space, data.input_hw))
    return np.exp(families.Fitted(family, encode(rows), np.log(ms))(encode(ask)))


def results(
    data: Measured, models: list[tuple[str, str]], sizes: list[int], seeds: int
) -> list[Result]:
    found = []
    for n, (family, encoding) in itertools.product(sizes, models):
        for seed, (j, device) in itertools.product(range(seeds), enumerate(data.devices)):
            train, test = data.split(n, seed)
            ms = predicted(
                data, family, encoding, data.rows[train], data.ms[train, j], data.rows[test]
            )
            found.append(Result(family, encoding, n, device, seed, score(data.ms[test, j], ms)))
        print(
            f"{family} {encoding} n {n}: {_mean(found[-seeds * len(data.devices) :])}", flush=True
        )
    return found


def _mean(found: list[Result]) -> str:
    tau, rho, mape = (np.mean([getattr(r.score, k) for r in found]) for k in ("tau", "rho", "mape"))
    return f"tau {tau:.3f}, rho {rho:.3f}, MAPE {mape:.1%}"


def groups(data: Measured) -> dict[str, tuple[str, ...]]:
    """The groups of devices whose scores are averaged, by title.

    These are the quiet devices, all devices, and each by itself. A device is quiet if another one
    ranks all archs almost alike, with a Spearman rho of QUIET_RHO or more. The noise of a device
    has nothing to do with that of another, so a noisy one agrees with none. No surrogate takes part
    in this rule.
    """
    from scipy.stats import rankdata

    rho = np.atleast_2d(np.corrcoef(rankdata(data.ms, axis=0), rowvar=False))
    alike = rho - np.eye(len(rho)) >= QUIET_RHO
    quiet = tuple(d for d, one in zip(data.devices, alike, strict=True) if one.any())
    every = {"all devices": data.devices} if len(data.devices) > 1 else {}
    return {
        **({f"quiet devices ({', '.join(quiet)})": quiet} if quiet else {}),
        **every,
        **{d: (d,) for d in data.devices},
    }


def tables(data: Measured, found: list[Result]) -> str:
    """Markdown tables of Kendall tau, Spearman rho and MAPE: a row per model, a column per size."""
    sizes = sorted({r.n for r in found})
    lines = []
    for name, devices in groups(data).items():
        for figure in ("tau", "rho", "mape"):
            lines += ["", f"{name}: {figure}", "", f"| family | {' | '.join(map(str, sizes))} |"]
            lines.append("|---" * (len(sizes) + 1) + "|")
            for model in dict.fromkeys((r.family, r.encoding) for r in found):
                cells = [
                    np.mean([
                        getattr(r.score, figure) for r in found
                        if (r.family, r.encoding, r.n) == (*model, n) and r.device in devices
                    ] or [np.nan])
                    for n in sizes
                ]  # fmt: skip
                shown = [
                    "" if np.isnan(c) else f"{c:.1%}" if figure == "mape" else f"{c:.3f}"
                    for c in cells
                ]
                lines.append(f"| {' '.join(model).strip()} | {' | '.join(shown)} |")
    return "\n".join(lines)


def plot(data: Measured, found: list[Result], path: Path) -> None:
    """Write a PNG of tau over the number of samples; the bars are the spread over the seeds."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = list(groups(data).items())[:2]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(6 * len(shown), 4.5), layout="constrained", squeeze=False
    )
    for (name, devices), one in zip(shown, axes[0], strict=True):
        for model in dict.fromkeys((r.family, r.encoding) for r in found):
            own = [r for r in found if (r.family, r.encoding) == model and r.device in devices]
            sizes = sorted({r.n for r in own})
            seeds = sorted({r.seed for r in own})
            tau = np.array([
                [np.mean([r.score.tau for r in own if (r.n, r.seed) == (n, s)]) for s in seeds]
                for n in sizes
            ])  # fmt: skip
            one.errorbar(
                sizes, tau.mean(1), tau.std(1), marker="o", markersize=4, capsize=2,
                linewidth=2 if model[0] == COST else 1, label=" ".join(model).strip(),
            )  # fmt: skip
        one.set(xscale="log", xlabel="measured archs", ylabel="Kendall tau", title=name)
        one.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    write_file(path, png.getvalue())


def leave_one_gpu_out(data: Measured, seeds: int = PRIOR_SEEDS) -> str:
    """A Markdown table of rho on a new GPU: without the other GPU, with it, and mixed."""
    costs = space_costs(data.space, data.input_hw)
    train, _ = data.split(PRIOR_RECORDS, 1000)
    known = {
        device: CostGp(costs).fit(data.rows[train], np.log(data.ms[train, j]))
        for j, device in enumerate(data.devices)
    }
    lines = ["| device | n | without | with | mixed | |", "|---|---|---|---|---|---|"]
    mean: dict[int, list[list[float]]] = {}
    for n, (j, device) in itertools.product(PRIOR_SIZES, enumerate(data.devices)):
        gpu = device.rpartition("_")[0]
        others = [known[d] for d in data.devices if d.rpartition("_")[0] != gpu]
        rho = []
        for seed in range(seeds):
            some, test = data.split(n, seed)
            test = test[:PRIOR_TEST]
            mixed = MixedGp(costs, others).fit(data.rows[some], np.log(data.ms[some, j]))
            rho.append([
                score(data.ms[test, j], np.exp(p.predict(data.rows[test])[0])).rho
                for p in (mixed.plain, mixed.informed, mixed)
            ])  # fmt: skip
        plain, informed, both = np.mean(rho, axis=0).tolist()
        mean.setdefault(n, []).append([plain, informed, both])
        far = "" if both >= max(plain, informed) - NEAR else "not within 0.01"
        lines.append(f"| {device} | {n} | {plain:.3f} | {informed:.3f} | {both:.3f} | {far} |")
        print(lines[-1], flush=True)
    for n, found in mean.items():
        cells = " | ".join(f"{value:.3f}" for value in np.mean(found, axis=0))
        lines.append(f"| mean | {n} | {cells} | |")
    return "\n".join(lines)


def spread(data: Measured, n: int, seed: int) -> tuple[Indices, Indices]:
    """Indices of `n` archs that are spread over log MACs, and of those to judge on.

    This is how a calibration chooses its archs: each of ten bins of equal width gives as many as
    the others, as far as it has them.
    """
    macs = np.log(cost_table(data.space, data.input_hw).macs(data.rows))
    bins = np.minimum((BINS * (macs - macs.min()) / np.ptp(macs)).astype(int), BINS - 1)
    drawn = np.random.default_rng(seed).permutation(len(macs))
    place = np.empty(len(macs), dtype=int)  # how many archs of the same bin were drawn before
    for one in range(BINS):
        own = drawn[bins[drawn] == one]
        place[own] = np.arange(len(own))
    order = drawn[np.argsort(place[drawn], kind="stable")]
    return order[:n], np.random.default_rng(seed).permutation(order[n:])[:UNIFORM_TEST]


def tau_over_uniform_archs(data: Measured, models: list[tuple[str, str]], seeds: int) -> str:
    """A Markdown table: how wrong two figures are about the tau over uniformly drawn archs.

    The surrogates learn from archs that are spread over log MACs. Their cross-validated tau, and
    the tau that they expect over uniform archs, are compared with the tau on archs of the set that
    they have not seen, which was drawn uniformly.
    """
    lines = [
        "| family | n | true tau | cross-validated tau | expected tau "
        "| mean error of cross-validated | mean error of expected |",
        "|---" * 7 + "|",
    ]
    for n, (family, encoding) in itertools.product(UNIFORM_SIZES, models):
        found = []
        for seed, (j, _) in itertools.product(range(seeds), enumerate(data.devices)):
            some, test = spread(data, n, seed)
            fitted = fit(
                data.space, data.rows[some], data.ms[some, j], family, log=True,
                encoding=encoding or "int", input_hw=data.input_hw,
            )  # fmt: skip
            truth = score(data.ms[test, j], fitted.predict(data.rows[test])[0]).tau
            found.append([truth, fitted.score.tau, fitted.score.tau_uniform])
        true, validated, expected = np.array(found, dtype=float).T
        figures = [
            *(f"{one.mean():.3f}" for one in (true, validated, expected)),
            *(f"{np.abs(one - true).mean():.3f}" for one in (validated, expected)),
        ]
        lines.append(f"| {f'{family} {encoding}'.strip()} | {n} | {' | '.join(figures)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="ofa_mbv3_latency.npz", help="the public set")
    parser.add_argument("--store", type=Path, metavar="records.sqlite", help="your own records")
    parser.add_argument(
        "--run", default="calibration", help="run of the store to learn from (default: calibration)"
    )
    parser.add_argument(
        "--test-run", help="run of the store to judge on (default: the archs that were not drawn)"
    )
    parser.add_argument(
        "--space", default="table1", help="space of the store's archs (default: table1)"
    )
    parser.add_argument(
        "--protocol", choices=("samples", "paper", "priors", "uniform"), default="samples",
        help="samples: learn from each of --samples; paper: learn from 80 %% of the records; "
        "priors: predict each GPU from the others; uniform: learn from archs spread over MACs, and "
        "compare the tau expected over uniform archs with the true one (default: samples)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", default="10,20,50,100,300,1000",
        help="numbers of archs to learn from (default: 10,20,50,100,300,1000)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="draws of each size (default: 5)")
    parser.add_argument(
        "--families", default="cost,gp,rbf,mlp,cart", help="(default: cost,gp,rbf,mlp,cart)"
    )
    parser.add_argument("--encodings", default="int", help="of int,onehot,layer (default: int)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/surrogates"),
        help="folder for the plot and the JSON file (default: runs/surrogates)",
    )  # fmt: skip
    args = parser.parse_args()
    if (args.data is None) == (args.store is None):
        parser.error("give either --data or --store")
    data = (
        read_npz(args.data) if args.data
        else read_store(args.store, args.run, args.test_run, load_space(args.space))
    )  # fmt: skip
    if args.protocol == "priors":
        print(leave_one_gpu_out(data))
        return
    models = [
        (family, encoding)
        for family in args.families.split(",")
        for encoding in ([""] if family == COST else args.encodings.split(","))
    ]
    if args.protocol == "uniform":
        print(tau_over_uniform_archs(data, models, args.seeds))
        return
    sizes = data.sizes([int(n) for n in args.samples.split(",")])
    if args.protocol == "paper":
        sizes = [int(PAPER_SHARE * (len(data.rows) - len(data.test)))]
    found = results(data, models, sizes, args.seeds)
    write_file(args.out / "surrogates.json", msgspec.json.encode(found))
    plot(data, found, args.out / "surrogates.png")
    print(tables(data, found))
    print(f"\nwritten: {args.out / 'surrogates.json'}, {args.out / 'surrogates.png'}")


if __name__ == "__main__":
    main()
