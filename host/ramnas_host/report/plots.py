"""A front, or a comparison of fronts -> plots as PNG files."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.report.tables import top1_label
from ramnas_host.search.front import Front
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, UNITS, Objective
from ramnas_models.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ramnas_host.search.comparison import Comparison
    from ramnas_host.search.front import ObjectiveValue


_COST_LABELS = {
    LATENCY: "latency (ms, drift-corrected median)",
    ENERGY: "energy (mJ per inference)",
    MACS: "MACs (millions)",
}


def plot_front(front: Front, bundled: Collection[str], path: Path) -> None:
    """Write a PNG of top-1 over each cost, predicted and measured, one panel per cost.

    The models whose arch id is in `bundled` are marked and named.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    costs = [objective for objective in front.objectives if objective.kind != TOP1]
    labels = labels_of(front.objectives)
    figure, panels = plt.subplots(
        len(costs), figsize=(8, 5 * len(costs)), layout="constrained", squeeze=False
    )
    for objective, axes in zip(costs, panels[:, 0], strict=True):
        _plot(front, objective, bundled, axes)
        axes.set_title(labels.objectives[objective.name], fontsize=9)
    _explain(figure, labels.legend)
    _save(figure, path)


def plot_surrogates(front: Front, path: Path) -> None:
    """Write a PNG of predicted over true values, one panel per surrogate.

    The points are the held-out samples and the candidates of a verified front.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {one.name: one.kind for one in front.objectives}
    labels = labels_of(front.objectives)
    n = max(1, len(front.surrogates))
    figure, panels = plt.subplots(1, n, figsize=(5 * n, 5), layout="constrained", squeeze=False)
    for (name, chosen), axes in zip(front.surrogates.items(), panels[0], strict=False):
        verified = [
            (c.measured[name].value, c.predicted[name].value)
            for c in front.candidates
            if name in c.measured
        ]
        for label, pairs, color, size in (
            ("held-out samples", chosen.held_out, "tab:grey", 3),
            ("the verified front", verified, "tab:blue", 5),
        ):
            truth, predicted = [x for x, _ in pairs], [y for _, y in pairs]
            axes.plot(truth, predicted, "o", color=color, ms=size, alpha=0.7, label=label)
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="k", linewidth=0.7, linestyle="--")
        axes.set_xlabel(f"true ({UNITS[kinds[name]]})")
        axes.set_ylabel(f"predicted ({UNITS[kinds[name]]})")
        taus = chosen.scores[chosen.family].taus
        axes.set_title(f"{labels.objectives[name]}\n{chosen.family}, {taus}", fontsize=9)
        axes.legend()
    _explain(figure, labels.legend)
    _save(figure, path)


def plot_comparison(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a PNG of the MACs-driven and the latency-driven front, one panel per batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = labels_of((), (one.device_class for one in comparisons))
    figure, panels = plt.subplots(
        1, len(comparisons), figsize=(7 * len(comparisons), 5), layout="constrained", squeeze=False
    )
    for one, axes in zip(comparisons, panels[0], strict=True):
        for name, points, marker, volume in (
            ("MACs-driven", one.by_macs, "s", one.hypervolume_by_macs),
            ("latency-driven", one.by_latency, "o", one.hypervolume_by_latency),
        ):
            ms, top1 = [p.ms for p in points], [100 * p.top1 for p in points]
            label = f"{name}, hypervolume {volume:.3f}"
            axes.plot(ms, np.maximum.accumulate(top1), drawstyle="steps-post", alpha=0.5)
            color = axes.lines[-1].get_color()
            axes.plot(ms, top1, marker, color=color, label=label, ms=5)
            _draw_intervals([(p.ms, p.interval) for p in points], color, axes)
        axes.set_xscale("log")
        _plain_ticks(axes)
        axes.set_xlabel(f"measured latency of a batch of {one.batch} (ms, drift-corrected median)")
        axes.set_ylabel(f"top-1 on the {one.images} (%)")
        axes.set_title(f"batch {one.batch}, {labels.boards[one.device_class]}", fontsize=9)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    _explain(figure, labels.legend)
    _save(figure, path)


def _draw_intervals(
    points: Sequence[tuple[float, tuple[float, float] | None]], color: str, axes: Axes
) -> None:
    """Draw the 95 % interval of top-1 at each cost, where it is known, as a vertical line."""
    known = [(cost, *interval) for cost, interval in points if interval]
    if known:
        costs, low, high = np.array(known).T
        axes.vlines(costs, 100 * low, 100 * high, color, linewidth=0.8, alpha=0.5)


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    for axis in ("major", "minor"):
        getattr(axes.xaxis, f"set_{axis}_formatter")(FuncFormatter(lambda x, _: f"{x:.2g}"))


def _explain(figure: Figure, legend: Sequence[str]) -> None:
    """Write below the panels which device classes the short names stand for."""
    if legend:
        figure.supxlabel("\n".join(legend), fontsize=7, color="tab:grey")


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    plt.close(figure)
    write_file(path, png.getvalue())


def _plot(front: Front, cost: Objective, bundled: Collection[str], axes: Axes) -> None:
    axes.set_xscale("log")
    scale = 1e-6 if cost.kind == MACS else 1.0

    def point(values: dict[str, ObjectiveValue]) -> tuple[float, float]:
        return scale * values[cost.name].value, 100 * values[TOP1].value

    measured = [c for c in front.candidates if {TOP1, cost.name} <= set(c.measured)]
    chosen = [c for c in measured if c.arch_id in bundled]
    for c in measured:  # a line from the prediction to the truth
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
    reported = [(c, c.accuracy("report")) for c in measured]
    bars = [(point(c.measured)[0], one.interval) for c, one in reported if one]
    _draw_intervals(bars, "tab:blue", axes)
    for c in chosen:
        axes.annotate(
            c.arch_id[:6],
            point(c.measured),
            textcoords="offset points",
            xytext=(5, -11),
            fontsize=8,
        )
    axes.set_xlabel(_COST_LABELS[cost.kind])
    axes.set_ylabel(top1_label(front))
    _plain_ticks(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
