"""Which of two fronts is better, and `ramnas compare-fronts` from a supernet to a plot."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_edge.board.device import this_device
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main
from ramnas_host.config import load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.search.comparison import compare, own_front, table
from ramnas_host.search.front import Candidate
from ramnas_host.training import checkpoint
from ramnas_models.accuracy import Accuracy, share
from ramnas_models.errors import DataError
from ramnas_models.supernet import Supernet
from tests.host.search.fronts import SPACE, record, records, seen, timed


def models(n: int) -> list[Candidate]:
    return list(timed(*((1.0, 0.9),) * n).candidates)


def reported(top1: dict[str, float]) -> dict[str, Accuracy]:
    return {arch_id: share("top1", value, "report", 250) for arch_id, value in top1.items()}


def test_the_better_front_has_the_larger_hypervolume_and_dominates_the_other() -> None:
    a, b, c, d = models(4)
    top1 = {a.arch_id: 0.8, b.arch_id: 0.9, c.arch_id: 0.85, d.arch_id: 0.95}
    ms = {a.arch_id: 1.0, b.arch_id: 3.0, c.arch_id: 1.0, d.arch_id: 4.0}
    measured = [record(model.arch, ms[model.arch_id]) for model in (a, b, c, d)]
    comparison = compare(8, [a, b], [d, c], reported(top1), measured)
    assert [p.arch_id for p in comparison.by_latency] == [c.arch_id, d.arch_id]  # fast to slow
    # c dominates a, and nothing else is dominated
    assert (comparison.by_macs_beaten, comparison.by_latency_beaten) == (0.5, 0.0)
    assert (comparison.batch, comparison.device_class, comparison.unmeasured) == (8, "board", 0)
    assert comparison.macs_tau is None  # all models have the same MACs
    # the box spans log ms from 0 to log 4 and top-1 from 0.8 to 0.95
    x = np.log(3) / np.log(4)
    by_macs = (1.1 - 0) * (1.1 - 1) + (1.1 - x) * (1 - 1 / 3)
    by_latency = 1.1 * (1.1 - 2 / 3) + 0.1 * (2 / 3)
    assert comparison.hypervolume_by_macs == pytest.approx(by_macs)
    assert comparison.hypervolume_by_latency == pytest.approx(by_latency)
    row, _, images = table([comparison]).splitlines()[-3:]
    assert images == "batch 8: top-1 on the report split, n 250"
    assert row.startswith(f"| 8 | {by_macs:.3f} | {by_latency:.3f} |")
    assert "50% of 2 | 0% of 2" in row


def test_macs_tau_compares_the_orders_of_macs_and_latency() -> None:
    rising = [msgspec.structs.replace(c, macs=10**i) for i, c in enumerate(models(3))]
    top1 = {c.arch_id: 0.9 for c in rising}
    measured = [record(c.arch, ms) for c, ms in zip(rising, (1.0, 3.0, 2.0), strict=True)]
    assert compare(1, rising[:2], rising[2:], reported(top1), measured).macs_tau == pytest.approx(
        1 / 3
    )


def test_equal_models_do_not_dominate_and_unmeasured_models_are_left_out() -> None:
    a, b, c = models(3)
    top1 = dict.fromkeys((a.arch_id, b.arch_id, c.arch_id), 0.9)
    measured = [record(a.arch, 2.0), record(b.arch, 2.0), record(c.arch, 1.0, validity="failed")]
    comparison = compare(1, [a, c], [b, a], reported(top1), measured)
    assert (comparison.by_macs_beaten, comparison.by_latency_beaten) == (0, 0)
    assert comparison.unmeasured == 1
    with pytest.raises(DataError, match="batch 1: no model of the front searched by MACs has a"):
        compare(1, [c], [a], reported(top1), measured)


def test_a_fronts_own_models_are_non_dominated_by_predicted_cost_and_true_top1() -> None:
    # the predicted latencies are equal, and the last one is the best on the report split alone
    front = seen((1, 0.9, 0.9), (2, 0.95, 0.8), (3, 0.8, 0.95))
    assert [c.accuracy("selection").value for c in own_front(front)] == [0.95]


SMALL = {
    "batches": ["1", "4"], "samples": ["20"], "accuracy-samples": ["20"], "candidates": ["2"],
    "population": ["40"], "parents": ["20"], "generations": ["2"], "infill-rounds": ["1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command for a supernet with random weights and a store that holds the calibrations."""
    import onnxruntime

    folder = tmp_path_factory.mktemp("comparison")
    torch.manual_seed(0)
    recipe = load_recipe("digits")
    images = msgspec.structs.replace(recipe.images, selection=200, calibration=20)
    recipe = msgspec.structs.replace(recipe, images=images)
    about = describe(load_dataset("digits", recipe.images), recipe)
    checkpoint.save(folder / "supernet.safetensors", Supernet(SPACE, 10), about)
    board = this_device().class_key("onnxruntime-cpu", onnxruntime.__version__)
    store = Store(folder / "records.sqlite")
    for batch in (1, 4):
        run = {"run": f"calibration-{batch}", "device": board, "batch": batch, "num_classes": 10}
        for one in records(20, **run):
            store.add(one)
    store.close()
    return [
        "compare-fronts", "--supernet", str(folder / "supernet.safetensors"),
        "--store", str(folder / "records.sqlite"), "--out", str(folder / "out"), "--local-agent",
        *(word for name, values in SMALL.items() for word in (f"--{name}", *values)),
    ]  # fmt: skip


@pytest.mark.alone
def test_both_fronts_are_searched_measured_and_plotted_and_nothing_is_done_twice(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(argv[argv.index("--out") + 1])
    assert main.main(argv) == 0
    first = capsys.readouterr().out
    comparisons = json.loads((out / "comparison.json").read_bytes())
    assert [one["batch"] for one in comparisons] == [1, 4]
    for one in comparisons:
        assert one["by_macs"]
        assert one["by_latency"]
        assert 0 <= one["by_macs_beaten"] <= 1
    store = Store(Path(argv[argv.index("--store") + 1]))
    for one in comparisons:
        measured = store.records(f"fronts-{one['batch']}")
        assert {r.target.batch for r in measured} == {one["batch"]}
        shown = {p["arch_id"] for p in (*one["by_macs"], *one["by_latency"])}
        assert shown == {r.arch_id for r in measured if r.validity == "ok"}
    store.close()
    assert np.ptp(cv2.imread(str(out / "fronts.png"))) > 100
    assert "== calibration-1: already measured" in first
    lines = (out / "accuracies.jsonl").read_bytes().splitlines()
    images = [split for split, _ in groupby(json.loads(line)["of"] for line in lines)]
    assert len(images) == 2  # the report split comes after all searches
    assert "top-1 is on the report split: publish it, and choose nothing by it" in first

    (out / "comparison.json").unlink()
    assert main.main(argv) == 0
    again = capsys.readouterr().out
    assert json.loads((out / "comparison.json").read_bytes()) == comparisons
    assert again.count("already done") == 3
    assert again.count("already measured") == 4
    assert again.splitlines()[-7:] == first.splitlines()[-7:]


def test_a_folder_with_other_settings_is_refused(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"seed": 1, "batches": [1, 4]}
    (tmp_path / "settings.json").write_text(json.dumps(before))
    assert main.main([*argv, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "was begun with other settings (" in error
    assert "seed" in error
    assert "batches" not in error
