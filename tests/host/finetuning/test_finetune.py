"""One network trained for a task: by itself, by the verb, killed, by two processes."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from ramnas_host.cli import main
from ramnas_host.config import Finetuning, load_finetuning, load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.coco import load_coco
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.data.scenes import write_scenes
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.detection import evaluate_detector
from ramnas_host.finetuning.finetune import finetune
from ramnas_host.finetuning.prepare import FINETUNED, prepare
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import recalibrated, score
from ramnas_host.training.run_folder import BEST, STATE
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RAMNAS = [sys.executable, "-m", "ramnas_host"]
TASKS = {"detection": "coco", "segmentation": "cityscapes"}
FIRST = {"detection": "mAP50-95", "segmentation": "mIoU"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def supernet(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: what is tested here is the way, not the result."""
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    torch.manual_seed(0)
    about = describe(digits, load_recipe("digits"))
    checkpoint.save(path, Supernet(SPACE, 10), about)
    return path


@pytest.fixture(scope="module")
def scenes(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(digits, folder, {"train": 16, "val": 3, "test": 4}, seed=0)
    return folder


def short(task: str, **changes: object) -> Finetuning:
    """12 steps of 4 small images, everything random switched on."""
    recipe = load_finetuning(f"scenes-{task}")
    augment = msgspec.structs.replace(recipe.augment, flip=0.5, noise=0.02, mask=0.1)
    return msgspec.structs.replace(
        recipe, epochs=3, batch_size=4, input_hw=(96, 128), calibration=8, save_every=2,
        evaluate_every=2, augment=augment, **{"train_hw": None, **changes},
    )  # fmt: skip


def verb(task: str, supernet: Path, scenes: Path, recipe: Finetuning, out: Path) -> list[str]:
    file = out.parent / f"{out.name}.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    return [
        "finetune", "--task", task, "--arch", "min", "--recipe", str(file),
        "--supernet", str(supernet), "--data", str(scenes / TASKS[task]), "--out", str(out),
    ]  # fmt: skip


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the speed."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in r.items() if k != "images_per_s"} for r in csv.DictReader(file)]


def same(one: nn.Module, other: nn.Module) -> bool:
    found, tensors = one.state_dict(), other.state_dict()
    return all(torch.equal(found[key], tensors[key]) for key in found)


def test_a_subnet_learns_on_its_own_and_the_supernet_stays_as_it_is(digits: Dataset) -> None:
    recipe = msgspec.structs.replace(load_recipe("digits"), epochs=4, warm_up_epochs=0)
    torch.manual_seed(0)
    net = Supernet(SPACE, 10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    arch = SPACE.sample(np.random.default_rng(0))
    untrained = recalibrated(net.extract(arch), digits.calibration)
    losses: list[float] = []
    subnet = net.extract(arch)
    task = classification_task(subnet, digits, recipe.augment, recipe.label_smoothing)
    finetune(task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    assert len(losses) == 4 * (len(digits.train) // recipe.batch_size)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    tuned = score(subnet, digits.test)
    assert tuned.top1 > score(untrained, digits.test).top1 + 0.3
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("task", TASKS)
def test_a_few_images_can_be_learnt_by_heart(task: str, supernet: Path, scenes: Path) -> None:
    recipe = load_finetuning(f"scenes-{task}")
    augment = msgspec.structs.replace(recipe.augment, crop=1.0, brightness=0.0)
    recipe = msgspec.structs.replace(
        recipe, epochs=40, batch_size=8, input_hw=(96, 128), train_hw=None, calibration=16,
        augment=augment,
    )  # fmt: skip
    losses: list[float] = []
    made = prepare(checkpoint.load(supernet), SPACE.min(), recipe, scenes / TASKS[task])
    finetune(made.task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])  # background alone: a half


def test_a_segmenter_may_learn_from_smaller_images_than_it_sees(
    supernet: Path, scenes: Path
) -> None:
    recipe = short("segmentation", train_hw=(70, 100))
    made = prepare(checkpoint.load(supernet), SPACE.min(), recipe, scenes / "cityscapes")
    assert made.about.input_hw == (96, 128)
    image, labels = made.task.draw(0, np.random.default_rng(0))
    assert (image.shape[:2], labels.shape) == ((70, 100), (35, 50))  # the logits have stride 2
    losses: list[float] = []
    finetune(made.task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    assert len(losses) == 12 and np.isfinite(losses).all()
    assert {batch.shape[2:] for batch in made.task.calibration()} == {(96, 128)}


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_fine_tuning_goes_on_to_the_same_weights(
    task: str, supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    """kill -9 at a random step, start again: equal, bit for bit, to a run that nobody stopped."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main.main(verb(task, supernet, scenes, short(task), whole)) == 0
    command = [*RAMNAS, *verb(task, supernet, scenes, short(task), killed)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
    started.kill()
    started.wait()
    assert (killed / STATE).exists()
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    assert "going on from" in ran.stdout
    assert not (killed / STATE).exists()
    one, other = read_metrics(whole), read_metrics(killed)
    assert one == other
    assert [bool(row[FIRST[task]]) for row in one] == [i in (8, 12) for i in range(1, 13)]
    files = {path.name for path in whole.glob("*.safetensors")}
    assert files == {path.name for path in killed.glob("*.safetensors")}
    assert files >= {"last.safetensors", FINETUNED}
    for file in files:
        assert same(saved_network.load(whole / file).net, saved_network.load(killed / file).net)


def test_a_folder_that_is_done_is_left_alone_and_another_run_refused(
    supernet: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short("detection")
    assert main.main(verb("detection", supernet, scenes, recipe, tmp_path / "out")) == 0
    before = (tmp_path / "out" / FINETUNED).stat().st_mtime_ns
    assert main.main(verb("detection", supernet, scenes, recipe, tmp_path / "out")) == 0
    assert "fine-tuned before" in capsys.readouterr().out
    assert (tmp_path / "out" / FINETUNED).stat().st_mtime_ns == before
    other = verb("detection", supernet, scenes, short("detection", seed=1), tmp_path / "out")
    assert main.main(other) == 2
    assert "is of another fine-tuning" in capsys.readouterr().err


def test_two_processes_end_in_one_set_of_files(
    supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(short("segmentation"), sync_batchnorm=True)
    ran = run(
        [*TORCHRUN, *RAMNAS[1:], *verb("segmentation", supernet, scenes, recipe, tmp_path / "two")]
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("fine-tuned segmentation:") == 1
    assert "processes: 2" in (tmp_path / "two/run.yaml").read_text()
    assert saved_network.load(tmp_path / "two" / FINETUNED).about.accuracies


def test_the_best_of_an_earlier_run_is_not_taken_for_that_of_this_one(
    supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = short("detection", max_broken=3)
    made = prepare(checkpoint.load(supernet), SPACE.min(), recipe, scenes / "coco")
    old = prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), scenes / "coco")
    saved_network.save(tmp_path / BEST, old.net, old.space, old.about)
    made.train(tmp_path, Ranks(), 0, lambda step: None)
    if (tmp_path / BEST).exists():  # so few steps may find nothing at all
        assert saved_network.load(tmp_path / BEST).about.recipe == recipe
    last = saved_network.load(tmp_path / "last.safetensors").net
    assert same(saved_network.load(tmp_path / FINETUNED).net, last) or (tmp_path / BEST).exists()


def test_a_file_holds_all_that_export_needs(supernet: Path, scenes: Path, tmp_path: Path) -> None:
    """Read back, the network is the same, recalibrated, with its figures on the test scenes."""
    made = prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), scenes / "coco")
    accuracies = made.train(tmp_path, Ranks(), 0, lambda step: None)
    found = saved_network.load(tmp_path / FINETUNED)
    assert found.about.accuracies == accuracies
    assert [(a.metric, a.split) for a in accuracies] == [("mAP50-95", "test"), ("mAP50", "test")]
    assert found.about.classes == tuple("0123456789")
    assert found.about.input_hw == (96, 128)
    assert "(weights)" in found.about.licence and "CC0" in found.about.licence
    assert found.about.preprocessing.normalisation.mean == (0.3, 0.3, 0.3)
    test = load_coco(scenes / "coco").test
    assert test is not None
    scores = evaluate_detector(found.net, test, range(1, 11), found.about.preprocessing)  # type: ignore[arg-type]
    assert scores == {a.metric: a.value for a in accuracies}


def test_from_scratch_shares_nothing_with_the_supernet(supernet: Path, scenes: Path) -> None:
    loaded = checkpoint.load(supernet)
    stem = loaded.net.state_dict()["stem.weight"][:8]
    for wanted in (False, True):
        made = prepare(
            loaded, SPACE.min(), short("detection", seed=3), scenes / "coco", from_scratch=wanted
        )
        assert torch.equal(made.net.state_dict()["stem.weight"], stem) != wanted
        assert ("(weights)" in made.about.licence) != wanted


def test_broken_images_are_named_and_counted(
    supernet: Path, digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenes(digits, tmp_path / "scenes", {"train": 4, "val": 2, "test": 1}, seed=0)
    broken = sorted((tmp_path / "scenes/coco/train").iterdir())[2]
    broken.write_bytes(b"no image")
    for task, folder in TASKS.items():
        for most in (0, 1):
            recipe = short(task, max_broken=most)
            made = prepare(
                checkpoint.load(supernet), SPACE.min(), recipe, tmp_path / "scenes" / folder
            )
            if most:
                finetune(made.task, recipe)
            else:
                with pytest.raises(DataError, match="1 broken images, more than max_broken 0") as e:
                    finetune(made.task, recipe)
                assert broken.name in str(e.value)
    assert f"{broken.name}; another one takes its place" in caplog.text
    assert "left out" in caplog.text  # of the calibration


def test_wrong_calls_are_one_line(
    supernet: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = verb("detection", supernet, scenes, short("segmentation"), tmp_path / "out")
    assert main.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the recipe is of task segmentation, not detection" in said
    with pytest.raises(DataError, match="detection needs --data DIR"):
        prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), None)
    with pytest.raises(DataError, match="is no fine-tuned network"):
        saved_network.load(supernet)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco", ("detection", 20, 1, 144, 0.2)),
        ("cityscapes", ("segmentation", 20, 1, 8, 0.2)),
        ("inherited", ("classification", 4, 0, 448, 0.02)),
    ],
)
def test_the_defaults_are_those_of_the_paper(name: str, expected: tuple[object, ...]) -> None:
    """Table II; Fig. 5 for classification."""
    recipe = load_finetuning(name)
    found = (recipe.task, recipe.epochs, recipe.warm_up_epochs, recipe.batch_size, recipe.lr)
    assert found == expected
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)


def test_classification_goes_on_with_images_and_augmentation_of_the_supernet(
    supernet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = msgspec.structs.replace(
        load_finetuning("inherited"), batch_size=32, precision="fp32", epochs=6
    )
    file = tmp_path / "mine.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    command = [
        "finetune", "--task", "classification", "--arch", "min", "--supernet", str(supernet),
        "--recipe", str(file), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main.main(command) == 0
    found = saved_network.load(tmp_path / "out" / FINETUNED).about
    assert [(a.metric, a.split) for a in found.accuracies] == [("top1", "test"), ("top5", "test")]
    assert found.accuracies[0].value > 0.2  # from random weights, a rate made for good ones
    assert f"top1 on test: {found.accuracies[0].value:.2%}" in capsys.readouterr().out
    assert found.licence == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("coco", "input_hw", "must be given for detection"),
        ("coco", "augment", "must be given for detection"),
        ("cityscapes", "head", "must be given for segmentation"),
        ("inherited", "calibration", "must be null for classification"),
        ("coco", "head", "must be null for detection"),
        ("coco", "train_hw", "must be null for detection"),
        ("cityscapes", "train_hw", "0x9 is no size of an image"),
    ],
)
def test_a_recipe_of_the_wrong_shape_is_refused(
    name: str, key: str, said: str, tmp_path: Path
) -> None:
    content = msgspec.to_builtins(load_finetuning(name))
    other = {
        "calibration": 9, "head": {"form": "two_input", "output_stride": 16}, "train_hw": [0, 9],
    }  # fmt: skip
    content[key] = None if said.startswith("must be given") else other[key]
    file = tmp_path / "mine.yaml"
    file.write_bytes(msgspec.yaml.encode(content))
    with pytest.raises(DataError, match=f"mine.yaml: {key}: {said}"):
        load_finetuning(str(file))


def test_an_unknown_recipe_says_which_there_are() -> None:
    with pytest.raises(DataError, match="known are cityscapes, coco, inherited, scenes-detection"):
        load_finetuning("digits")


def test_digits_are_never_mirrored() -> None:
    for task in TASKS:
        augment = load_finetuning(f"scenes-{task}").augment
        assert augment is not None and augment.flip == 0
