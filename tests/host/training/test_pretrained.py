"""A training that starts with given weights: what it takes from them, and what stays frozen."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_host.cli import main
from ramnas_host.config import Recipe, load_recipe
from ramnas_host.data.about import About
from ramnas_host.data.datasets import dataset_of, load_dataset, recipe_of
from ramnas_host.data.images import Dataset
from ramnas_host.training import checkpoint, pretrained, tensors, train
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.run_folder import STATE
from ramnas_models.bundle import Preprocessing, open_bundle
from ramnas_models.errors import DataError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import part_of
from ramnas_models.space import Space, load_space, read_space
from ramnas_models.supernet import Supernet
from tests.saved_memory import saved_memory

HOW = Preprocessing(Normalisation((0.5,) * 3, (0.5,) * 3, "rgb"), "bicubic", margin=4)
SPACE = """\
name: small
source: a test
granularity: block
shortcut: identity
padding: same
bn_eps: 0.001
resolutions: [24, 32]
stem: {widths: [8], kernel: 3, stride: 2, act: relu6}
stages:
  - {widths: [8], depths: [1], kernels: [3], expands: [1], stride: 1, se: false, act: relu6}
  - {widths: [16], depths: [1, 2], kernels: [3, 5], expands: [2, 3],
     stride: 2, se: true,
     act: relu6}
  - {widths: [24], depths: [1, 2], kernels: [3], expands: [2, 3], stride: 2, se: false, act: relu6}
head: {widths: [32], act: relu6}
"""  # fmt: skip
PARTS = ("stem", "stage1", "stage2", "stage3")


def space_of(folder: Path, *changes: tuple[str, str]) -> Path:
    text = SPACE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"space{len(list(folder.glob('space*')))}.yaml"
    path.write_text(text)
    return path


def weights(space: Space, classes: tuple[str, ...], seed: int = 5) -> Checkpoint:
    """Weights that somebody published, of whom every tensor differs from a new network's."""
    torch.manual_seed(seed)
    net = Supernet(space, len(classes))
    with torch.no_grad():
        for key, value in net.state_dict().items():
            noise = torch.rand_like(value) if "running_var" in key else torch.randn_like(value)
            value += 0.1 * noise
    return Checkpoint(net, About(classes, HOW, "Apache-2.0", "somebody", published_statistics=True))


def pictures(root: Path, classes: tuple[str, ...] = ("ant", "bee"), train: int = 24) -> Path:
    """Pictures of several sizes in which each class has its own colour."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", 8)):
        for place, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 120, (30 + i, 44, 3)).astype(np.uint8)
                image[..., place % 3] += 100
                cv2.imwrite(str(root / part / name / f"{i:03}.png"), image)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return load_space(str(space_of(tmp_path_factory.mktemp("space"))))


@pytest.fixture(scope="module")
def init(space: Space) -> Checkpoint:
    return weights(space, ("sky", "sea", "rock"))


@pytest.fixture
def file(init: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, init.net, init.about)
    return path


def short(**changes: object) -> Recipe:
    """Three steps in an epoch of `pictures`, of which there are two."""
    recipe = load_recipe("pretrained")
    return msgspec.structs.replace(
        recipe, **{"epochs": 2, "batch_size": 16, "random_subnets": 0, "save_every": 1,
                   "evaluate_every": 2, **changes},
    )  # fmt: skip


def same(one: Supernet, other: Supernet) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def read(data: Path, recipe: Recipe) -> Dataset:
    return load_dataset(recipe.dataset, recipe.images, data, HOW)


def verb(file: Path, data: Path, out: Path, *options: object) -> int:
    argv = ["train", "--init", file, "--data", data, "--out", out, "--workers", "0",
            "--device", "cpu", "--batch-size", "16", "--epochs", "1", *options]  # fmt: skip
    return main.main(list(map(str, argv)))


# --- what is taken from the weights ---


def test_at_step_0_the_max_net_has_the_features_of_the_weights(
    init: Checkpoint, space: Space
) -> None:
    net = pretrained.supernet(space, ("ant", "bee"), init)
    x = torch.rand(8, 3, 32, 32)
    plan, theirs = net.plan(space.max()), init.net.plan(space.max())
    places = range(len(plan.blocks))
    for mode in (True, False):  # the statistics of the batch, and those of the weights
        ours, published = net.train(mode), init.net.train(mode)
        for one, other in zip(
            ours.features(x, plan, places), published.features(x, theirs, places)
        ):
            assert torch.equal(one, other)
    init.net.eval()


def test_the_classifier_is_new_unless_the_classes_are_the_same(
    init: Checkpoint, space: Space
) -> None:
    renamed = pretrained.supernet(space, ("sea", "sky", "rock"), init)
    assert renamed.state_dict()["classifier.weight"].std() < 0.02
    assert not renamed.state_dict()["classifier.bias"].any()
    whole = pretrained.supernet(space, init.about.classes, init)
    assert same(whole, init.net)
    assert not whole.published_statistics  # they would be void after the first step
    assert pretrained.supernet(space, ("ant", "bee"), init).num_classes == 2


def test_the_weights_bring_their_space_preprocessing_licence_and_source(
    file: Path, init: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(file, data, tmp_path / "run") == 0
    found = checkpoint.load(tmp_path / "run" / train.LAST)
    about = found.about
    assert found.net.space == init.net.space
    assert about.classes == ("ant", "bee")
    assert about.preprocessing == HOW
    assert about.licence == "Apache-2.0 (weights); as that of the images (data)"
    assert about.source == f"somebody (weights); images of {data.name} (data)"
    assert not about.published_statistics
    assert about.init == pretrained.digest(init)
    assert (about.dataset, recipe_of(about).augment.size) == ("folder", 32)
    assert dataset_of(about, data).report.preprocessing == HOW

    assert verb(file, data, tmp_path / "run") == 0
    assert "already trained" in capsys.readouterr().out
    other = weights(init.net.space, init.about.classes, seed=6)
    checkpoint.save(file, other.net, other.about)
    assert verb(file, data, tmp_path / "run") == 2
    assert "with another --init" in capsys.readouterr().err


def test_a_space_of_ones_own_may_have_other_resolutions_and_fewer_choices(
    init: Checkpoint, tmp_path: Path
) -> None:
    own = space_of(tmp_path, ("[24, 32]", "[16, 40]"), ("depths: [1, 2]", "depths: [2]"))
    found = load_space(str(own))
    assert found.hash != init.net.space.hash
    net = pretrained.supernet(found, ("ant", "bee"), init)
    assert torch.equal(net.state_dict()["stem.weight"], init.net.state_dict()["stem.weight"])


@settings(max_examples=40)
@given(st.data())
def test_a_space_with_fewer_choices_is_taken_if_it_keeps_the_largest_of_each(
    data: st.DataObject,
) -> None:
    whole = yaml.safe_load(SPACE)
    init = weights(read_space(whole, "whole"), ("sky", "sea"))
    fewer, kept = copy.deepcopy(whole), True
    for stage in fewer["stages"]:
        for key in ("depths", "kernels", "expands"):
            choices = stage[key]
            some = data.draw(st.lists(st.sampled_from(choices), min_size=1, unique=True))
            kept = kept and max(choices) in some
            stage[key] = sorted(some)
    space = read_space(fewer, "fewer")
    if kept:
        pretrained.check_space(space, init)
        net = pretrained.supernet(space, init.about.classes, init)
        assert same(net, init.net)
    else:
        with pytest.raises(DataError, match="space small cannot take these weights: its tensor"):
            pretrained.check_space(space, init)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{widths: [24]", "{widths: [16]",
         "its tensor stages.2.0.project.weight is 16x48x1x1, and that of the weights (space small) "
         "is 24x48x1x1"),
        ("kernels: [3, 5]", "kernels: [3]", "stages.1.0.depthwise.weight is 24x1x3x3"),
        ("se: true", "se: false", "stages.1.0.se.reduce.weight is missing"),
        ("[24], depths: [1, 2]", "[24], depths: [1, 3]", "space small) is missing"),
    ],
)  # fmt: skip
def test_a_space_with_another_tensor_is_refused_by_its_name(
    old: str, new: str, message: str, file: Path, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = space_of(tmp_path, (old, new))
    assert verb(file, data, tmp_path / "run", "--space", own) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_activation_has_no_tensor_and_is_said(
    init: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained.warn_of_other_layers(init.net.space, init)
    assert not caplog.messages
    own = load_space(
        str(space_of(tmp_path, ("stride: 2, act: relu6}\nstages", "stride: 2, act: relu}\nstages")))
    )
    pretrained.warn_of_other_layers(own, init)
    (message,) = caplog.messages
    assert "has act relu in layer stem, where the weights were trained with relu6" in message


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a pickle"])
def test_a_file_that_holds_no_supernet_is_refused(
    content: bytes | None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lite0.pth"
    if content is not None:
        path.write_bytes(content)
    assert verb(path, data, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {path} is not a supernet of ramnas: ")
    assert line.endswith("; give a file that ramnas import or ramnas train wrote")
    assert not (tmp_path / "run").exists()


class Enough(Exception):
    """Ends a training from its `on_step`."""


def stop_after(number: int, step: train.Step) -> None:
    if step.number == number:
        raise Enough


def test_a_stopped_training_goes_on_to_the_same_weights_and_refuses_another_start(
    init: Checkpoint, space: Space, data: Path, tmp_path: Path
) -> None:
    recipe = short(freeze="stage1", ema=0.9, accumulate=2)
    dataset = read(data, recipe)
    whole = train.train(space, dataset, recipe, init=init, folder=tmp_path / "whole")
    halves = tmp_path / "halves"
    with pytest.raises(Enough):
        train.train(
            space, dataset, recipe, init=init, folder=halves,
            on_step=functools.partial(stop_after, 3),
        )  # fmt: skip
    for other in (None, weights(space, init.about.classes, seed=6)):
        with pytest.raises(DataError, match="another space, recipe, data set"):
            train.train(space, dataset, recipe, init=other, folder=halves)
    again = train.train(space, dataset, recipe, init=init, folder=halves)
    assert same(whole, again)
    assert not (halves / STATE).exists()


def test_every_verb_takes_a_supernet_that_was_continued_on_a_folder(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The splits are those of the training, and a bundle's models crop as the weights want it."""
    assert verb(file, data, tmp_path / "run") == 0
    supernet = ["--supernet", tmp_path / "run" / train.LAST, "--data", data, "--device", "cpu"]
    few = {"accuracy-samples": 20, "population": 20, "parents": 10, "generations": 2,
           "infill-rounds": 1, "candidates": 2}  # fmt: skip
    small = [word for name, count in few.items() for word in (f"--{name}", count)]
    front, verified, bundle = (tmp_path / name for name in ("front.json", "v.json", "bundle"))
    for argv in (
        ["evaluate", *supernet, "--random", 2],
        ["search", *supernet, *small, "--objectives", "top1,macs", "--out", front],
        ["verify", *supernet, "--front", front, "--store", tmp_path / "s.sqlite",
         "--out", verified],
        ["bundle", *supernet, "--front", verified, "--out", bundle],
        ["finetune", "--task", "classification", *supernet, "--arch", "min", "--epochs", "1",
         "--batch-size", "16", "--workers", "0", "--out", tmp_path / "tuned"],
    ):  # fmt: skip
        assert main.main(list(map(str, argv))) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "(report split, n 8, " in printed
    for model in open_bundle(bundle).front("classification").models:
        side = model.input_hw[0]
        assert model.preprocessing == HOW.at(side)
        assert (model.preprocessing.resize_short, model.preprocessing.crop) == (side + 4, side)


# --- frozen parts ---


@pytest.mark.parametrize("part", PARTS)
def test_frozen_parts_are_the_same_to_the_bit_after_training(
    part: str, init: Checkpoint, space: Space, data: Path
) -> None:
    recipe = short(freeze=part, ema=0.9, epochs=1)
    net = train.train(space, read(data, recipe), recipe, init=init)
    kept = PARTS[: PARTS.index(part) + 1]
    before = init.net.state_dict()
    for key, parameter in net.named_parameters():
        if part_of(key) in kept:
            assert torch.equal(parameter, before[key]), key
            assert parameter.grad is None
        elif parameter.ndim > 1 and not key.startswith("classifier."):
            assert not torch.equal(parameter, before[key]), key


@settings(max_examples=20)
@given(st.sampled_from(PARTS), st.integers(0, 2**16), st.booleans())
def test_what_is_frozen_is_the_beginning_of_every_slice(part: str, seed: int, wide: bool) -> None:
    """So no slice has a trained layer before a frozen one, and no graph reaches a frozen one."""
    space = load_space("lite2" if wide else "micro")
    net = pretrained.supernet(space, ("ant", "bee"), None)
    pretrained.freeze(net, part)
    trained = [
        any(p.requires_grad for p in net._layers[layer.key].parameters())
        for layer in net.plan(space.sample(np.random.default_rng(seed))).layers()
    ]
    assert trained == sorted(trained)
    assert trained[-1]
    assert not trained[0]


def test_no_graph_is_kept_for_frozen_parts(init: Checkpoint, space: Space) -> None:
    x, most = torch.rand(16, 3, 32, 32), []
    for part in (None, *PARTS):
        net = pretrained.supernet(space, ("ant", "bee"), init).train()
        if part:
            pretrained.freeze(net, part)
        with saved_memory() as memory:
            loss = net(x, space.max()).sum()
            most.append(memory.most)
            loss.backward()
    assert most == sorted(most, reverse=True)
    assert len(set(most)) == len(most)
    assert most[-1] < most[0] / 5


def test_the_state_of_a_frozen_run_has_no_momentum_of_what_is_frozen(
    init: Checkpoint, space: Space, data: Path, tmp_path: Path
) -> None:
    recipe = short(freeze="stage2")
    with pytest.raises(Enough):
        train.train(
            space, read(data, recipe), recipe, init=init, folder=tmp_path,
            on_step=functools.partial(stop_after, 2),
        )  # fmt: skip
    saved, _ = tensors.read(tmp_path / STATE)
    with_momentum = {part_of(k[9:]) for k in saved if k.startswith("momentum.")}
    assert with_momentum == {"stage3", "head"}


@pytest.mark.parametrize("part", ["stage0", "stage4", "head", "Stage1", "", "3"])
def test_an_unknown_part_is_answered_with_the_known_ones(
    part: str, file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(file, data, tmp_path / "run", f"--freeze={part}") == 2
    expected = f"cannot freeze '{part}': the parts of space small are {', '.join(PARTS)}"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_freezing_random_weights_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tmp_path / "short.yaml"
    images = "{train: 32, selection: 20, calibration: 10}"
    recipe.write_text(f"base: digits-small\nimages: {images}\nepochs: 2\nbatch_size: 32\n")
    argv = ["train", "--recipe", recipe, "--freeze", "stem", "--out", tmp_path / "run"]
    assert main.main(list(map(str, argv))) == 0
    assert "without --init the weights up to stem stay random" in caplog.text
