"""What a demo run leaves, what other verbs make of it, and what happens when it is interrupted.

All tests that read the demo stand in this file, so that one worker makes it, once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK
from ramnas_edge.measuring.store import Store
from ramnas_host.cli.demo_budgets import LEAST_ROOM, ROOM, aims_of, run_budgets
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Cost, Model, Preprocessing, open_bundle
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space
from tests.host.cli.commands import ramnas, refused


def test_accuracies_are_those_expected(whole_summary: dict[str, Any]) -> None:
    train = whole_summary["train"]
    assert train["top1_max"] >= 0.98
    assert train["top1_min"] >= 0.95
    assert train["top1_random"] >= 0.95
    assert train["top1_random"] > train["top1_max"] - 0.04  # at lr 0.1: docs/training.md


def test_calibration_measured_what_was_asked(demo: Path, summary: dict[str, Any]) -> None:
    records = Store(demo / "records.sqlite").records("calibration")
    asked = _samples(demo)
    assert len(records) == summary["calibration"]["records"] == asked
    assert len({r.arch_id for r in records}) == asked
    assert all(r.providers == ("CPUExecutionProvider",) for r in records)


def test_few_measurements_are_inconclusive(whole_summary: dict[str, Any]) -> None:
    assert whole_summary["calibration"]["inconclusive"] <= 24


def test_slowest_arch_takes_at_least_2_5_times_as_long_as_the_fastest(demo: Path) -> None:
    records = Store(demo / "records.sqlite").records("calibration")
    latency = corrected_ms(r for r in records if r.validity == OK)
    assert max(latency.values()) >= 2.5 * min(latency.values())


def test_surrogates_were_compared_and_the_best_was_taken(summary: dict[str, Any]) -> None:
    for target in ("latency", "top1"):
        scores = dict(summary["surrogates"][target])
        chosen = scores.pop("chosen")
        assert set(scores) == {"cost", "gp", "rbf", "mlp", "cart"}
        assert scores[chosen]["tau"] == max(s["tau"] for s in scores.values())


def test_the_latency_surrogate_knows_the_order(whole_summary: dict[str, Any]) -> None:
    latency = whole_summary["surrogates"]["latency"]
    assert latency[latency["chosen"]]["tau"] > 0.8


def test_the_front_and_bundle_of_a_whole_search_are_long_enough(
    demo: Path, whole_summary: dict[str, Any]
) -> None:
    assert len(open_bundle(demo / "bundle").front("classification").models) >= 4
    verified = [m for m in whole_summary["front"] if m["measured"]]
    assert len(verified) >= 6
    assert sum(m["non_dominated"] for m in verified) >= 4
    figures = [m[how] for m in verified for how in ("predicted", "measured")]
    assert min(f["top1"] for f in figures) > 0.8


def test_the_front_has_predicted_and_measured_values(demo: Path, summary: dict[str, Any]) -> None:
    verified = [m for m in summary["front"] if m["measured"]]
    records = Store(demo / "records.sqlite").records("verification")
    # none is left out but what the profiler itself does not trust
    assert {m["arch_id"] for m in verified} == {r.arch_id for r in records if r.validity == OK}
    assert {m["arch_id"] for m in summary["front"]} == {r.arch_id for r in records}
    best = [m for m in verified if m["non_dominated"]]
    for model in best:
        a = model["measured"]
        assert not any(
            b["selection_top1"] > a["selection_top1"] and b["p90_ms"] < a["p90_ms"]
            for b in (m["measured"] for m in verified)
        )
    for model in verified:
        for figures in (model["predicted"], model["measured"]):
            assert 0 < figures["top1"] <= 1
            assert 0 < figures["latency_ms"] <= figures["p90_ms"]
    predicted = [m["predicted"]["latency_ms"] for m in summary["front"]]
    assert predicted == sorted(predicted)


def test_bundle_is_sound_and_has_three_to_eight_models(demo: Path) -> None:
    bundle = open_bundle(demo / "bundle")
    models = bundle.front("classification").models
    assert 3 <= len(models) <= 8
    assert bundle.manifest.licence == "CC-BY-4.0"
    p90 = [m.latency[0].p90_ms for m in models]
    accuracy = [m.accuracy.value for m in models]
    assert p90 == sorted(p90)
    assert accuracy == sorted(accuracy)
    for model in models:
        chosen_by, reported = model.accuracies
        assert (chosen_by.split, chosen_by.n, reported.split, reported.n) == (
            "selection", 500, "report", 250,
        )  # fmt: skip
        assert reported.interval[0] < reported.value < reported.interval[1]


def test_three_budgets_pick_models_that_are_expected_to_fit(
    demo: Path, summary: dict[str, Any]
) -> None:
    picks = summary["picks"]
    bundled = {m.arch_id for m in open_bundle(demo / "bundle").front("classification").models}
    assert len(picks) == 3
    assert {pick["model"] for pick in picks} <= bundled
    for pick in picks:
        assert pick["frames"] >= 200
        assert pick["top1_n"] == 250
        assert pick["top1_interval"][0] < pick["top1"] < pick["top1_interval"][1]
        assert pick["expected_p90_ms"] <= pick["latency_budget_ms"]
        assert pick["within_budget"] == (pick["p90_ms"] <= pick["latency_budget_ms"])


def test_budgets_hold_and_pick_accurate_models(whole_summary: dict[str, Any]) -> None:
    picks = whole_summary["picks"]
    assert all(pick["within_budget"] for pick in picks), picks
    assert all(pick["top1"] > 0.9 for pick in picks)


def test_budgets_hold_while_another_process_keeps_a_core_busy(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for name in ("bundle", "test"):
        shutil.copytree(demo / name, out / name)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            picks = run_budgets(out, rounds=4)
        finally:
            busy.kill()
    assert all(pick["within_budget"] for pick in picks), picks


def test_a_budget_has_room_for_its_model_and_none_for_the_next() -> None:
    models = [_model(top1) for top1 in (0.90, 0.93, 0.95, 0.97, 0.98)]
    aims = aims_of([*zip(models, (1.0, 1.2, 1.21, 1.9, 4.0), strict=True)])
    # the most accurate one, and the two with the most room up to the next better one
    assert [aim.model for aim in aims] == [models[2], models[3], models[4]]
    assert [aim.p90_ms for aim in aims] == [1.21, 1.9, 4.0]
    assert 1.21 * LEAST_ROOM < aims[0].budget_ms < 1.9
    assert aims[1].budget_ms == ROOM * 1.9
    assert aims[2].budget_ms == ROOM * 4.0


def test_models_without_room_up_to_the_next_are_no_aims() -> None:
    models = [_model(top1) for top1 in (0.90, 0.93, 0.95)]
    aims = aims_of([*zip(models, (1.0, 1.1, 1.2), strict=True)])
    assert [aim.model for aim in aims] == [models[2]] * 3
    assert [aim.budget_ms for aim in aims] == [ROOM * 1.2, ROOM**2 * 1.2, ROOM**3 * 1.2]


def test_a_model_that_costs_more_and_knows_less_is_no_aim() -> None:
    worse, better, best = _model(0.9), _model(0.95), _model(0.96)
    aims = aims_of([(worse, 2.0), (better, 1.0), (best, 3.0)])
    assert [aim.model for aim in aims] == [better, best, best]


def _model(top1: float) -> Model:
    arch = load_space("micro").min()
    accuracy = Accuracy("top1", top1, "selection")
    return Model(
        name=f"{top1}", arch_id=arch.id, space="micro", arch=arch, file="", sha256=f"{top1}",
        input_hw=(48, 48), preprocessing=Preprocessing(Normalisation()), accuracies=(accuracy,),
        cost=Cost(1, 1, 1), latency=(),
    )  # fmt: skip


def test_accuracy_on_the_robot_is_that_of_torch(demo: Path, summary: dict[str, Any]) -> None:
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.search import front
    from ramnas_host.training import checkpoint
    from ramnas_host.training.evaluate import recalibrated_subnet, score

    net, about = (loaded := checkpoint.load(demo / "train/supernet.safetensors")).net, loaded.about
    digits = dataset_of(about)
    archs = {c.arch_id: c.arch for c in front.load(demo / "verified.json").candidates}
    for pick in summary["picks"]:
        subnet = recalibrated_subnet(net, archs[pick["model"]], digits.calibration)
        assert abs(pick["top1"] - score(subnet, digits.report).top1) <= 1 / len(digits.report)


def test_plot_is_a_picture_and_every_step_has_its_seconds(
    demo: Path, summary: dict[str, Any]
) -> None:
    assert cv2.imread(str(demo / "pareto.png")).shape[2] == 3
    steps = {"train", "evaluate", "calibrate", "search", "verify", "bundle", "data", "run"}
    assert set(summary["seconds"]) == steps


def test_the_report_split_is_read_after_the_search_and_its_accuracies_name_their_images(
    demo: Path, summary: dict[str, Any]
) -> None:
    steps = list(json.loads((demo / "steps.json").read_bytes()))
    assert steps.index("search") < min(steps.index("verify"), steps.index("evaluate"))
    for accuracies in (
        summary["train"]["accuracies"].values(),
        *(model["accuracies"] for model in summary["front"]),
    ):
        assert all(one["n"] and one["split"] and one["interval"] for one in accuracies)


def test_a_finished_demo_is_not_run_again(demo: Path, tmp_path: Path) -> None:
    before = (demo / "train/supernet.safetensors").stat().st_mtime_ns
    ran = _demo(demo)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count("done before") == 7
    assert (demo / "train/supernet.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_something_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    ran = _demo(tmp_path, "--fresh")
    assert ran.returncode == 2
    assert "not made by the demo" in ran.stdout
    assert (tmp_path / "precious").read_text() == "mine"


on_the_small_demo = pytest.mark.skipif(
    "RAMNAS_DEMO" in os.environ, reason="the small demo shows the same, sooner"
)


@on_the_small_demo
def test_agent_killed_in_calibration_costs_nothing_that_was_recorded(
    demo: Path, tmp_path: Path
) -> None:
    """kill -9 of the agent ends the run with what happened; a second start goes on."""
    out = tmp_path / "demo"
    _copy_up_to(demo, out, "calibrate")
    store = out / "records.sqlite"
    run = subprocess.Popen(
        _command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        asked = _samples(demo)
        _wait_for(lambda: 12 <= _count(store) < asked, "12 records")
        (agent,) = [p for p in psutil.Process(run.pid).children() if "ramnas_edge" in p.cmdline()]
        os.kill(agent.pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 2, output
    assert f"the local agent (process {agent.pid}) was killed by signal 9" in output
    assert "the same command continues from there" in output
    before = _records(store)
    assert 12 <= len(before) < asked
    assert f"{len(before)} records of run 'calibration' are safe" in output

    with subprocess.Popen(_command(out), stdout=subprocess.PIPE, text=True) as again:
        assert again.stdout is not None
        assert "== search\n" in again.stdout  # all that it prints before that is read
        again.kill()
    after = _records(store)
    assert len(after) == asked
    assert {key: after[key] for key in before} == before  # not measured again, to the last digit
    assert json.loads((out / "steps.json").read_bytes())["calibrate"]


@on_the_small_demo
def test_ctrl_c_is_code_130_and_leaves_a_run_that_continues(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    _copy_up_to(demo, out, "calibrate")
    run = subprocess.Popen(
        _command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(lambda: _count(out / "records.sqlite") >= 12, "12 records")
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: host, agent and child all get it
        output, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 130, output
    assert "Traceback" not in output
    assert len(_records(out / "records.sqlite")) >= 12


def test_a_search_without_records_says_what_to_do(supernet_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    argv = ["--supernet", supernet_file, "--store", store, "--out", tmp_path / "f"]
    refused(ramnas("search", *argv), "s.sqlite does not exist; ramnas calibrate makes it")
    assert not store.exists()
    Store(store).close()
    refused(ramnas("search", *argv), "holds no record of run 'calibration'; calibrate first")
    refused(
        ramnas("calibrate", "--samples", "12", "--rounds", "2", "--store", store, "--local-agent"),
        "a record needs",
    )


def test_the_bundle_of_a_front_that_is_not_verified_is_refused(demo: Path, tmp_path: Path) -> None:
    argv = ["--supernet", demo / "train/supernet.safetensors", "--out", tmp_path / "bundle"]
    ran = ramnas("bundle", "--front", demo / "front.json", *argv)
    refused(ran, "no candidate of this front is verified yet; run ramnas verify")
    assert os.listdir(tmp_path) == []


def test_a_front_of_another_space_is_refused(demo: Path, tmp_path: Path) -> None:
    content = json.loads((demo / "verified.json").read_bytes())
    (tmp_path / "other.json").write_text(json.dumps({**content, "space_hash": "0" * 12}))
    argv = ["--supernet", demo / "train/supernet.safetensors", "--out", tmp_path / "bundle"]
    ran = ramnas("bundle", "--front", tmp_path / "other.json", *argv)
    refused(ran, "use the supernet of that search")


def test_evaluate_prints_and_writes_accuracies(supernet_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "accuracy.json"
    ran = ramnas("evaluate", "--supernet", supernet_file, "--random", "2", "--out", out)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(out.read_bytes())
    assert len(found["random"]) == 2
    assert f"max: top1 {100 * found['max']:.1f} % (report split, n 250, 95 %" in ran.stdout
    assert "publish it, and choose nothing by it" in ran.stdout
    assert found["accuracies"]["min"]["n"] == found["n"] == 250
    assert len(found["archs"]) == 4
    assert all(entry["top1"] <= entry["top5"] <= 1 for entry in found["archs"])


def test_a_list_of_archs_is_evaluated_in_its_order(supernet_file: Path, tmp_path: Path) -> None:
    space = load_space("micro")
    archs = sample_by_macs(space, np.random.default_rng(0), 3)
    (tmp_path / "archs.yaml").write_text(str([list(arch.integers) for arch in archs]))
    argv = ["--supernet", supernet_file, "--archs", tmp_path / "archs.yaml"]
    ran = ramnas("evaluate", *argv, "--out", tmp_path / "accuracy.json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "accuracy.json").read_bytes())["archs"]
    assert [entry["arch_id"] for entry in found] == [arch.id for arch in archs]
    assert "best: " not in ran.stdout  # nothing may be chosen by the report split
    assert "best: top1 " in ramnas("evaluate", *argv, "--split", "selection").stdout
    for text in ("[]", "5", "candidates: 3", "[[1, 2]]", "- {"):
        (tmp_path / "bad.yaml").write_text(text)
        refused(ramnas("evaluate", "--supernet", supernet_file, "--archs", tmp_path / "bad.yaml"),
                "bad.yaml")  # fmt: skip


def _command(out: Path) -> list[str]:
    small = [] if "RAMNAS_DEMO" in os.environ else ["--small"]
    return [sys.executable, "-m", "ramnas_host", "demo", *small, "--out", str(out)]


def _samples(demo: Path) -> int:
    """How many archs the demo asked to have measured."""
    argv = json.loads((demo / "steps.json").read_bytes())["calibrate"]["argv"]
    return int(argv[argv.index("--samples") + 1])


def _demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_command(out), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _copy_up_to(demo: Path, out: Path, step: str) -> None:
    """A demo folder in which everything before `step` is done, as a copy at another place."""
    out.mkdir()
    shutil.copytree(demo / "train", out / "train")
    done = {}
    for name, entry in json.loads((demo / "steps.json").read_bytes()).items():
        if name == step:
            break
        argv = [part.replace(str(demo), str(out)) for part in entry["argv"]]
        done[name] = {**entry, "argv": argv}
    (out / "steps.json").write_text(json.dumps(done))


def _records(store: Path) -> dict[str, str]:
    with sqlite3.connect(store) as db:
        query = "SELECT arch_id, record FROM records WHERE run = 'calibration'"
        return dict(db.execute(query).fetchall())


def _count(store: Path) -> int:
    try:
        return len(_records(store))
    except sqlite3.OperationalError:  # not there yet
        return 0


def _wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within 5 minutes"
        time.sleep(0.02)
