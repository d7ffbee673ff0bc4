"""The benchmark against torchvision compares equal work, and ends cleanly."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ramnas_edge.vision.detection import above_score
from ramnas_models.head_plan import ssdlite
from ramnas_models.plan import plan
from ramnas_models.space import Arch
from tests.benchmarks import bench_torchvision as bench
from tests.benchmarks.one_model import SEEN, objects

ROOT = Path(__file__).parents[2]
NEEDS_TORCHVISION = pytest.mark.skipif(
    not bench.PYTHON.exists(), reason="no .venv-torchvision: run make bench-torchvision"
)
MOBILENET_MACS = 583_171_904


def macs(arch: Arch) -> int:
    return ssdlite(plan(bench.SPACE, arch, input_hw=bench.DETECTOR_HW), 90).macs


def test_our_detector_has_at_least_torchvisions_macs_and_hardly_more() -> None:
    found = macs(bench.least(MOBILENET_MACS, macs))
    assert MOBILENET_MACS <= found < 1.01 * MOBILENET_MACS
    assert macs(bench.SPACE.min()) < MOBILENET_MACS  # so a larger arch is needed


def test_for_a_smaller_peer_the_smallest_arch_is_taken() -> None:
    assert macs(bench.least(1, macs)) == macs(bench.SPACE.min())


def test_every_object_passes_the_score_and_no_two_are_equal() -> None:
    rows, _, scores = above_score(objects(3234, 90)[0], bench.LIMITS.score)
    assert len(set(rows)) == len(set(scores)) == SEEN


def test_every_candidate_is_timed_in_every_round_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def timer(name: str) -> bench.Timer:
        def timed(calls: int) -> list[float]:
            order.append(name)
            return [len(order)] * calls

        return timed

    found = bench._in_rounds({"a": timer("a"), "b": timer("b")}, rounds=2, calls=3)
    assert order == ["a", "b"] * 3
    assert found == {"a": [[3] * 3, [5] * 3], "b": [[4] * 3, [6] * 3]}


def test_a_ratio_compares_times_of_the_same_round() -> None:
    assert bench._times(peer=[[2.0], [20.0], [9.0]], ours=[[1.0], [10.0], [3.0]]) == 2


def test_without_torchvision_the_reason_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PYTHON", tmp_path / ".venv-torchvision/bin/python")
    (reason,) = bench.run().values()
    assert str(reason).startswith("no .venv-torchvision: run make bench-torchvision")
    assert "\nbench-torchvision:" in (ROOT / "Makefile").read_text()


@NEEDS_TORCHVISION
def test_both_detectors_find_the_same_number_of_boxes_and_are_timed() -> None:
    found = bench.run({"detection": (1, 1)})  # it asserts the number of boxes on both sides
    peer, ours = (
        {key.rpartition(".")[2]: found[key] for key in found if key.startswith(f"detection.{name}")}
        for name in ("eager.", "ours.")
    )
    assert peer["macs_m"] == MOBILENET_MACS / 1e6 <= ours["macs_m"]
    assert peer["frames_per_s"] == pytest.approx(1e3 / peer["p50_ms"])
    for key in ("ours.times_eager", "ours.times_onnxruntime", "network.times_onnxruntime"):
        assert found[f"detection.{key}"] > 0


def test_the_peers_process_ends_with_the_benchmark_even_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    _fake_peer(tmp_path, monkeypatch, waits)

    def fails_while_it_runs(pid: int) -> None:
        os.kill(pid, 0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), bench._peer(tmp_path) as (pid, _):
        fails_while_it_runs(pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_peer_that_ends_early_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_peer(tmp_path, monkeypatch, "print(0, flush=True); input()")
    with bench._peer(tmp_path) as (_, eager), pytest.raises(AssertionError, match="ended"):
        eager("detection", 1)


def _fake_peer(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(bench, "PYTHON", sys.executable)
    monkeypatch.setattr(bench, "PEER", folder / "peer.py")
    (folder / "peer.py").write_text(code)
