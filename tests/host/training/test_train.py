"""Training a supernet: what it writes, how it goes on after a kill, and where it stops."""

from __future__ import annotations

import contextlib
import csv
import functools
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from sklearn.datasets import load_sample_images

from ramnas_host.cli import main
from ramnas_host.config import Recipe, SplitSizes, load_recipe
from ramnas_host.data.about import describe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.training import checkpoint, optimizer, sandwich, tensors, train
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import recalibrated_subnet, score, true_scores
from ramnas_host.training.run_folder import BEST, STATE
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
IMAGES = SplitSizes(train=240, selection=100, calibration=50)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", IMAGES)


def short(epochs: int = 1, **changes: object) -> Recipe:
    """The recipe `digits` with few images and one epoch; 15 steps if `batch_size` is 16."""
    return msgspec.structs.replace(
        load_recipe("digits"),
        **{"images": IMAGES, "epochs": epochs, "random_subnets": 0, **changes},
    )


def at_rate(lr: float, clip_norm: float = 1.0, **changes: object) -> Recipe:
    how = msgspec.structs.replace(load_recipe("digits").optimizer, lr=lr, clip_norm=clip_norm)
    return short(**{"optimizer": how, **changes})


class Enough(Exception):
    """Ends a training from its `on_step`."""


def stop_after(number: int, seen: list[train.Step] | None = None):
    def on_step(step: train.Step) -> None:
        if seen is not None:
            seen.append(step)
        if step.number == number:
            raise Enough

    return on_step


@pytest.mark.parametrize("weighting", ["per_student", "per_teacher", "off"])
@pytest.mark.parametrize("loss", ["kl", "dkd"])
def test_every_variant_of_the_papers_distillation_trains(
    digits: Dataset, weighting: str, loss: str
) -> None:
    how = msgspec.structs.replace(short().distillation, smd_weighting=weighting, pair_loss=loss)
    seen: list[train.Step] = []
    with pytest.raises(Enough):
        train.train(SPACE, digits, short(distillation=how), on_step=stop_after(2, seen))
    assert [s.number for s in seen] == [1, 2]
    assert all(len(s.losses) == 4 and np.isfinite(s.losses).all() for s in seen)


def test_the_same_seed_gives_the_same_weights_and_a_checkpoint_reads_back(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = short(batch_size=60, dropout=0.2, drop_connect=0.2)
    nets = [train.train(SPACE, digits, recipe) for _ in range(2)]
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    path = tmp_path / "supernet.safetensors"
    about = describe(digits, recipe)
    checkpoint.save(path, nets[0], about)
    loaded = checkpoint.load(path)
    assert loaded.net.space == SPACE
    assert loaded.about == about
    assert all(torch.equal(v, first[k]) for k, v in loaded.net.state_dict().items())
    arch = SPACE.sample(np.random.default_rng(0))
    again = [
        score(recalibrated_subnet(net, arch, digits.calibration), digits.report)
        for net in (nets[0], loaded.net)
    ]
    assert again[0] == again[1]


def train_verb(recipe: Path, out: Path, *options: str | Path) -> list[str]:
    return ["train", "--recipe", str(recipe), "--out", str(out), *map(str, options)]


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 in a random step, the same command ends in the weights of an undisturbed run.

    They are equal bit for bit. Augmentation, dropout and drop-connect are on, so that every random
    generator takes part, and a step has two parts and goes into an average.
    """
    augment = msgspec.structs.replace(
        short().augment, flip=0.5, brightness=0.3, noise=0.05, mask=0.2, policy="randaugment"
    )
    recipe = tmp_path / "short.yaml"
    changed = short(
        epochs=2, batch_size=16, dropout=0.2, drop_connect=0.2, augment=augment,
        images=SplitSizes(train=96, selection=50, calibration=20), save_every=2, evaluate_every=1,
        accumulate=2, ema=0.9, random_subnets=2,
    )  # fmt: skip
    recipe.write_bytes(msgspec.yaml.encode(changed))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = Path(__file__).with_name("killed_training.py")
    last = str(np.random.default_rng().integers(2, 10))  # of 12; the first state is that of step 2
    ran = subprocess.run(
        [sys.executable, script, recipe, killed, last, str(torch.get_num_threads())],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert (killed / STATE).exists()
    assert not (killed / train.LAST).exists()

    last_weights, best_weights, metrics = [], [], []
    for out in (whole, killed):
        assert main.main(train_verb(recipe, out)) == 0
        printed = capsys.readouterr().out
        assert ("going on from" in printed) == (out == killed)
        assert re.search(r"min: top1 .* % \(selection split, n 50, 95 % interval .* %\)", printed)
        assert not (out / STATE).exists()
        last_weights.append(checkpoint.load(out / train.LAST).net.state_dict())
        best_weights.append(checkpoint.load(out / BEST).net.state_dict())
        rows = read_metrics(out)
        assert [int(row["step"]) for row in rows] == list(range(1, 13))
        timed = ("images_per_s", "wait_s")
        metrics.append([[v for k, v in row.items() if k not in timed] for row in rows])
    for one, other in (last_weights, best_weights):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert metrics[0] == metrics[1]

    assert main.main(train_verb(recipe, killed)) == 0
    assert "already trained:" in capsys.readouterr().out
    recipe.write_bytes(msgspec.yaml.encode(msgspec.structs.replace(changed, seed=1)))
    assert main.main(train_verb(recipe, killed)) == 2
    assert "was trained with another" in capsys.readouterr().err


@pytest.mark.parametrize("function", ["metrics.Metrics.write", "resume.save"])
def test_a_run_that_stops_while_it_records_a_step_loses_no_row(
    function: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in step 2, which writes a row and saves the state, before either of these."""
    recipe = short(batch_size=80, save_every=2)

    def stop(*arguments: object) -> None:
        raise Enough

    def stop_in_step_2(step: train.Step) -> None:
        if step.number == 1:
            monkeypatch.setattr(f"ramnas_host.training.{function}", stop)

    with pytest.raises(Enough):
        train.train(SPACE, digits, recipe, folder=tmp_path, on_step=stop_in_step_2)
    monkeypatch.undo()
    train.train(SPACE, digits, recipe, folder=tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == ["1", "2", "3"]


def test_a_supernet_of_an_older_version_is_known_by_its_recipe(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its recipe lacks the keys that came later, which say nothing new at their defaults."""
    recipe = tmp_path / "short.yaml"
    recipe.write_bytes(msgspec.yaml.encode(short()))
    about = describe(digits, short())
    older = msgspec.json.decode(about.recipe)
    for key in ("accumulate", "ema", "random_subnets"):
        del older[key]
    about = msgspec.structs.replace(about, recipe=msgspec.json.encode(older).decode())
    checkpoint.save(tmp_path / "out" / train.LAST, Supernet(SPACE, 10), about)
    assert main.main(train_verb(recipe, tmp_path / "out")) == 0
    assert "already trained:" in capsys.readouterr().out
    recipe.write_bytes(msgspec.yaml.encode(short(ema=0.9)))
    assert main.main(train_verb(recipe, tmp_path / "out")) == 2


def test_the_progress_line_names_the_split_and_a_long_wait_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {train.N: 500, "top1_min": 0.952, "top1_max": 0.98, "top1_random": 0.9655}
    shares = [0.0] * 5 + [0.6] * 10
    lines: list[str] = []

    @contextlib.contextmanager
    def bar(title: str, total: int, **options: object) -> Iterator[Callable[..., None]]:
        yield lambda done, text, facts: lines.append(text)

    def fake(*arguments: object, on_step: Callable[[train.Step], None], **options: object) -> None:
        for number, share in enumerate(shares, start=1):
            found = scores if number in (3, len(shares)) else None
            on_step(train.Step(number, len(shares), 1, (2.5, 0.25), 640.0, 0.1, share, found))

    monkeypatch.setattr("ramnas_host.cli.progress.bar", bar)
    monkeypatch.setattr(train, "train", fake)
    assert main.main(["train", "--out", str(tmp_path / "out")]) == 0
    known = (
        "selection split, n 500: top-1 min 95.2 % (93.0 to 96.8), max 98.0 % (96.4 to 98.9), "
        "random 96.5 % (94.6 to 97.8)"
    )
    assert lines[0] == "640 images/s, losses 2.50 0.25"
    assert lines[4] == f"640 images/s, losses 2.50 0.25, {known}"
    assert lines[-1] == (
        f"640 images/s, losses 2.50 0.25, 24% of the time waiting for images, {known}"
    )
    printed = capsys.readouterr().out
    assert (
        "last weights, max: top1 98.0 % (selection split, n 500, 95 % interval 96.4 to 98.9 %)"
    ) in printed


class Trained(NamedTuple):
    """A finished training: its folder, its recipe and the steps that `on_step` was given."""

    folder: Path
    recipe: Recipe
    steps: list[train.Step]


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    recipe = short(epochs=2, batch_size=16, save_every=4, evaluate_every=1)
    steps: list[train.Step] = []
    train.train(SPACE, digits, recipe, folder=folder, on_step=steps.append)
    return Trained(folder, recipe, steps)


def test_a_run_leaves_its_settings_metrics_last_and_best_weights(
    digits: Dataset, trained: Trained
) -> None:
    folder, recipe, steps = trained
    resolved = yaml.safe_load((folder / "run.yaml").read_text())
    assert msgspec.convert(resolved["recipe"], Recipe) == recipe
    assert resolved["space"]["name"] == "micro"
    assert resolved["steps"] == len(steps) == 30
    rows = read_metrics(folder)
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    assert [bool(row["top1_min"]) for row in rows] == [*[False] * 14, True] * 2
    for row, step in zip(rows, steps, strict=True):
        losses = [float(row[f"loss_{role}"]) for role in sandwich.ROLES]
        np.testing.assert_allclose(losses, step.losses, atol=1e-5)
    means = [
        (step.scores["top1_min"] + step.scores["top1_max"]) / 2 for step in steps if step.scores
    ]
    assert len(means) == 2
    best = checkpoint.load(folder / BEST).net
    low, high = true_scores(best, [SPACE.min(), SPACE.max()], digits, "selection")
    assert (low.top1 + high.top1) / 2 == max(means)
    assert list((folder / "tensorboard").glob("events.*"))


def test_without_recalibration_a_trained_subnet_guesses(trained: Trained, digits: Dataset) -> None:
    net = checkpoint.load(trained.folder / train.LAST).net
    for arch in (SPACE.min(), SPACE.max()):
        assert score(net.extract(arch), digits.report).top1 < 0.2
    assert (
        score(recalibrated_subnet(net, SPACE.max(), digits.calibration), digits.report).top1 > 0.4
    )


def test_the_state_of_another_training_is_refused(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Enough):
        train.train(SPACE, digits, short(save_every=1), folder=tmp_path, on_step=stop_after(1))
    with pytest.raises(DataError, match="another space, recipe, data set or version"):
        train.train(SPACE, digits, at_rate(0.3), folder=tmp_path)
    seen: list[train.Step] = []
    with pytest.raises(Enough):  # how often it saves may change
        train.train(
            SPACE, digits, short(save_every=7), folder=tmp_path, on_step=stop_after(2, seen)
        )
    assert [step.number for step in seen] == [2]
    (tmp_path / STATE).write_bytes(b"no tensors")
    with pytest.raises(DataError, match="is not a saved training of ramnas"):
        train.train(SPACE, digits, short(), folder=tmp_path)


def test_the_learning_rate_warms_up_and_falls_to_almost_0() -> None:
    rates = [optimizer.rate(step, 100, 10) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) > 0.97
    assert rates[-1] < 0.001


def test_only_the_weights_of_convolutions_and_linear_layers_decay() -> None:
    net = Supernet(SPACE, 10)
    decaying, others = optimizer.sgd(net, short()).param_groups
    assert decaying["weight_decay"] == 1e-4
    assert others["weight_decay"] == 0
    assert decaying["nesterov"]
    names = {id(p): key for key, p in net.named_parameters()}
    kept = {names[id(p)] for p in others["params"]}
    assert kept == {k for k in names.values() if k.endswith("bias") or ".bn." in k}


def test_the_last_gamma_of_every_block_starts_at_0() -> None:
    for key, value in Supernet(SPACE, 10).state_dict().items():
        if key.endswith("bn.weight"):
            assert bool(value.any()) != ("project" in key), key


def test_a_diverged_run_stops_and_names_step_archs_and_last_good_state(
    digits: Dataset, tmp_path: Path
) -> None:
    wild = at_rate(1e20, 1e20, batch_size=80, epochs=3, save_every=1)
    with pytest.raises(DataError, match=r"step \d+: the losses of max, .* nan.*lower") as raised:
        train.train(SPACE, digits, wild, folder=tmp_path)
    assert SPACE.max().id in str(raised.value)
    assert SPACE.min().id in str(raised.value)
    assert f"is in {tmp_path / STATE}" in str(raised.value)
    saved, _ = tensors.read(tmp_path / STATE)
    assert all(torch.isfinite(value).all() for value in saved.values())
    with pytest.raises(DataError, match="nothing was saved before"):
        train.train(SPACE, digits, wild)


def test_a_file_that_is_not_a_supernet_is_named(tmp_path: Path) -> None:
    for name, data in (("absent", None), ("text", b"no tensors"), ("empty", b"")):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name} is not a supernet"):
            checkpoint.load(path)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like ImageNet: 25 crops of two photographs in 5 classes, a broken file, an empty class."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for i in range(25):
        photograph = load_sample_images().images[i % 2]
        height, width = rng.integers(200, 420, 2)
        top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        part = root / ("train" if i < 11 else "val") / f"n{i % 5:08d}"
        part.mkdir(parents=True, exist_ok=True)
        crop = photograph[top : top + height, left : left + width, ::-1]
        cv2.imwrite(str(part / f"{i}.JPEG"), crop)
    (root / "train/n00000001/broken.JPEG").write_bytes(b"\xff\xd8\xff no JPEG")
    (root / "train/empty").mkdir()
    return root


def small_imagenet(path: Path, **changes: object) -> Path:
    """The recipe `imagenet` for a handful of images on a CPU, written to `path`."""
    content = yaml.safe_load(msgspec.yaml.encode(load_recipe("imagenet")))
    content.update(
        epochs=1, warm_up_epochs=0, evaluate_every=1, save_every=3, precision="fp32",
        random_subnets=0,
        images={"train": 0, "selection": 4, "calibration": 4}, **changes,
    )  # fmt: skip
    content["optimizer"]["lr"] = 0.02
    path.write_text(yaml.safe_dump(content))
    return path


def test_table1_trains_on_a_folder_like_imagenet(
    imagenet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The recipe `imagenet` with few images: 4 steps of 2, and one of the images is broken."""
    recipe = small_imagenet(tmp_path / "small.yaml", batch_size=2, max_broken=1)
    options = ("--space", "table1", "--data", imagenet, "--workers", "2")
    assert main.main(train_verb(recipe, tmp_path / "out", *options)) == 0
    rows = read_metrics(tmp_path / "out")
    assert len(rows) == 4
    assert rows[-1]["top5_max"]
    losses = [float(row["loss_max"]) for row in rows]
    assert np.isfinite(losses).all()
    assert caplog.text.count("broken image 1:") == 1
    text = "train: class folders without a picture, which are not classes: 1, such as empty"
    assert caplog.text.count(text) == 1
    loaded = checkpoint.load(tmp_path / "out/supernet.safetensors")
    assert loaded.about.preprocessing.crop == 224


def test_more_broken_images_than_the_recipe_allows_stop_training(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_imagenet(tmp_path / "strict.yaml", batch_size=4, max_broken=0)
    command = train_verb(recipe, tmp_path / "out", "--data", imagenet, "--workers", "2")
    assert main.main(command) == 2
    error = capsys.readouterr().err
    assert "more broken images than max_broken 0 allows: 1, such as" in error
    assert "broken.JPEG" in error


def test_training_with_compiled_networks_gives_the_same_losses(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Max and min are captured as whole graphs. Compiling these to machine code would take minutes
    on a CPU, so the graphs are run as they were captured."""
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True)
    captured: list[object] = []
    seen: dict[bool, list[train.Step]] = {False: [], True: []}

    def compiled(function: object, **options: object) -> object:
        captured.append(function)
        return whole(function, **options)

    monkeypatch.setattr(torch, "compile", compiled)
    for wanted, steps in seen.items():
        with pytest.raises(Enough):
            train.train(SPACE, digits, short(compile=wanted), on_step=stop_after(2, steps))
    assert len(captured) == 2
    for plain, fast in zip(seen[False], seen[True], strict=True):
        np.testing.assert_allclose(plain.losses, fast.losses, rtol=1e-4)


@pytest.mark.gpu
def test_a_gpu_trains_in_half_precision_with_compiled_networks(digits: Dataset) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    every = msgspec.structs.replace(
        short().augment, flip=0.5, brightness=0.3, noise=0.05, mask=0.2, policy="randaugment"
    )
    for precision in ("tf32", "bf16", "fp16"):
        seen: list[train.Step] = []
        how = short(
            compile=True, precision=precision, augment=every, accumulate=2, ema=0.9, batch_size=32
        )
        with pytest.raises(Enough):
            train.train(
                SPACE, digits, how,
                ranks=Ranks(device=torch.device("cuda")), on_step=stop_after(3, seen),
            )  # fmt: skip
        assert all(np.isfinite(step.losses).all() for step in seen)
