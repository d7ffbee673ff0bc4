"""A front as a table for people and as the rows of a CSV file."""

from __future__ import annotations

import pytest

pytest.importorskip("pymoo")

from ramnas_edge.measuring.record import Target
from ramnas_host.report import tables
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective
from tests.host.search.fronts import BOARD, front, seen

XEON = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"


def test_a_table_names_each_device_class_in_full_once() -> None:
    latency = Objective(LATENCY, XEON, Target())
    found = front({TOP1: ObjectiveValue(0.9)}, objectives=(Objective(TOP1), latency))
    assert tables.table(found).splitlines()[:2] == [
        "[1] latency on xeon 2c, onnxruntime-cpu", f"xeon 2c, onnxruntime-cpu = {XEON}",
    ]  # fmt: skip
    assert tables.table(found).count(XEON) == 1
    assert f"latency@{XEON} measured" in tables.rows(found)[0]


def test_a_table_has_a_line_for_each_candidate_and_a_dash_for_each_missing_value() -> None:
    found = front(
        {TOP1: ObjectiveValue(0.915), BOARD.name: ObjectiveValue(1.234, 2.345)},
        {TOP1: ObjectiveValue(0.9)},
        objectives=(Objective(TOP1), BOARD, Objective(ENERGY, "board", Target()), Objective(MACS)),
    )
    latency, energy, images, _, first, second = tables.table(found).splitlines()
    assert latency == "[1] latency on board"
    assert energy == "[2] energy on board"
    assert images == "top-1: its images are unknown, this is an older front"
    assert first.split() == [
        found.candidates[0].arch_id, "1.00", "50.0%", "91.5%", "-", "0.500", "1.234", "-", "2.345",
        "0.500", "-",
    ]  # fmt: skip
    assert second.split()[6:] == ["-", "-", "-", "0.500", "-"]


def test_a_table_names_the_images_and_the_interval_of_every_accuracy() -> None:
    table = tables.table(seen((1, 0.9, 0.92), (2, 0.95, 0.94)))
    assert (
        "top-1: predicted for the selection split (n 500), measured on the report split (n 250)"
        in table
    )
    assert "92.0%  88.0 to 94.8" in table
    row, _ = tables.rows(seen((1, 0.9, 0.92), (2, 0.95, 0.94)))
    assert (row["top1 selection"], row["top1 selection n"]) == (0.9, 500)
    assert row["top1 report low"] < row["top1 report"] == 0.92 < row["top1 report high"]


def test_rows_have_every_value_of_every_objective() -> None:
    measured = {TOP1: ObjectiveValue(0.9), BOARD.name: ObjectiveValue(1.0, 2.0)}
    objectives = (Objective(TOP1), BOARD, Objective(MACS))
    first, second = tables.rows(front(measured, {}, objectives=objectives))
    assert list(first) == list(second)
    assert first["latency@board measured"] == 1.0
    assert first["latency@board p90 measured"] == 2.0
    assert first["top1 predicted"] == 0.5
    assert second["latency@board measured"] is None
    assert "macs predicted" in first
    assert "macs p90 predicted" not in first
