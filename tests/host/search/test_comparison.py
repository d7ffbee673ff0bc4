"""`ramnas compare-fronts`: which front is better, and the command from a supernet to a figure."""

from __future__ import annotations

import json
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
from ramnas_host.search.comparison import chosen, compare, table
from ramnas_host.search.front import Candidate
from ramnas_host.training import checkpoint
from ramnas_models.errors import DataError
from ramnas_models.supernet import Supernet
from tests.host.search.fronts import SPACE, record, records, timed


def models(n: int) -> list[Candidate]:
    return list(timed(*((1.0, 0.9),) * n).candidates)


def test_the_better_front_has_the_larger_volume_and_beats_the_other() -> None:
    a, b, c, d = models(4)
    top1 = {a.arch_id: 0.8, b.arch_id: 0.9, c.arch_id: 0.85, d.arch_id: 0.95}
    ms = {a.arch_id: 1.0, b.arch_id: 3.0, c.arch_id: 1.0, d.arch_id: 4.0}
    measured = [record(one.arch, ms[one.arch_id]) for one in (a, b, c, d)]
    found = compare(8, [a, b], [d, c], top1, measured)
    assert [p.arch_id for p in found.by_latency] == [c.arch_id, d.arch_id]  # by latency
    assert (found.by_macs_beaten, found.by_latency_beaten) == (0.5, 0.0)  # a by c; b is not
    assert (found.batch, found.device_class, found.unmeasured) == (8, "board", 0)
    assert found.macs_tau is None  # all of as many MACs
    # the box: log ms 0 to log 4, top-1 0.8 to 0.95
    x = np.log(3) / np.log(4)
    by_macs = (1.1 - 0) * (1.1 - 1) + (1.1 - x) * (1 - 1 / 3)
    by_latency = 1.1 * (1.1 - 2 / 3) + 0.1 * (2 / 3)
    assert found.hypervolume_by_macs == pytest.approx(by_macs)
    assert found.hypervolume_by_latency == pytest.approx(by_latency)
    row = table([found]).splitlines()[-1]
    assert row.startswith(f"| 8 | {by_macs:.3f} | {by_latency:.3f} |")
    assert "50% of 2 | 0% of 2" in row


def test_the_order_of_macs_is_compared_with_that_of_latency() -> None:
    found = [msgspec.structs.replace(c, macs=10**i) for i, c in enumerate(models(3))]
    top1 = {c.arch_id: 0.9 for c in found}
    measured = [record(c.arch, ms) for c, ms in zip(found, (1.0, 3.0, 2.0), strict=True)]
    assert compare(1, found[:2], found[2:], top1, measured).macs_tau == pytest.approx(1 / 3)


def test_equal_models_beat_nobody_and_what_was_not_measured_is_left_out() -> None:
    a, b, c = models(3)
    top1 = dict.fromkeys((a.arch_id, b.arch_id, c.arch_id), 0.9)
    measured = [record(a.arch, 2.0), record(b.arch, 2.0), record(c.arch, 1.0, validity="failed")]
    found = compare(1, [a, c], [b, a], top1, measured)
    assert (found.by_macs_beaten, found.by_latency_beaten, found.unmeasured) == (0, 0, 1)
    with pytest.raises(DataError, match="batch 1: no valid record of a front"):
        compare(1, [c], [a], top1, measured)


def test_a_front_by_its_own_cost_leaves_close_calls_out() -> None:
    found = timed((1, 0.9), (2, 0.8), (3, 0.95))  # all predicted alike
    top1 = {c.arch_id: c.measured["top1"].value for c in found.candidates}
    assert [top1[c.arch_id] for c in chosen(found, top1)] == [0.95]


SMALL = {
    "batches": ["1", "4"], "samples": ["40"], "accuracy-samples": ["38"], "candidates": ["3"],
    "population": ["40"], "parents": ["20"], "generations": ["2"], "infill-rounds": ["1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A supernet of random weights, and a store that holds this board's calibrations already."""
    import onnxruntime

    folder = tmp_path_factory.mktemp("comparison")
    torch.manual_seed(0)
    recipe = load_recipe("digits")
    about = describe(load_dataset("digits", recipe.images), recipe)
    checkpoint.save(folder / "supernet.safetensors", Supernet(SPACE, 10), about)
    board = this_device().class_key("onnxruntime-cpu", onnxruntime.__version__)
    store = Store(folder / "records.sqlite")
    for batch in (1, 4):
        what = {"run": f"calibration-{batch}", "device": board, "batch": batch, "num_classes": 10}
        for one in records(40, **what):
            store.add(one)
    store.close()
    return [
        "compare-fronts", "--supernet", str(folder / "supernet.safetensors"),
        "--store", str(folder / "records.sqlite"), "--out", str(folder / "out"), "--local-agent",
        *(word for name, values in SMALL.items() for word in (f"--{name}", *values)),
    ]  # fmt: skip


@pytest.mark.alone
def test_both_fronts_are_searched_measured_and_drawn_and_nothing_twice(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(argv[argv.index("--out") + 1])
    assert main.main(argv) == 0
    first = capsys.readouterr().out
    found = json.loads((out / "comparison.json").read_bytes())
    assert [one["batch"] for one in found] == [1, 4]
    for one in found:
        assert one["by_macs"]
        assert one["by_latency"]
        assert 0 <= one["by_macs_beaten"] <= 1
    store = Store(Path(argv[argv.index("--store") + 1]))
    for one in found:
        measured = store.records(f"fronts-{one['batch']}")
        assert {r.target.batch for r in measured} == {one["batch"]}
        shown = {p["arch_id"] for p in (*one["by_macs"], *one["by_latency"])}
        assert shown == {r.arch_id for r in measured if r.validity == "ok"}
    store.close()
    assert np.ptp(cv2.imread(str(out / "fronts.png"))) > 100
    assert "== calibration-1: already measured" in first

    (out / "comparison.json").unlink()
    assert main.main(argv) == 0
    again = capsys.readouterr().out
    assert json.loads((out / "comparison.json").read_bytes()) == found
    assert again.count("already done") == 3
    assert again.count("already measured") == 4
    assert again.splitlines()[-4:] == first.splitlines()[-4:]


def test_other_settings_do_not_go_on_in_the_same_folder(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"seed": 1, "batches": [1, 4]}
    (tmp_path / "settings.json").write_text(json.dumps(before))
    assert main.main([*argv, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "was begun with other settings (" in said
    assert "seed" in said
    assert "batches" not in said
