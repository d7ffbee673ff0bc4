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
from ramnas_models.space import Arch, Space, load_space
from ramnas_models.supernet import Supernet
from tests.models.randomised import randomise

SPACE = load_space("micro")
CLASSES = tuple("0123456789")


def finished_run(
    folder: Path, task: str, arch: Arch, space: Space = SPACE, *, seed: int = 0, **changes: object
) -> Path:
    """Write the folder of a finished run of `ramnas finetune`, with random weights."""
    recipe = load_finetuning(f"scenes-{task}")
    classes = CLASSES if task == "detection" else ("background", *CLASSES)
    metric = "mAP50-95" if task == "detection" else "mIoU"
    about = FinetunedAbout(
        task, arch, classes, (96, 128), recipe.head, Preprocessing(Normalisation()), "CC-BY-4.0",
        "digits", False, recipe, (Accuracy(metric, 0.5, "report", 400, (0.45, 0.55)),),
    )  # fmt: skip
    about = msgspec.structs.replace(about, **changes)
    torch.manual_seed(seed)
    net = saved_network.build(Supernet(space, len(CLASSES)), about)
    randomise(net)
    saved_network.save(folder / FINETUNED, net, space, about)
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


def test_one_backbone_at_two_sizes_trained_twice_and_two_spaces_go_into_one_bundle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    arch, other_space = SPACE.min(), load_space("ofa_mbv3")
    sharp = Preprocessing(Normalisation(mean=(0.3, 0.3, 0.3)), "bicubic")
    runs = [
        finished_run(tmp_path / "large", "detection", arch, input_hw=(128, 160)),
        finished_run(tmp_path / "small", "detection", arch, preprocessing=sharp),
        finished_run(tmp_path / "again", "detection", arch, seed=1, licence="MIT", source="mine"),
        finished_run(tmp_path / "other", "detection", other_space.min(), other_space),
        finished_run(tmp_path / "masks", "segmentation", arch),
    ]
    out = tmp_path / "bundle"
    argv = ["bundle", "--finetuned", *map(str, runs), "--out", str(out)]
    assert main.main(argv) == 0
    manifest = open_bundle(out).manifest
    detection, segmentation = manifest.tasks
    by_name = {model.name: model for model in detection.models}
    assert f"detection model {arch.id}-96x128-2 is from {runs[2]}" in caplog.text
    assert [*by_name] == [
        f"{arch.id}-96x128", f"{arch.id}-96x128-2", f"{arch.id}-128x160", other_space.min().id,
    ]  # fmt: skip
    assert [model.name for model in segmentation.models] == [arch.id]
    assert {model.file for model in detection.models} == {
        f"models/detection-{name}.onnx" for name in by_name
    }
    small, again, large, other = by_name.values()
    assert (small.preprocessing, again.preprocessing) == (sharp, Preprocessing(Normalisation()))
    assert small.sha256 != again.sha256
    assert (large.input_hw, small.space, other.space) == ((128, 160), "micro", "ofa_mbv3")
    assert manifest.spaces == {"micro": SPACE, "ofa_mbv3": other_space}
    assert (manifest.licence, manifest.source) == ("CC-BY-4.0; MIT", "digits; mine")


def test_two_different_spaces_of_one_name_are_both_kept(tmp_path: Path) -> None:
    changed = msgspec.structs.replace(SPACE, resolutions=SPACE.resolutions[:-1])
    runs = [
        finished_run(tmp_path / "one", "detection", SPACE.min()),
        finished_run(tmp_path / "two", "detection", changed.min(), changed),
        finished_run(tmp_path / "three", "detection", SPACE.max()),
    ]
    written = finetuned_bundle.write(tmp_path / "bundle", runs)
    assert written.manifest.spaces == {"micro": SPACE, "micro-2": changed}
    assert sorted((m.name, m.space) for m in written.front().models) == sorted([
        (SPACE.min().id, "micro"), (f"{SPACE.min().id}-2", "micro-2"), (SPACE.max().id, "micro"),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("0", "1", "zwei", *CLASSES[3:]), "other classes than .*d_max: its class 3 of 10 is 'zwei'"
         " instead of '2'; .* so write two bundles"),
        ((*CLASSES[:2], "3", "2", *CLASSES[4:]), "the same classes in another order than .*d_max: "
         "its class 3 of 10 is '3' instead of '2'"),
        (CLASSES[:-1], "other classes than .*d_max: it lacks '9'"),
        ((*CLASSES, "ten"), "other classes than .*d_max: it has 'ten' too"),
    ],
)  # fmt: skip
def test_two_lists_of_classes_are_refused_with_the_first_difference(
    classes: tuple[str, ...], message: str, runs: list[Path], tmp_path: Path
) -> None:
    other = finished_run(tmp_path / "other", "detection", SPACE.min(), classes=classes)
    with pytest.raises(DataError, match=message) as refused:
        finetuned_bundle.write(tmp_path / "bundle", [*runs, other])
    assert str(refused.value).startswith(str(other))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_run_is_refused_with_the_reason(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not weights")
    for named, message in (
        ([tmp_path / "nowhere"], "nowhere does not exist; name a folder that ramnas finetune"),
        ([tmp_path / "empty"], "empty is not a folder of ramnas finetune: it has neither"),
        ([runs[0].parent], f"is not a folder .*; name the runs in it: .*{runs[0]}"),
        ([tmp_path / "file"], "file is not a network that ramnas finetune wrote"),
        ([runs[0], runs[1], runs[0] / ".." / runs[0].name], "are the same run; name it once"),
        ([runs[0], runs[0] / FINETUNED], "are the same run; name it once"),
    ):
        with pytest.raises(DataError, match=message) as refused:
            finetuned_bundle.write(tmp_path / "bundle", named)
        assert "\n" not in str(refused.value)


def test_no_run_and_no_folder_of_somebody_is_replaced_by_a_bundle(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    argv = ["bundle", "--finetuned", str(runs[0]), "--out"]
    for out, file in ((runs[0], FINETUNED), (tmp_path / "thesis", "chapter.tex")):
        assert main.main([*argv, str(out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{out} holds {file}, which would be deleted" in error
        assert (out / file).exists()
    for _ in range(2):  # the second bundle replaces the first one
        assert main.main([*argv, str(tmp_path / "bundle")]) == 0


def test_an_unfinished_run_and_a_front_without_a_supernet_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.safetensors").touch()
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
