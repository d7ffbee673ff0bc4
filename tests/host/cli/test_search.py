"""`ramnas search` and `ramnas verify` at the command line, for two tasks on this board."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from ramnas_edge.board.device import this_device
from ramnas_edge.measuring.record import INCONCLUSIVE
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main
from ramnas_host.config import load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Split
from ramnas_host.search import front as fronts
from ramnas_host.search import verification
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import MACS, TOP1, Objective
from ramnas_host.training import checkpoint, evaluate
from ramnas_host.training.evaluate import Scores
from ramnas_models.supernet import Subnet, Supernet
from tests.host.search.fronts import SPACE, front, records

TINY = ["--population", "40", "--parents", "20", "--generations", "2", "--infill-rounds", "1"]
FEW = ["--accuracy-samples", "38", "--candidates", "3"]
DETECTOR = {"task": "detection", "num_classes": 3, "input_hw": (32, 32)}


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet with random weights: fast to make, with true accuracies that differ."""
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    torch.manual_seed(0)
    recipe = load_recipe("digits")
    about = describe(load_dataset("digits", recipe.images), recipe)
    checkpoint.save(path, Supernet(SPACE, 10), about)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with records of classifiers in one run and of detectors in another, of this board."""
    import onnxruntime

    board = this_device().class_key("onnxruntime-cpu", onnxruntime.__version__)
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    filled = Store(path)
    for one in (*records(38, device=board), *records(38, run="found", device=board, **DETECTOR)):
        filled.add(one)
    filled.close()
    return path


def search(supernet: Path, store: Path, out: Path, *argv: str) -> int:
    where = ["--supernet", str(supernet), "--store", str(store), "--out", str(out)]
    return main.main(["search", *where, *TINY, *FEW, *argv])


def test_verify_evaluates_an_older_front_on_the_selection_split_too(
    supernet: Path, tmp_path: Path
) -> None:
    objectives = (Objective(TOP1), Objective(MACS))
    older = msgspec.structs.replace(front({}, {}, objectives=objectives), format=3)
    fronts.save(older, tmp_path / "front.json")
    files = [f"--{name}={tmp_path / file}" for name, file in (
        ("front", "front.json"), ("store", "s.sqlite"), ("out", "verified.json"),
    )]  # fmt: skip
    assert main.main(["verify", "--supernet", str(supernet), *files]) == 0
    for candidate in fronts.load(tmp_path / "verified.json").candidates:
        assert [(a.split, a.n) for a in candidate.accuracies] == [
            ("selection", 500), ("report", 250),
        ]  # fmt: skip


@pytest.mark.alone  # every candidate can only be measured on a board that is not busy
def test_a_front_by_the_latency_of_classifier_and_detector_is_searched_and_verified(
    supernet: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "front.json"
    argv = ["--run", "run", "--run", "found", "--objectives", "top1,latency,latency:detection,macs"]
    assert search(supernet, store, out, *argv, "--csv") == 0
    found = fronts.load(out)
    names = [objective.name for objective in found.objectives]
    assert (names[0], names[3]) == ("top1", "macs")
    assert names[2] == f"{names[1]}:detection"
    assert found.objectives[2].target == msgspec.structs.replace(
        found.objectives[1].target, **DETECTOR
    )
    assert found.objectives[2].runs == ("found",)
    rows = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    assert [row["arch_id"] for row in rows] == [c.arch_id for c in found.candidates]
    assert all(float(row[f"{names[2]} predicted"]) > 0 for row in rows)

    printed = capsys.readouterr().out
    for name, chosen in found.surrogates.items():  # both taus of every family
        for score in chosen.scores.values():
            assert score.tau_uniform is not None, name
            assert score.taus in printed

    measured = tmp_path / "measured.sqlite"
    monkeypatch.setattr(verification, "MIN_TAU", 1.01)  # no order is as good as this
    with caplog.at_level(logging.WARNING):
        assert main.main([
            "verify", "--front", str(out), "--supernet", str(supernet), "--store", str(measured),
            "--out", str(tmp_path / "verified.json"), "--local-agent",
        ]) == 0  # fmt: skip
    verified = fronts.load(tmp_path / "verified.json")
    for candidate in verified.candidates:
        assert set(candidate.measured) == set(names)
        assert candidate.measured["macs"].value == candidate.macs
        assert candidate.measured[names[1]].p90 > 0
    records_there = Store(measured)
    by_run = {run: records_there.records(run) for run in records_there.runs()}
    records_there.close()
    tasks = {run: records[0].target.task for run, records in by_run.items()}
    assert tasks == {"verify": "classification", "verify-2": "detection"}
    printed = capsys.readouterr().out
    labels = labels_of(verified.objectives)
    detection = labels.objectives[names[2]]
    count = len(verified.candidates)
    assert f"{detection}, predicted against measured, {count} candidates: tau" in printed
    assert all(line in printed for line in labels.legend)
    assert f"the predicted order of {detection} is a poor guide" in caplog.text
    assert "no valid measurement" not in caplog.text

    doubtful = msgspec.structs.replace(by_run["verify"][0], validity=INCONCLUSIVE)
    again = Store(tmp_path / "again.sqlite")
    for one in (doubtful, *by_run["verify"][1:], *by_run["verify-2"]):
        again.add(one)
    again.close()
    with caplog.at_level(logging.WARNING):
        assert main.main([
            "verify", "--front", str(out), "--supernet", str(supernet), "--store", str(again.path),
            "--out", str(tmp_path / "again.json"), "--local-agent",
        ]) == 0  # fmt: skip
    classification = labels.objectives[names[1]]
    assert f"no valid measurement of {classification} for {doubtful.arch_id};" in caplog.text
    (left_out,) = [
        c for c in fronts.load(tmp_path / "again.json").candidates if names[1] not in c.measured
    ]
    assert left_out.arch_id == doubtful.arch_id


@pytest.mark.alone
def test_infill_measures_what_it_chose_and_learns_from_it(
    supernet: Path, store: Path, tmp_path: Path
) -> None:
    own, out = tmp_path / "s.sqlite", tmp_path / "front.json"
    shutil.copy(store, own)
    argv = ["--run", "run", "--run", "found", "--objectives", "top1,latency,latency:detection"]
    assert search(supernet, own, out, *argv, "--measure", "--local-agent") == 0
    found = fronts.load(out)
    opened = Store(own)
    measured, detectors = (opened.records(run) for run in ("infill", "infill-2"))
    before = opened.records("run")
    opened.close()
    for objective, run, new in zip(
        found.objectives[1:], ("run", "found"), (measured, detectors), strict=True
    ):  # a busy machine may spoil all of them
        learnt = (new[0].run,) if any(r.validity == "ok" for r in new) else ()
        assert objective.runs == (run, *learnt)
    chosen = {r.arch_id for r in measured} - {r.arch_id for r in before}
    assert 1 <= len(chosen) <= 3
    assert chosen <= {r.arch_id for r in detectors}
    assert {r.target.task for r in detectors} == {"detection"}
    known = {r.arch_id for r in (*before, *measured) if r.validity == "ok"}
    assert len(found.surrogates[found.objectives[1].name].held_out) == len(known)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--objectives", "top1,latency@agx"], "no device class 'agx' for task classification"),
        (["--objectives", "top1,latency:segmentation"], "no record for task segmentation"),
        (["--run", "elsewhere"], "no record of run 'elsewhere'"),
        (["--constraint", "macs<=1"], "macs is not an objective; add it to --objectives"),
        (["--objectives", "top1,macs", "--measure"], "none of these objectives is measured"),
        (["--measure", "--local-agent", "--rounds", "2"], "a record needs"),
        (["--population", "1"], "--population 1: give 2 or more"),
        (["--accuracy-samples", "19"], "--accuracy-samples 19: give 20 or more"),
        (["--prior-run", "elsewhere"], "no record of run 'elsewhere'"),
    ],
)
def test_a_search_that_cannot_be_done_is_one_line_of_error_and_leaves_nothing(
    supernet: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    argv: list[str], message: str,
) -> None:  # fmt: skip
    run = [] if "--run" in argv else ["--run", "run"]
    assert search(supernet, store, tmp_path / "front.json", *run, *argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert list(tmp_path.iterdir()) == []


def test_a_search_by_macs_alone_needs_no_records(supernet: Path, tmp_path: Path) -> None:
    out = tmp_path / "front.json"
    argv = ["search", "--supernet", str(supernet), "--out", str(out), "--objectives", "top1,macs"]
    assert main.main([*argv, "--prior-run", "run"]) == 2  # needs --store
    assert main.main([*argv, *TINY, *FEW]) == 0
    found = fronts.load(out)
    assert set(found.surrogates) == {"top1"}
    assert all(c.predicted["macs"].value == c.macs for c in found.candidates)


def test_a_search_that_was_killed_goes_on_and_evaluates_no_arch_twice(
    supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []
    kill_after = 9

    def score(subnet: Subnet, split: Split) -> Scores:
        if len(evaluated) == kill_after:
            raise KeyboardInterrupt
        evaluated.append(subnet.plan.arch_id)
        return Scores(int(subnet.plan.arch_id, 16) / 16**12, 1.0, 500)

    monkeypatch.setattr(
        evaluate, "recalibrated_subnet", lambda net, arch, images: net.extract(arch)
    )
    monkeypatch.setattr(evaluate, "score", score)

    def front(name: str) -> bytes | int:
        out = tmp_path / name / "front.json"
        argv = ["--supernet", str(supernet), "--out", str(out), "--objectives", "top1,macs"]
        code = main.main(["search", *argv, *TINY, *FEW])
        return code or out.read_bytes()

    assert front("killed") == 130
    kill_after = -1
    after = front("killed")
    assert len(evaluated) == len(set(evaluated)) > 38
    evaluated.clear()
    assert front("at once") == after


@pytest.mark.parametrize(
    ("verb", "option", "value", "least"),
    [
        ("train", "--workers", "-1", 0), ("finetune", "--workers", "-1", 0),
        ("search", "--infill-rounds", "-1", 0), ("evaluate", "--random", "-1", 0),
        ("bundle", "--models", "0", 1), ("export", "--calibration-images", "0", 1),
    ],
)  # fmt: skip
def test_a_number_that_is_too_small_is_refused_before_anything_is_read(
    verb: str, option: str, value: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main([verb, option, value])
    assert f"argument {option}: {value}: give {least} or more" in capsys.readouterr().err
