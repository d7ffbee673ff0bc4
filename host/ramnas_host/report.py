"""The front as a picture."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

from ramnas_host.front import Front
from ramnas_models.files import write_file


def plot_front(front: Front, bundled: Collection[str], path: Path) -> None:
    """PNG: predicted and measured top-1 over latency; the models of the bundle are named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    predicted = [c.predicted for c in front.candidates]
    axes.plot(
        [f.latency_ms for f in predicted], [100 * f.top1 for f in predicted],
        "o--", color="tab:grey", mfc="none", label="predicted by the surrogates",
    )  # fmt: skip
    measured = [(c, c.measured) for c in front.candidates if c.measured]
    axes.plot(
        [f.latency_ms for _, f in measured], [100 * f.top1 for _, f in measured],
        "o", color="tab:blue", label="measured",
    )  # fmt: skip
    chosen = [(c, f) for c, f in measured if c.arch_id in bundled]
    axes.plot(
        [f.latency_ms for _, f in chosen], [100 * f.top1 for _, f in chosen],
        "o", color="tab:red", label="in the bundle",
    )  # fmt: skip
    for candidate, figures in chosen:
        axes.annotate(
            candidate.arch_id[:6], (figures.latency_ms, 100 * figures.top1),
            textcoords="offset points", xytext=(4, -10), fontsize=8,
        )  # fmt: skip
    axes.set(
        xscale="log", xlabel="latency, drift-corrected median (ms)",
        ylabel="top-1 on validation images (%)", title=front.device_class,
    )  # fmt: skip
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    plt.close(figure)
    write_file(path, png.getvalue())
