"""Plots of fronts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pymoo")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from ramnas_host.report import plots
from ramnas_host.search.comparison import compare
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.objectives import MACS, TOP1, Objective
from ramnas_models.accuracy import share, wilson
from tests.host.search.fronts import BOARD, front, record, timed


def test_a_plot_has_a_panel_for_every_cost(tmp_path: Path) -> None:
    measured = {
        TOP1: ObjectiveValue(0.9),
        BOARD.name: ObjectiveValue(1.0, 2.0),
        MACS: ObjectiveValue(1e6),
    }
    one_cost = timed((1, 0.9), (2, 0.95))
    two_costs = front(measured, measured, objectives=(Objective(TOP1), BOARD, Objective(MACS)))
    heights = []
    for found in (one_cost, two_costs):
        plots.plot_front(found, [found.candidates[0].arch_id], tmp_path / "p.png")
        heights.append(cv2.imread(str(tmp_path / "p.png")).shape[0])
    assert np.isclose(heights[1], 2 * heights[0], atol=2)


def test_measured_accuracies_have_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    found = timed((1, 0.9), (2, 0.95))
    plots.plot_front(found, [], tmp_path / "p.png")
    top1 = {c.arch_id: share(TOP1, 0.9, "report", 250) for c in found.candidates}
    measured = [record(c.arch, 2.0) for c in found.candidates]
    compared = compare(1, found.candidates, found.candidates, top1, measured)
    plots.plot_comparison([compared], tmp_path / "q.png")
    low, high = wilson(0.9, 250)
    for figure in drawn:
        (first, *_), *_ = (lines.get_segments() for lines in figure.axes[0].collections)
        assert first[:, 1].tolist() == pytest.approx([100 * low, 100 * high])
    assert [len(figure.axes[0].collections) for figure in drawn] == [1, 2]
