"""A classifier for classes that its supernet does not know: from a folder to what it prints."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_edge.cli import main as edge
from ramnas_host.cli import main
from ramnas_host.config import Finetuning, load_finetuning, load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.class_folders import load_class_folders
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.findings import Finding
from ramnas_host.data.images import Dataset, Split, write_image_folder
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.prepare import FINETUNED, prepare
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import score
from ramnas_models.accuracy import wilson
from ramnas_models.bundle import open_bundle
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import load_space
from ramnas_models.supernet import Subnet, Supernet

SPACE = load_space("micro")
NAMES = ("four/vier", "three", "two", "zero")  # in the order that their folders have
DIGITS = (4, 3, 2, 0)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def supernet(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet with random weights for the ten digits."""
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    torch.manual_seed(0)
    checkpoint.save(path, Supernet(SPACE, 10), describe(digits, load_recipe("digits")))
    return path


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits under names of their own: 160 pictures in train/, and 60 in val/."""
    root = tmp_path_factory.mktemp("data") / "own"
    for part, source, each in (("train", "train", 40), ("val", "selection", 15)):
        split = digits.split(source)
        places = [np.flatnonzero(split.labels.numpy() == digit)[:each] for digit in DIGITS]
        taken = split.take(np.concatenate(places))
        labels = torch.arange(len(DIGITS)).repeat_interleave(each)
        own = Split(taken.images, labels, taken.preprocessing)
        write_image_folder(Dataset("own", NAMES, "", "", own, own, own, own), "train", root / part)
    return root


def short(**changes: object) -> Finetuning:
    """A few steps with a learning rate for random weights."""
    return msgspec.structs.replace(
        load_finetuning("inherited"),
        **{
            "batch_size": 32, "precision": "fp32", "epochs": 8, "evaluate_every": 4,
            "optimizer": load_recipe("digits").optimizer, **changes,
        },
    )  # fmt: skip


def command(recipe: Finetuning, out: Path, *options: object) -> list[str]:
    file = out.parent / f"{out.name}.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    return [
        "finetune", "--task", "classification", "--arch", "min", "--recipe", str(file),
        "--out", str(out), *map(str, options),
    ]  # fmt: skip


def test_a_folder_of_other_classes_becomes_a_bundle_that_names_them(
    supernet: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    argv = command(short(), run, "--supernet", supernet, "--data", folder)
    assert main.main(argv) == 0
    assert "(report split, n 30," in capsys.readouterr().out
    saved = saved_network.load(run / FINETUNED)
    assert saved.about.classes == NAMES
    assert saved.about.source.endswith("(weights); images of own (data)")
    assert saved.about.licence == "CC-BY-4.0 (weights); as that of the images (data)"
    metrics = [(a.metric, a.split, a.n) for a in saved.about.accuracies]
    assert metrics == [
        ("top1", "selection", 30), ("top5", "selection", 30),
        ("top1", "report", 30), ("top5", "report", 30),
    ]  # fmt: skip
    assert saved.about.accuracies[2].value > 0.5

    argv = ["bundle", "--finetuned", str(run), "--out", str(bundle)]
    assert main.main([*argv, "--data", str(folder)]) == 2
    assert f"need no images: leave --data {folder} out" in capsys.readouterr().err
    assert main.main(argv) == 0
    (model,) = open_bundle(bundle).manifest.tasks[0].models
    assert (model.accuracy, model.accuracies) == (model.accuracies[0], saved.about.accuracies)
    capsys.readouterr()
    for name in ("four%2Fvier", "zero"):
        argv = ["run", "--bundle", str(bundle), "--source", str(folder / "val" / name), "--json"]
        assert edge.main([*argv, "--engine", "onnxruntime-cpu"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        seen = {line["name"] for line in lines if "name" in line}
        assert seen <= set(NAMES)
        assert len(lines) == 16  # and the summary


def test_all_but_the_classifier_comes_from_the_supernet(supernet: Path, folder: Path) -> None:
    loaded = checkpoint.load(supernet)
    subnet = loaded.net.extract(SPACE.min()).state_dict()
    runs = [prepare(loaded, SPACE.min(), short(), folder) for _ in range(2)]
    for run in runs:
        state = run.net.state_dict()
        assert state["classifier.weight"].shape[0] == len(NAMES)
        own = [key for key in state if not key.startswith("classifier.")]
        assert all(torch.equal(state[key], subnet[key]) for key in own)
        assert state["classifier.weight"].std() > 0
    first, again = (run.net.state_dict()["classifier.weight"] for run in runs)
    assert torch.equal(first, again)
    other = prepare(loaded, SPACE.min(), short(seed=1), folder)
    assert not torch.equal(first, other.net.state_dict()["classifier.weight"])
    scratch = prepare(loaded, SPACE.min(), short(seed=3), folder, from_scratch=True)
    assert not torch.equal(scratch.net.state_dict()["stem.weight"], subnet["stem.weight"])
    assert scratch.about.licence == "as that of the images"


def test_the_classes_of_the_supernet_keep_its_classifier(
    supernet: Path, digits: Dataset, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        write_image_folder(digits, "report", tmp_path / part)
    loaded = checkpoint.load(supernet)
    run = prepare(loaded, SPACE.min(), short(), tmp_path)
    weight = loaded.net.extract(SPACE.min()).state_dict()["classifier.weight"]
    assert torch.equal(run.net.state_dict()["classifier.weight"], weight)
    assert run.images == {"train": 250, "selection": 125, "report": 125}


def test_a_space_is_enough_to_start_from_scratch(folder: Path) -> None:
    run = prepare(SPACE, SPACE.min(), short(), folder)
    assert run.about.from_scratch
    assert run.about.preprocessing.normalisation == Normalisation()
    assert (run.about.licence, run.about.source) == ("as that of the images", "images of own")
    image, label = run.task.draw(0, np.random.default_rng(0))
    assert image.shape[:2] == (SPACE.min().resolution,) * 2
    assert label == 0
    with pytest.raises(DataError, match="fine-tuning for classification needs --data DIR"):
        prepare(SPACE, SPACE.min(), short(), None)


def test_each_class_has_an_accuracy_of_its_own(supernet: Path, folder: Path) -> None:
    run = prepare(checkpoint.load(supernet), SPACE.min(), short(), folder)
    run.net.eval()
    run.net.recalibrate(run.task.calibration())
    found = run.task.evaluate("report", Ranks())
    assert set(found.by_class) == set(NAMES)
    top1 = [accuracies[0] for accuracies in found.by_class.values()]
    assert sum(accuracy.n or 0 for accuracy in top1) == 30
    for accuracy in top1:
        assert (accuracy.metric, accuracy.split) == ("top1", "report")
        assert accuracy.interval == wilson(accuracy.value, accuracy.n or 0)
    mean = sum(accuracy.value * (accuracy.n or 0) for accuracy in top1) / 30
    assert found.accuracies[0].value == pytest.approx(mean)
    assert isinstance(run.net, Subnet)
    report = load_class_folders(folder, run.about.preprocessing).report
    assert score(run.net, report).top1 == found.accuracies[0].value


def test_what_was_noticed_is_logged_once_when_training_starts(
    supernet: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for part in ("train", "val"):
        (odd / part).mkdir()
        for name in (folder / part).iterdir():
            (odd / part / name.name).symlink_to(name)
    (odd / "train/.ipynb_checkpoints").mkdir()
    recipe = short(epochs=1)
    run = prepare(checkpoint.load(supernet), SPACE.min(), recipe, odd)
    assert run.images["train"] == 160
    with caplog.at_level(logging.WARNING):
        run.train(tmp_path / "out", Ranks(), 0, lambda step: None)
    text = "train: folders that a system or tool keeps for itself, which are not classes: 1, such"
    assert caplog.text.count(text) == 1
    assert "data check" not in caplog.text  # nothing of it is wrong
    wrong = Finding("train", "labels that nobody can mean", 2, "1.jpg", wrong=True)
    with caplog.at_level(logging.WARNING):
        dataclasses.replace(run, findings=(wrong,)).train(
            tmp_path / "again", Ranks(), 0, lambda step: None
        )
    assert "train: labels that nobody can mean: 2, such as 1.jpg" in caplog.text
    assert f"ramnas data check {odd} shows it" in caplog.text


def test_a_folder_of_other_images_has_a_recipe_of_its_own(
    supernet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/ant/1.jpg", "train/bee/1.jpg", "val/ant/1.jpg", "val/bee/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    argv = command(short(), tmp_path / "out", "--supernet", supernet, "--data", tmp_path)
    at = argv.index("--recipe")
    assert main.main(argv[:at] + argv[at + 2 :]) == 2
    size = load_finetuning("transfer").batch_size
    message = f"batch_size {size} is more than the 2 training images: lower it with --batch-size"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["--data", "{empty}"], "train is not a folder"),
        (["--data", "{folder}"], "batch_size 448 is more than the 160 training images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    options: list[str], message: str, supernet: Path, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    filled = [word.format(folder=folder, empty=tmp_path / "empty") for word in options]
    recipe = load_finetuning("inherited")
    assert main.main(command(recipe, tmp_path / "out", "--supernet", supernet, *filled)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
