"""Tables for people: short names of boards, which a legend explains."""

from __future__ import annotations

import pytest

pytest.importorskip("pymoo")

from ramnas_edge.measuring.record import Target
from ramnas_host.report import tables
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective
from tests.host.search.fronts import front

XEON = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"


def test_objectives_are_labelled_with_short_names_that_a_legend_explains() -> None:
    detection = Objective(LATENCY, XEON, Target(task="detection"))
    objectives = (Objective(TOP1), Objective(ENERGY, XEON, Target()), detection, Objective(MACS))
    labels = labels_of(objectives, ["board"])
    assert list(labels.objectives.values()) == [
        "top-1", "energy on xeon 2c, onnxruntime-cpu",
        "detection latency on xeon 2c, onnxruntime-cpu", "MACs",
    ]  # fmt: skip
    assert labels.boards == {XEON: "xeon 2c, onnxruntime-cpu", "board": "board"}
    assert labels.legend == [f"xeon 2c, onnxruntime-cpu = {XEON}"]


def test_a_table_names_each_device_class_in_full_once() -> None:
    latency = Objective(LATENCY, XEON, Target())
    found = front({TOP1: ObjectiveValue(0.9)}, objectives=(Objective(TOP1), latency))
    assert tables.table(found).splitlines()[:2] == [
        "[1] latency on xeon 2c, onnxruntime-cpu", f"xeon 2c, onnxruntime-cpu = {XEON}",
    ]  # fmt: skip
    assert tables.table(found).count(XEON) == 1
    assert f"latency@{XEON} measured" in tables.rows(found)[0]
