"""Fine-tuning of one network: from Python, from the command line, killed, and in two processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import distributed, nn

from ramnas_host.annotations.coco import load_coco
from ramnas_host.cli import main
from ramnas_host.config import Finetuning, load_finetuning, load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.data.scenes import write_scenes
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.detection import evaluate_detector
from ramnas_host.finetuning.finetune import Evaluation, finetune
from ramnas_host.finetuning.prepare import FINETUNED, prepare
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import recalibrated, score
from ramnas_host.training.run_folder import BEST, STATE
from ramnas_models.accuracy import wilson
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.host.finetuning import forked
from tests.host.waits import NoWaits

SPACE = load_space("micro")
INPUT_HW = (64, 96)
FOLDERS = {"detection": "coco", "segmentation": "cityscapes"}
FIRST_SCORE = {"detection": "selection_mAP50-95", "segmentation": "selection_mIoU"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def supernet(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet with random weights: these tests are not about accuracy."""
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
    """A recipe of 12 steps with 4 small images each and every random augmentation."""
    recipe = load_finetuning(f"scenes-{task}")
    augment = msgspec.structs.replace(recipe.augment, flip=0.5, noise=0.02, mask=0.1)
    return msgspec.structs.replace(
        recipe, epochs=3, batch_size=4, input_hw=INPUT_HW, calibration=8, save_every=2,
        evaluate_every=2, augment=augment, **{"train_hw": None, **changes},
    )  # fmt: skip


def arguments(task: str, supernet: Path, scenes: Path, recipe: Finetuning, out: Path) -> list[str]:
    file = out.parent / f"{out.name}.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    return [
        "finetune", "--task", task, "--arch", "min", "--recipe", str(file),
        "--supernet", str(supernet), "--data", str(scenes / FOLDERS[task]), "--out", str(out),
    ]  # fmt: skip


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the times."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        timed = ("images_per_s", "wait_s")
        return [{k: v for k, v in r.items() if k not in timed} for r in csv.DictReader(file)]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    tensors, others = a.state_dict(), b.state_dict()
    return all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_a_subnet_learns_and_the_supernet_keeps_its_weights(digits: Dataset) -> None:
    recipe = msgspec.structs.replace(load_recipe("digits"), epochs=2, warm_up_epochs=0)
    torch.manual_seed(0)
    net = Supernet(SPACE, 10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    arch = SPACE.sample(np.random.default_rng(0))
    untrained = recalibrated(net.extract(arch), digits.calibration)
    losses: list[float] = []
    subnet = net.extract(arch)
    task = classification_task(subnet, digits, recipe.augment, recipe.label_smoothing)
    finetune(task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    assert len(losses) == 2 * (len(digits.train) // recipe.batch_size)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert score(subnet, digits.report).top1 > score(untrained, digits.report).top1 + 0.3
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("task", FOLDERS)
def test_a_few_images_are_learnt_by_heart(
    task: str, supernet: Path, digits: Dataset, tmp_path: Path
) -> None:
    write_scenes(digits, tmp_path / "scenes", {"train": 4, "val": 1, "test": 1}, seed=0)
    recipe = load_finetuning(f"scenes-{task}")
    augment = msgspec.structs.replace(recipe.augment, crop=1.0, brightness=0.0)
    recipe = msgspec.structs.replace(
        recipe, epochs=40, batch_size=4, input_hw=INPUT_HW, train_hw=None, calibration=4,
        augment=augment,
    )  # fmt: skip
    losses: list[float] = []
    data = tmp_path / "scenes" / FOLDERS[task]
    run = prepare(checkpoint.load(supernet), SPACE.min(), recipe, data)
    finetune(run.task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    # a network that sees only black images gets no lower than 0.59
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_a_segmenter_can_learn_from_smaller_images_than_its_input(
    supernet: Path, scenes: Path
) -> None:
    recipe = short("segmentation", train_hw=(50, 70))
    run = prepare(checkpoint.load(supernet), SPACE.min(), recipe, scenes / "cityscapes")
    assert run.about.input_hw == INPUT_HW
    image, labels = run.task.draw(0, np.random.default_rng(0))
    assert (image.shape[:2], labels.shape) == ((50, 70), (25, 35))  # the logits have stride 2
    losses: list[float] = []
    finetune(run.task, recipe, on_step=lambda step: losses.append(step.losses[0]))
    assert len(losses) == 12
    assert np.isfinite(losses).all()
    assert {batch.shape[2:] for batch in run.task.calibration()} == {INPUT_HW}


@pytest.mark.parametrize("task", FOLDERS)
def test_a_killed_run_resumes_to_the_same_weights(
    task: str, supernet: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 at a random time the weights are those of an uninterrupted run, to the bit."""
    whole, killed, recipe = tmp_path / "whole", tmp_path / "killed", short(task)
    assert main.main(arguments(task, supernet, scenes, recipe, whole)) == 0
    rng = np.random.default_rng()
    step, delay_s = int(rng.integers(2, 11)), float(rng.uniform(0, 0.1))
    child = forked.start(
        forked.train_until_killed, supernet, SPACE.min(), recipe, scenes / FOLDERS[task], killed,
        step, delay_s,
    )  # fmt: skip
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (killed / STATE).exists()
    capsys.readouterr()
    assert main.main(arguments(task, supernet, scenes, recipe, killed)) == 0
    assert "going on from" in capsys.readouterr().out
    assert not (killed / STATE).exists()
    rows = read_metrics(whole)
    assert read_metrics(killed) == rows
    evaluated = [i for i, row in enumerate(rows, start=1) if row[FIRST_SCORE[task]]]
    assert (len(rows), evaluated) == (12, [8, 12])
    files = {path.name for path in whole.glob("*.safetensors")}
    assert files == {path.name for path in killed.glob("*.safetensors")}
    assert files >= {"last.safetensors", FINETUNED}
    for file in files:
        nets = (saved_network.load(folder / file).net for folder in (whole, killed))
        assert same_weights(*nets)


@pytest.mark.parametrize("task", FOLDERS)
def test_a_step_never_makes_the_host_wait(task: str, supernet: Path, scenes: Path) -> None:
    run = prepare(checkpoint.load(supernet), SPACE.min(), short(task), scenes / FOLDERS[task])
    examples = [run.task.draw(i, np.random.default_rng(i)) for i in range(4)]
    pixels, *targets = (torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True))
    run.net.train()
    with NoWaits():
        run.task.loss(run.task.augmentation(pixels), tuple(targets)).backward()  # type: ignore[no-untyped-call]
    assert any(parameter.grad is not None for parameter in run.net.parameters())


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(
    supernet: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short("detection")
    assert main.main(arguments("detection", supernet, scenes, recipe, tmp_path / "out")) == 0
    before = (tmp_path / "out" / FINETUNED).stat().st_mtime_ns
    assert main.main(arguments("detection", supernet, scenes, recipe, tmp_path / "out")) == 0
    assert "already fine-tuned" in capsys.readouterr().out
    assert (tmp_path / "out" / FINETUNED).stat().st_mtime_ns == before
    other = arguments("detection", supernet, scenes, short("detection", seed=1), tmp_path / "out")
    assert main.main(other) == 2
    assert "was fine-tuned with another arch, recipe" in capsys.readouterr().err


def test_two_processes_write_one_set_of_files(supernet: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(short("segmentation"), sync_batchnorm=True)
    argv = arguments("segmentation", supernet, scenes, recipe, tmp_path / "two")
    # this process serves the port at which the two meet, as torchrun does
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in ("0", "1"):
        environment = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        children.append(forked.start(forked.ramnas, argv, environment, tmp_path / rank))
    for child in children:
        child.join()
    printed = [(tmp_path / rank).read_text() for rank in ("0", "1")]
    assert [child.exitcode for child in children] == [0, 0], printed
    assert sum("fine-tuned segmentation:" in text for text in printed) == 1
    assert "processes: 2" in (tmp_path / "two/run.yaml").read_text()
    assert saved_network.load(tmp_path / "two" / FINETUNED).about.accuracies


def test_best_weights_of_an_earlier_run_are_not_used(
    supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = short("detection", max_broken=3)
    run = prepare(checkpoint.load(supernet), SPACE.min(), recipe, scenes / "coco")
    old = prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), scenes / "coco")
    saved_network.save(tmp_path / BEST, old.net, old.space, old.about)
    run.train(tmp_path, Ranks(), 0, lambda step: None)
    finished = saved_network.load(tmp_path / FINETUNED).net
    if (tmp_path / BEST).exists():
        assert saved_network.load(tmp_path / BEST).about.recipe == recipe
    else:  # after so few steps no evaluation need have scored above 0
        assert same_weights(finished, saved_network.load(tmp_path / "last.safetensors").net)


def test_a_saved_network_holds_everything_that_export_needs(
    supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    run = prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), scenes / "coco")
    accuracies = run.train(tmp_path, Ranks(), 0, lambda step: None)
    saved = saved_network.load(tmp_path / FINETUNED)
    assert saved.about.accuracies[-2:] == accuracies
    assert [(a.metric, a.split, a.n) for a in saved.about.accuracies[:-2]] == [
        ("mAP50-95", "selection", 3), ("mAP50", "selection", 3),
    ]  # fmt: skip
    assert [(a.metric, a.split, a.n) for a in accuracies] == [
        ("mAP50-95", "report", 4), ("mAP50", "report", 4),
    ]  # fmt: skip
    for accuracy in accuracies:
        assert accuracy.interval is not None
        assert 0 <= accuracy.interval[0] <= accuracy.interval[1] <= 1
    stored = json.loads((tmp_path / "scores.json").read_bytes())
    assert stored == json.loads(msgspec.json.encode(accuracies))
    assert saved.about.classes == tuple("0123456789")
    assert saved.about.input_hw == INPUT_HW
    assert "(weights)" in saved.about.licence
    assert "CC0" in saved.about.licence
    assert saved.about.preprocessing.normalisation.mean == (0.3, 0.3, 0.3)
    report = load_coco(scenes / "coco").report
    # evaluated as it is, without recalibrating BatchNorm again
    found = evaluate_detector(saved.net, report, saved.about.preprocessing)  # type: ignore[arg-type]
    assert found.scores(np.ones(4, np.int64)) == tuple(a.value for a in accuracies)


@pytest.mark.parametrize("with_test", [True, False])
def test_the_report_split_is_read_once_when_all_else_is_done(
    with_test: bool, supernet: Path, scenes: Path, tmp_path: Path
) -> None:
    """Also where the folder has no test split, so that both splits come from val."""
    shutil.copytree(scenes, tmp_path / "scenes", symlinks=True)
    if not with_test:
        (tmp_path / "scenes/coco/annotations/instances_test.json").unlink()
    data = tmp_path / "scenes/coco"
    run = prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), data)
    seen: list[str] = []

    def evaluate(split: str, ranks: Ranks) -> Evaluation:
        seen.append(split)
        return run.task.evaluate(split, ranks)

    watched = dataclasses.replace(run, task=dataclasses.replace(run.task, evaluate=evaluate))
    accuracies = watched.train(tmp_path / "out", Ranks(), 0, lambda step: None)
    assert seen == ["selection", "selection", "selection", "report"]
    selection, report = (3, 4) if with_test else (2, 1)
    assert {accuracy.n for accuracy in accuracies} == {report}
    resolved = msgspec.yaml.decode((tmp_path / "out/run.yaml").read_bytes())
    assert resolved["images"] == {"train": 16, "selection": selection, "report": report}
    assert float(read_metrics(tmp_path / "out")[-1]["selection_n"]) == selection


def test_from_scratch_takes_no_weights_from_the_supernet(supernet: Path, scenes: Path) -> None:
    loaded = checkpoint.load(supernet)
    stem = loaded.net.state_dict()["stem.weight"][:8]
    for from_scratch in (False, True):
        run = prepare(
            loaded, SPACE.min(), short("detection", seed=3), scenes / "coco",
            from_scratch=from_scratch,
        )  # fmt: skip
        assert torch.equal(run.net.state_dict()["stem.weight"], stem) != from_scratch
        assert ("(weights)" in run.about.licence) != from_scratch


def test_broken_images_are_named_and_counted(
    supernet: Path, digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenes(digits, tmp_path / "scenes", {"train": 4, "val": 2, "test": 1}, seed=0)
    broken = sorted((tmp_path / "scenes/coco/train").iterdir())[2]
    broken.write_bytes(b"no image")
    for task, folder in FOLDERS.items():
        for max_broken in (0, 1):
            recipe = short(task, max_broken=max_broken)
            data = tmp_path / "scenes" / folder
            run = prepare(checkpoint.load(supernet), SPACE.min(), recipe, data)
            if max_broken:
                finetune(run.task, recipe)
            else:
                with pytest.raises(DataError, match="than max_broken 0 allows: 1") as e:
                    finetune(run.task, recipe)
                assert broken.name in str(e.value)
    assert f"{broken.name} cannot be read as an image: it begins with" in caplog.text
    assert "; another image takes its place" in caplog.text
    assert "image left out: " in caplog.text  # from the calibration images


def test_wrong_calls_end_with_one_line(
    supernet: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments("detection", supernet, scenes, short("segmentation"), tmp_path / "out")
    assert main.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the recipe is for segmentation, not for detection" in error
    with pytest.raises(DataError, match="fine-tuning for detection needs --data DIR"):
        prepare(checkpoint.load(supernet), SPACE.min(), short("detection"), None)
    with pytest.raises(DataError, match="is not a network that ramnas finetune wrote"):
        saved_network.load(supernet)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco", ("detection", 20, 1, 144, 0.2)),
        ("cityscapes", ("segmentation", 20, 1, 8, 0.2)),
        ("inherited", ("classification", 4, 0, 448, 0.02)),
    ],
)
def test_default_recipes_follow_the_paper(name: str, expected: tuple[object, ...]) -> None:
    """Table II for detection and segmentation, Fig. 5 for classification."""
    recipe = load_finetuning(name)
    settings = (recipe.task, recipe.epochs, recipe.warm_up_epochs, recipe.batch_size, recipe.lr)
    assert settings == expected
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)


def test_classification_uses_the_images_and_augmentation_of_the_supernet(
    supernet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = msgspec.structs.replace(
        load_finetuning("inherited"), batch_size=64, precision="fp32", epochs=2,
        optimizer=load_recipe("digits").optimizer,  # a learning rate for random weights
    )  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_bytes(msgspec.yaml.encode(recipe))
    command = [
        "finetune", "--task", "classification", "--arch", "min", "--supernet", str(supernet),
        "--recipe", str(file), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main.main(command) == 0
    about = saved_network.load(tmp_path / "out" / FINETUNED).about
    top1, top5 = about.accuracies[-2:]
    assert (top1.metric, top1.split, top1.n) == ("top1", "report", 250)
    assert (top5.metric, top5.split, top5.n) == ("top5", "report", 250)
    assert top1.value > 0.3
    assert top1.interval == wilson(top1.value, 250)
    out = capsys.readouterr().out
    low, high = (100 * end for end in top1.interval)
    figure = f"top1 {100 * top1.value:.1f} %"
    assert f"{figure} (report split, n 250, 95 % interval {low:.1f} to {high:.1f} %)" in out
    assert "the report split was read once, at the end: publish it, and choose" in out
    assert about.licence == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("coco", "input_hw", "must be given for detection"),
        ("coco", "augment", "must be given for detection"),
        ("cityscapes", "head", "must be given for segmentation"),
        ("inherited", "calibration", "must be null for classification"),
        ("coco", "head", "must be null for detection"),
        ("coco", "train_hw", "must be null for detection"),
        ("cityscapes", "train_hw", "an image cannot have the size 0x9"),
    ],
)
def test_a_recipe_with_keys_of_another_task_is_refused(
    name: str, key: str, message: str, tmp_path: Path
) -> None:
    content = msgspec.to_builtins(load_finetuning(name))
    other = {
        "calibration": 9, "head": {"form": "two_input", "output_stride": 16}, "train_hw": [0, 9],
    }  # fmt: skip
    content[key] = None if message.startswith("must be given") else other[key]
    file = tmp_path / "mine.yaml"
    file.write_bytes(msgspec.yaml.encode(content))
    with pytest.raises(DataError, match=f"mine.yaml: {key}: {message}"):
        load_finetuning(str(file))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="known are cityscapes, coco, inherited, scenes-detection"):
        load_finetuning("digits")


def test_digits_are_never_mirrored() -> None:
    for task in FOLDERS:
        augment = load_finetuning(f"scenes-{task}").augment
        assert augment is not None
        assert augment.flip == 0
