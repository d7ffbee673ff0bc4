"""Labels of objectives and boards for people, and the legend that explains them."""

from __future__ import annotations

import pytest

pytest.importorskip("pymoo")

from ramnas_edge.measuring.record import Target
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, Objective

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
