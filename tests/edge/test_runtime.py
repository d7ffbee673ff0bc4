from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Optional, Tuple

import cv2
import msgspec
import numpy as np
import pytest

from ramnas_edge import backends
from ramnas_edge.device import this_device
from ramnas_edge.runtime import Runtime
from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    Accuracy,
    Cost,
    Latency,
    Manifest,
    Model,
    Preprocessing,
    write_bundle,
)  # fmt: skip
from ramnas_models.errors import BudgetError, SourceError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space

FRAME = (8, 8)
FIGURES = ((0.90, 1.0), (0.95, 2.0), (0.99, 4.0))  # accuracy, p90 in ms


def this_class() -> str:
    version = backends.load("onnxruntime-cpu").version
    return this_device().class_key("onnxruntime-cpu", version)


def a_bundle(path: Path, device_class: Optional[str] = None) -> Tuple[str, ...]:
    """Three models with the figures above; their arch ids."""
    space = load_space("micro")
    archs = [space.min(), space.sample(np.random.default_rng(0)), space.max()]
    models, files = [], {}
    for arch, (accuracy, p90_ms) in zip(archs, FIGURES):
        layout = plan(space, arch, num_classes=3)
        file = f"models/{arch.id}.onnx"
        files[file] = onnx_graph.build(layout, image_input=True).SerializeToString()
        latency = Latency(
            device_class or this_class(), "onnxruntime-cpu", "fp32", 1, 1, FRAME, p90_ms, p90_ms
        )
        models.append(
            Model(
                arch.id, arch, file, "", layout.input_hw, Accuracy("top1", accuracy, "test"),
                Cost(layout.macs, layout.macs_bn, layout.params), (latency,),
            )
        )  # fmt: skip
    manifest = Manifest(
        FORMAT, "classification", ("a", "b", "c"), space.name, space.hash,
        Preprocessing(Normalisation()), "CC0-1.0", "test", tuple(models),
    )  # fmt: skip
    write_bundle(path, manifest, files)
    return tuple(arch.id for arch in archs)


@pytest.mark.parametrize(
    ("budget", "expected"), [(1.0, 0), (1.99, 0), (2.0, 1), (3.9, 1), (4.0, 2), (None, 2)]
)
def test_most_accurate_model_within_the_budget_is_picked(
    tmp_path: Path, budget: Optional[float], expected: int
) -> None:
    ids = a_bundle(tmp_path / "b")
    with Runtime.open(tmp_path / "b", latency_budget_ms=budget, frame_hw=FRAME) as runtime:
        assert runtime.choice.model.arch_id == ids[expected]
        assert runtime.choice.p90_ms == FIGURES[expected][1]
        assert "measured on this device class" in runtime.choice.source


def test_a_budget_no_model_meets_says_which_is_fastest_and_by_how_much(tmp_path: Path) -> None:
    ids = a_bundle(tmp_path / "b")
    message = f"no model fits 0.25 ms: the fastest, {ids[0]}, has a p90 of 1 ms .* by 0.75 ms"
    with pytest.raises(BudgetError, match=message):
        Runtime.open(tmp_path / "b", latency_budget_ms=0.25, frame_hw=FRAME)


def test_on_an_unknown_device_class_models_are_timed_first(tmp_path: Path) -> None:
    ids = a_bundle(tmp_path / "b", device_class="another-board")
    with Runtime.open(tmp_path / "b", latency_budget_ms=1000.0, frame_hw=FRAME) as runtime:
        assert runtime.choice.model.arch_id == ids[2]
        assert runtime.choice.source.startswith("timed at start")
        assert 0 < runtime.choice.p90_ms < 1000
    with pytest.raises(BudgetError):
        Runtime.open(tmp_path / "b", latency_budget_ms=1e-6, frame_hw=FRAME)


def test_frames_of_another_size_are_timed_too(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    with Runtime.open(tmp_path / "b", frame_hw=(480, 640)) as runtime:
        assert runtime.choice.source.startswith("timed at start")


def test_result_equals_the_engine_on_the_resized_frame(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    frame = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    with Runtime.open(tmp_path / "b", latency_budget_ms=1.0, frame_hw=FRAME) as runtime:
        result = runtime(frame)
        model = runtime.choice.model
        session = backends.load("onnxruntime-cpu").open(
            runtime.bundle.read_model(model), backends.Options()
        )
        image = cv2.resize(frame, model.input_hw[::-1], interpolation=cv2.INTER_LINEAR)
        logits = session.infer({"image": image[None]})[0][0]
        assert result.labels.index == logits.argmax()
        assert result.labels.name == "abc"[int(logits.argmax())]
        timing = result.timing
        assert timing.total_ms == timing.resize_ms + timing.engine_ms + timing.decode_ms > 0


def test_one_bad_frame_does_not_stop_a_stream(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    with Runtime.open(tmp_path / "b", latency_budget_ms=1.0, frame_hw=FRAME) as runtime:
        good = np.zeros((*FRAME, 3), np.uint8)
        before = runtime(good)
        with pytest.raises(SourceError):
            runtime(good[..., 0])
        assert runtime(good).labels == before.labels


def edge_run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ramnas_edge", "run", *argv], capture_output=True, text=True
    )


def test_run_prints_json_lines_and_a_summary(tmp_path: Path) -> None:
    ids = a_bundle(tmp_path / "b")
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), np.full((*FRAME, 3), 80 * i, np.uint8))
    argv = ["--bundle", str(tmp_path / "b"), "--latency-budget-ms", "2", "--source"]
    ran = edge_run(*argv, str(tmp_path / "images"), "--json")
    assert ran.returncode == 0, ran.stderr
    *frames, last = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [Path(f["image"]).name for f in frames] == ["0.png", "1.png", "2.png"]
    assert all(f["labels"]["name"] in "abc" and f["timing"]["engine_ms"] > 0 for f in frames)
    summary = last["summary"]
    assert (summary["model"], summary["frames"]) == (ids[1], 3)
    assert summary["expected_p90_ms"] == 2.0
    people = edge_run(*argv, str(tmp_path / "images/0.png"))
    assert f"model {ids[1]}: 1 frames" in people.stdout


def test_run_refuses_bad_input_with_one_line_and_code_2(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    text = tmp_path / "text.png"
    text.write_text("no image")
    good = tmp_path / "good.png"
    cv2.imwrite(str(good), np.zeros((*FRAME, 3), np.uint8))
    manifest = tmp_path / "b/manifest.json"
    cases = [
        (["--bundle", str(tmp_path), "--source", str(good)], "is no bundle"),
        (["--bundle", str(tmp_path / "b"), "--source", str(text)], "cannot be read as an image"),
        (["--bundle", str(tmp_path / "b"), "--source", str(good),
          "--latency-budget-ms", "0.1"], "no model fits 0.1 ms"),
        (["--bundle", str(tmp_path / "b"), "--source", str(good),
          "--engine", "tvm"], "unknown engine 'tvm'"),
    ]  # fmt: skip
    for argv, message in cases:
        ran = edge_run(*argv)
        assert ran.returncode == 2
        assert message in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert not ran.stdout
    content = msgspec.json.decode(manifest.read_bytes())
    content["models"][0]["sha256"] = "0" * 64
    manifest.write_bytes(msgspec.json.encode(content))
    ran = edge_run("--bundle", str(tmp_path / "b"), "--source", str(good))
    assert ran.returncode == 2
    assert "fetch the bundle again" in ran.stderr
