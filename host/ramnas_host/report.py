"""The front as a picture."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path

from ramnas_host.front import Figures, Front
from ramnas_models.files import write_file


def plot_front(front: Front, bundled: Collection[str], path: Path) -> None:
    """PNG: predicted and measured top-1 over latency; the models of the bundle are named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.set_xscale("log")
    for candidate in front.candidates:  # how far each prediction was from the truth
        ends = [f for f in (candidate.predicted, candidate.measured) if f]
        axes.plot(*_points(ends), "-", color="tab:grey", linewidth=0.7, alpha=0.6)
    measured = [c for c in front.candidates if c.measured]
    chosen = [c for c in measured if c.arch_id in bundled]
    series = [
        (
            "predicted by the surrogates",
            [c.predicted for c in front.candidates],
            "none",
            "tab:grey",
        ),
        ("measured", [c.measured for c in measured if c.measured], "tab:blue", "tab:blue"),
        ("in the bundle", [c.measured for c in chosen if c.measured], "tab:red", "tab:red"),
    ]
    for label, figures, fill, edge in series:
        axes.plot(*_points(figures), "o", mfc=fill, mec=edge, label=label)
    for candidate, x, y in zip(chosen, *_points(series[-1][1]), strict=True):
        axes.annotate(
            candidate.arch_id[:6], (x, y), textcoords="offset points", xytext=(5, -11), fontsize=8
        )
    axes.set_xlabel("latency, drift-corrected median (ms)")
    axes.set_ylabel("top-1 on validation images (%)")
    axes.set_title(front.device_class)
    for axis in ("major", "minor"):
        getattr(axes.xaxis, f"set_{axis}_formatter")(FuncFormatter(lambda x, _: f"{x:.2g}"))
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    plt.close(figure)
    write_file(path, png.getvalue())


def _points(figures: Sequence[Figures]) -> tuple[list[float], list[float]]:
    """x: milliseconds, y: percent."""
    return [f.latency_ms for f in figures], [100 * f.top1 for f in figures]
