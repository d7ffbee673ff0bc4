"""A front against what was measured: figures, agreement, table, CSV rows and plot."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.store import Store
from ramnas_host.report import plots, tables
from ramnas_host.search import verification
from ramnas_host.search.front import Front, ObjectiveValue
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective
from ramnas_models.errors import DataError
from tests.host.search.fronts import BOARD, front, record, timed

DETECTOR = Objective(LATENCY, "board", Target(task="detection", num_classes=80))
NANO = Objective(LATENCY, "nano", Target())
ENERGY_MJ = Objective(ENERGY, "board", Target())


def bare(*objectives: Objective, n: int = 3) -> Front:
    return front(*[{}] * n, objectives=(Objective(TOP1), *objectives))


def test_each_target_is_measured_once_in_a_run_of_its_own() -> None:
    found = bare(BOARD, NANO, DETECTOR, ENERGY_MJ, Objective(MACS))
    assert verification.runs(found.objectives, "verify") == {
        "verify": Target(),
        "verify-2": DETECTOR.target,
    }
    assert verification.runs([Objective(MACS)], "verify") == {}


def test_measured_figures_are_those_of_the_records_of_that_board_and_task(tmp_path: Path) -> None:
    found = bare(BOARD, NANO, DETECTOR, ENERGY_MJ, Objective(MACS))
    first, second, _ = (c.arch for c in found.candidates)
    store = Store(tmp_path / "s.sqlite")
    for one in (
        record(first, 3.0, run="verify", mj=7.0),
        record(second, 5.0, run="verify", validity="inconclusive"),
        record(first, 9.0, run="verify", device="nano"),
        record(second, 20.0, run="verify-2", task="detection", num_classes=80),
        record(second, 1.0, run="other"),
    ):
        store.add(one)
    records = verification.verification_records(store, found, "verify")
    store.close()
    done = verification.verified(found, [0.8, 0.9, 0.7], records)
    macs = ObjectiveValue(0.5)  # as predicted: counted, not measured
    assert [c.measured for c in done.candidates] == [
        {
            BOARD.name: ObjectiveValue(pytest.approx(3.0), pytest.approx(3.6)),
            NANO.name: ObjectiveValue(pytest.approx(9.0), pytest.approx(10.8)),
            ENERGY_MJ.name: ObjectiveValue(7.0),
            TOP1: ObjectiveValue(0.8),
            MACS: macs,
        },
        {
            DETECTOR.name: ObjectiveValue(pytest.approx(20.0), 24.0),
            TOP1: ObjectiveValue(0.9),
            MACS: macs,
        },
        {TOP1: ObjectiveValue(0.7), MACS: macs},
    ]
    ids = [c.arch_id for c in done.candidates]
    assert verification.unmeasured(done) == {
        BOARD.name: ids[1:],
        NANO.name: ids[1:],
        DETECTOR.name: [ids[0], ids[2]],
        ENERGY_MJ.name: ids[1:],
    }
    assert verification.unmeasured(timed((1, 0.9))) == {}


def test_a_board_that_did_not_come_is_named(tmp_path: Path) -> None:
    found = bare(BOARD, NANO)
    store = Store(tmp_path / "s.sqlite")
    store.add(record(found.candidates[0].arch, 3.0, run="verify"))
    with pytest.raises(DataError, match=r"measured latency@nano; .*records of board:"):
        verification.verification_records(store, found, "verify")
    store.close()


def test_agreement_is_the_rank_correlation_of_what_was_measured() -> None:
    found = timed((1, 0.9), (2, 0.8), (3, 0.95), (4, 0.99))
    candidates = [
        msgspec.structs.replace(
            c, predicted={TOP1: ObjectiveValue(0.5 + i / 10), BOARD.name: ObjectiveValue(9 - i)}
        )
        for i, c in enumerate(found.candidates)
    ]
    candidates.append(msgspec.structs.replace(candidates[0], measured={}))
    tau = verification.agreement(msgspec.structs.replace(found, candidates=tuple(candidates)))
    assert tau == {TOP1: (pytest.approx(2 / 3), 4), BOARD.name: (pytest.approx(-1.0), 4)}


def test_no_order_is_not_a_bad_order() -> None:
    alike = timed((1, 0.9), (2, 0.8))  # all predicted alike
    assert verification.agreement(alike) == {TOP1: (None, 2), BOARD.name: (None, 2)}
    assert verification.agreement(bare(BOARD)) == {TOP1: (None, 0), BOARD.name: (None, 0)}


def test_table_has_a_line_a_candidate_and_says_what_was_not_measured() -> None:
    found = front(
        {TOP1: ObjectiveValue(0.915), BOARD.name: ObjectiveValue(1.234, 2.345)},
        {TOP1: ObjectiveValue(0.9)},
        objectives=(Objective(TOP1), BOARD, ENERGY_MJ, Objective(MACS)),
    )
    legend, energy, _, first, second = tables.table(found).splitlines()
    assert legend == "[1] latency on board"
    assert energy == "[2] energy on board"
    assert first.split() == [
        found.candidates[0].arch_id, "1.00", "50.0%", "91.5%", "0.500", "1.234", "-", "2.345",
        "0.500", "-",
    ]  # fmt: skip
    assert second.split()[5:] == ["-", "-", "-", "0.500", "-"]


def test_rows_have_every_figure_of_every_objective() -> None:
    first, second = tables.rows(
        front({TOP1: ObjectiveValue(0.9), BOARD.name: ObjectiveValue(1.0, 2.0)}, {}, objectives=(
            Objective(TOP1), BOARD, Objective(MACS)))
    )  # fmt: skip
    assert list(first) == list(second)
    assert first["latency@board measured"] == 1.0
    assert first["latency@board p90 measured"] == 2.0
    assert first["top1 predicted"] == 0.5
    assert second["latency@board measured"] is None
    assert "macs predicted" in first
    assert "macs p90 predicted" not in first


def test_plot_has_a_panel_for_every_cost(tmp_path: Path) -> None:
    one = timed((1, 0.9), (2, 0.95))
    two = front(
        *[
            {
                TOP1: ObjectiveValue(0.9),
                BOARD.name: ObjectiveValue(1.0, 2.0),
                MACS: ObjectiveValue(1e6),
            }
        ]
        * 2,
        objectives=(Objective(TOP1), BOARD, Objective(MACS)),
    )
    heights = []
    for found in (one, two):
        plots.plot_front(found, [found.candidates[0].arch_id], tmp_path / "p.png")
        heights.append(cv2.imread(str(tmp_path / "p.png")).shape[0])
    assert np.isclose(heights[1], 2 * heights[0], atol=2)
