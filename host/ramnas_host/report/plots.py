"""A front, and what its surrogates knew, as pictures."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.search.front import Front
from ramnas_host.search.objectives import LATENCY, MACS, TOP1, UNITS, Objective
from ramnas_models.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ramnas_host.search import front as fronts
    from ramnas_host.search.comparison import Comparison


def plot_front(front: Front, bundled: Collection[str], path: Path) -> None:
    """PNG: predicted and measured top-1 over every cost; the models of the bundle are named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    costs = [objective for objective in front.objectives if objective.kind != TOP1]
    figure, axes = plt.subplots(
        len(costs), figsize=(8, 5 * len(costs)), layout="constrained", squeeze=False
    )
    for objective, one in zip(costs, axes[:, 0], strict=True):
        _plot(front, objective, bundled, one)
    _save(figure, path)


def plot_surrogates(front: Front, path: Path) -> None:
    """PNG: predicted over true of every surrogate, held-out samples and the verified front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {one.name: one.kind for one in front.objectives}
    n = max(1, len(front.surrogates))
    figure, axes = plt.subplots(1, n, figsize=(5 * n, 5), layout="constrained", squeeze=False)
    for (name, chosen), one in zip(front.surrogates.items(), axes[0], strict=False):
        found = [
            (c.measured[name].value, c.predicted[name].value)
            for c in front.candidates
            if name in c.measured
        ]
        for label, pairs, color, size in (
            ("held-out samples", chosen.held_out, "tab:grey", 3),
            ("the verified front", found, "tab:blue", 5),
        ):
            truth, predicted = [x for x, _ in pairs], [y for _, y in pairs]
            one.plot(truth, predicted, "o", color=color, ms=size, alpha=0.7, label=label)
        one.axline((one.get_xlim()[0],) * 2, slope=1, color="k", linewidth=0.7, linestyle="--")
        one.set_xlabel(f"true ({UNITS[kinds[name]]})")
        one.set_ylabel(f"predicted ({UNITS[kinds[name]]})")
        tau = chosen.scores[chosen.family].tau
        one.set_title(f"{name}\n{chosen.family}, tau {tau:.3f}", fontsize=9)
        one.legend()
    _save(figure, path)


def plot_comparison(found: Sequence[Comparison], path: Path) -> None:
    """PNG: the MACs-driven and the latency-driven front over measured latency, a panel a batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(7 * len(found), 5), layout="constrained", squeeze=False
    )
    for of, one in zip(found, axes[0], strict=True):
        for name, points, marker, volume in (
            ("MACs-driven", of.by_macs, "s", of.hypervolume_by_macs),
            ("latency-driven", of.by_latency, "o", of.hypervolume_by_latency),
        ):
            ms, top1 = [p.ms for p in points], [100 * p.top1 for p in points]
            label = f"{name}, hypervolume {volume:.3f}"
            one.plot(ms, np.maximum.accumulate(top1), drawstyle="steps-post", alpha=0.5)
            color = one.lines[-1].get_color()
            one.plot(ms, top1, marker, color=color, label=label, ms=5)
        one.set_xscale("log")
        _plain_ticks(one)
        one.set_xlabel(f"measured latency of a batch of {of.batch} (ms, drift-corrected median)")
        one.set_ylabel("top-1 on validation images (%)")
        one.set_title(f"batch {of.batch}, {of.device_class}", fontsize=9)
        one.grid(alpha=0.3, which="both")
        one.legend()
    _save(figure, path)


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    for axis in ("major", "minor"):
        getattr(axes.xaxis, f"set_{axis}_formatter")(FuncFormatter(lambda x, _: f"{x:.2g}"))


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    plt.close(figure)
    write_file(path, png.getvalue())


def _plot(front: Front, cost: Objective, bundled: Collection[str], axes: Axes) -> None:
    axes.set_xscale("log")
    scale = 1e-6 if cost.kind == MACS else 1.0

    def point(figures: dict[str, fronts.ObjectiveValue]) -> tuple[float, float]:
        return scale * figures[cost.name].value, 100 * figures[TOP1].value

    measured = [c for c in front.candidates if {TOP1, cost.name} <= set(c.measured)]
    chosen = [c for c in measured if c.arch_id in bundled]
    for c in measured:  # how far each prediction was from the truth
        ends = zip(point(c.predicted), point(c.measured), strict=True)
        axes.plot(*ends, "-", color="tab:grey", linewidth=0.7, alpha=0.6)
    for label, points, fill, edge in (
        ("predicted", [point(c.predicted) for c in front.candidates], "none", "tab:grey"),
        ("measured", [point(c.measured) for c in measured], "tab:blue", "tab:blue"),
        ("in the bundle", [point(c.measured) for c in chosen], "tab:red", "tab:red"),
    ):
        axes.plot(
            [x for x, _ in points], [y for _, y in points], "o", mfc=fill, mec=edge, label=label
        )
    for c in chosen:
        axes.annotate(
            c.arch_id[:6],
            point(c.measured),
            textcoords="offset points",
            xytext=(5, -11),
            fontsize=8,
        )
    median = "drift-corrected median, " if cost.kind == LATENCY else ""
    axes.set_xlabel(f"{cost.kind} ({median}{UNITS[cost.kind]})")
    axes.set_ylabel("top-1 on validation images (%)")
    axes.set_title(cost.name, fontsize=9)
    _plain_ticks(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
