"""A bundle of fine-tuned networks, and what the runtime makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2

from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.results import Detections, Mask
from ramnas_host.cli import main
from ramnas_host.config import load_finetuning
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.prepare import FINETUNED
from ramnas_host.finetuning.saved_network import FinetunedAbout
from ramnas_host.search import finetuned_bundle
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Preprocessing, open_bundle
from ramnas_models.errors import DataError
from ramnas_models.heads import Segmenter
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Supernet
from tests.models.randomised import randomise

SPACE = load_space("micro")
CLASSES = tuple("0123456789")


def finished_run(folder: Path, task: str, arch: Arch, **changes: object) -> Path:
    """Write the folder of a finished run of `ramnas finetune`, with random weights."""
    recipe = load_finetuning(f"scenes-{task}")
    classes = CLASSES if task == "detection" else ("background", *CLASSES)
    metric = "mAP50-95" if task == "detection" else "mIoU"
    about = FinetunedAbout(
        task, arch, classes, (96, 128), recipe.head, Preprocessing(Normalisation()), "CC-BY-4.0",
        "digits", False, recipe, (Accuracy(metric, 0.5, "report", 400, (0.45, 0.55)),),
    )  # fmt: skip
    about = msgspec.structs.replace(about, **changes)
    torch.manual_seed(0)
    net = saved_network.build(Supernet(SPACE, len(CLASSES)), about)
    randomise(net)
    saved_network.save(folder / FINETUNED, net, SPACE, about)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        finished_run(folder / "d_max", "detection", SPACE.max()),
        finished_run(folder / "s_min", "segmentation", SPACE.min()),
        finished_run(folder / "d_min", "detection", SPACE.min()),
    ]


def test_one_bundle_serves_both_tasks(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    argv = ["bundle", "--finetuned", *map(str, runs), "--out", str(out)]
    assert main.main(argv) == 0
    detection, segmentation = open_bundle(out).manifest.tasks
    assert [m.arch_id for m in detection.models] == [SPACE.min().id, SPACE.max().id]
    assert all(m.anchors for m in detection.models)
    for model in (*detection.models, *segmentation.models):
        metric = "mAP50-95" if model in detection.models else "mIoU"
        assert model.accuracies == (Accuracy(metric, 0.5, "report", 400, (0.45, 0.55)),)
    assert segmentation.classes[0] == "background"
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    options = {"engine": "onnxruntime-cpu", "frame_hw": (240, 320)}
    with Runtime.open(out, task="detection", **options) as runtime:
        detections = runtime(frame)
        assert isinstance(detections, Detections)
        assert detections.names == CLASSES
    with Runtime.open(out, task="segmentation", **options) as runtime:
        mask = runtime(frame)
        assert isinstance(mask, Mask)
        assert mask.classes.shape == (240, 320)


def test_the_mask_matches_the_torch_network(runs: list[Path], tmp_path: Path) -> None:
    finetuned_bundle.write(tmp_path / "bundle", [runs[1]])
    frame = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 3)
    norm = Normalisation()
    image = (frame[..., ::-1] / 255 - np.array(norm.mean)) / np.array(norm.std)
    net = saved_network.load(runs[1] / FINETUNED).net
    assert isinstance(net, Segmenter)
    with torch.no_grad():
        logits = net(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)))[0]
    with Runtime.open(tmp_path / "bundle", engine="onnxruntime-cpu", frame_hw=(96, 128)) as runtime:
        mask = runtime(frame)
    assert isinstance(mask, Mask)
    small = cv2.resize(
        mask.classes, tuple(logits.shape[:0:-1]), interpolation=cv2.INTER_NEAREST_EXACT
    )
    best = logits.argmax(0).numpy()
    assert np.mean(small == best) > 0.999


def test_a_run_of_an_earlier_version_is_bundled_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = (Accuracy("mIoU", 0.5, "test"),)
    run = finished_run(tmp_path / "run", "segmentation", SPACE.min(), accuracies=old)
    written = finetuned_bundle.write(tmp_path / "bundle", [run])
    assert written.manifest.tasks[0].models[0].accuracies == old
    assert "without n and interval. Fine-tune it again" in caplog.text


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("detection", {"classes": ("a", "b")}, "differ in classes"),
        ("detection", {}, "two of the networks for detection have the arch"),
    ],
)
def test_networks_that_do_not_belong_together_are_refused(
    task: str, changes: dict[str, object], message: str, runs: list[Path], tmp_path: Path
) -> None:
    other = finished_run(tmp_path / "other", task, SPACE.min(), **changes)
    with pytest.raises(DataError, match=message):
        finetuned_bundle.write(tmp_path / "bundle", [*runs, other])
    assert not (tmp_path / "bundle").exists()


def test_an_unfinished_run_and_a_front_without_a_supernet_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    out = ["--out", str(tmp_path / "bundle")]
    assert main.main(["bundle", "--finetuned", str(tmp_path / "run"), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "which ramnas finetune writes when a run has ended" in error
    (tmp_path / "front.json").write_text(json.dumps({}))
    assert main.main(["bundle", "--front", str(tmp_path / "front.json"), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--front needs --supernet" in error
