"""Plots of fronts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pymoo")
pytest.importorskip("matplotlib")

from ramnas_host.report import plots
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.objectives import MACS, TOP1, Objective
from tests.host.search.fronts import BOARD, front, timed


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
