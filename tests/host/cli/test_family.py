"""`ramnas family`: published networks at several sizes, from weights to what a photograph shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_sample_images

from ramnas_edge.cli import main as edge
from ramnas_edge.runtime.runtime import Runtime
from ramnas_host.data.about import About
from ramnas_host.data.labelled_folder import load_folder
from ramnas_host.search import published_family
from ramnas_host.training import checkpoint
from ramnas_host.training.evaluate import Scores
from ramnas_models import imagenet
from ramnas_models.bundle import open_bundle
from ramnas_models.importers.efficientnet_lite import MODELS, PREPROCESSING
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.host.cli.commands import ramnas, refused
from tests.models.randomised import randomise


def saved(path: Path, model: str, **changes: object) -> Path:
    """Weights as `ramnas import efficientnet-lite` writes them, but random."""
    torch.manual_seed(0)
    net = Supernet(load_space(MODELS[model].space))
    randomise(net)
    facts: dict[str, object] = {
        "licence": "Apache-2.0",
        "source": f"Source of {model}",
        "published_statistics": True,
    }
    about = About(
        **{"classes": imagenet.names(), "preprocessing": PREPROCESSING, **facts, **changes}
    )
    checkpoint.save(path, net, about)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weights")
    return [saved(folder / f"{model}.safetensors", model) for model in MODELS]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real photographs as files with a synset, one in a folder of its class, one unlabelled."""
    folder = tmp_path_factory.mktemp("pictures")
    temple, flower = (np.ascontiguousarray(p[..., ::-1]) for p in load_sample_images().images)
    (folder / "more/tench").mkdir(parents=True)
    for name, picture in {
        "n01440764_tench.JPEG": temple,
        "n03788195_mosque.jpg": temple,
        "more/tench/1.png": flower,
        "unknown.png": flower,
    }.items():
        cv2.imwrite(str(folder / name), picture)
    return folder


@pytest.fixture(scope="module")
def published(weights: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("published") / "bundle"
    ran = ramnas("family", "--weights", *weights, "-o", out)
    assert ran.returncode == 0, ran.stderr
    return out, ran.stdout


def test_without_pictures_each_network_has_its_published_size_and_figures(
    published: tuple[Path, str], weights: list[Path]
) -> None:
    out, printed = published
    bundle = open_bundle(out)
    models = bundle.front().models
    assert [model.name for model in models] == ["lite0-224", "lite1-240", "lite2-260"]
    assert [model.space for model in models] == ["lite", "lite1", "lite2"]
    assert {*bundle.manifest.spaces} == {"lite", "lite1", "lite2"}
    assert [(a.value, a.precision) for model in models for a in model.accuracies] == [
        (0.751, "fp32"), (0.744, "int8"), (0.767, "fp32"), (0.759, "int8"), (0.776, "fp32"),
        (0.77, "int8"),
    ]  # fmt: skip
    for model, side in zip(models, (224, 240, 260), strict=True):
        assert model.input_hw == (side, side)
        how = model.preprocessing
        assert (how.resize_short, how.crop, how.interpolation) == (side + 32, side, "bicubic")
        assert model.accuracy is model.reported is model.accuracies[0]
        assert model.accuracy.source == "tensorflow/tpu"
        assert f"{model.accuracy}" in printed
        assert "published by" in str(model.accuracy)
    assert bundle.manifest.licence == "Apache-2.0"
    assert bundle.manifest.source == "Source of lite0; Source of lite1; Source of lite2"
    assert "a budget chooses by the published figures" in printed


def test_the_graph_computes_the_published_network_and_a_board_prepares_its_own_crop(
    published: tuple[Path, str], weights: list[Path], pictures: Path
) -> None:
    photograph = cv2.imread(str(pictures / "unknown.png"))
    with Runtime.open(published[0], frame_hw=photograph.shape[:2]) as runtime:
        found, name = runtime(photograph), runtime.model.name
    (network,) = published_family.load([str(file) for file in weights if file.stem in name])
    split = load_folder(pictures, imagenet.names(), PREPROCESSING, 10)
    index = [p.name for p in split.images.paths].index("unknown.png")
    with torch.no_grad():
        images = split.take(np.array([index])).at(network.side)
        logits = network.subnet(network.side)(images)[0]
    assert found.index == int(logits.argmax())
    assert found.score == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)


def test_a_board_calibrates_and_a_budget_picks_and_words_say_published(
    published: tuple[Path, str],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = str(shutil.copytree(published[0], tmp_path / "bundle"))
    argv = ["calibrate", "--bundle", bundle, "--engine", "onnxruntime-cpu", "--frame", "64x64"]
    assert edge.main([*argv, "--into-manifest"]) == 0
    printed = capsys.readouterr().out
    for name in ("lite0-224", "lite1-240", "lite2-260"):
        assert f"classification {name} (top1 " in printed
    assert printed.count("published by tensorflow/tpu") == 3
    argv = ["run", "--bundle", bundle, "--engine", "onnxruntime-cpu", "--source", str(pictures)]
    assert edge.main([*argv, "--latency-budget-ms", "100000", "--json"]) == 0
    *lines, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(lines) == 4
    assert all(line["labels"]["name"] in imagenet.names() for line in lines)
    assert summary["summary"]["model"] == "lite2-260"
    assert "published" in summary["summary"]["chosen"]


def test_with_pictures_every_size_is_measured_and_published_figures_stand_beside(
    weights: list[Path], pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "bundle"
    ran = ramnas("family", "--weights", *weights[:2], "--resolutions", 224, 64, 96, 64, "--data",
                 pictures, "-o", out)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    models = open_bundle(out).front().models
    assert [model.cost.macs for model in models] == sorted(model.cost.macs for model in models)
    assert sorted(model.name for model in models) == [
        "lite0-224", "lite0-64", "lite0-96", "lite1-224", "lite1-64", "lite1-96",
    ]  # fmt: skip
    assert len({model.arch_id for model in models}) == 2
    for model in models:
        first, *others = model.accuracies
        assert (first.split, first.n, first.source) == ("selection", 3, "")
        assert [a.value for a in others] == ([0.751, 0.744] if model.name == "lite0-224" else [])
        assert model.accuracy == model.reported == first
        assert str(first) in ran.stdout
        assert (
            model.preprocessing.crop == model.input_hw[0] == model.preprocessing.resize_short - 32
        )
    assert ran.stdout.count("top5 ") == 6
    assert "left out: 1 of 4 pictures without a label, such as" in caplog.text


def test_another_order_than_the_published_one_is_said(weights: list[Path]) -> None:
    members = published_family.members(published_family.load([str(w) for w in weights]), None)
    rising = [Scores(value, 1.0, 50) for value in (0.7, 0.8, 0.9)]
    assert published_family.reordered(members, rising) == ""
    tied = published_family.reordered(members, [rising[0]] * 3)  # a budget takes the smallest
    assert "the order is lite2-260 < lite1-240 < lite0-224, and as published" in tied
    sentence = published_family.reordered(members, rising[::-1])
    assert "by these 50 pictures the order is lite2-260 < lite1-240 < lite0-224" in sentence


def test_what_makes_no_family_is_refused_with_the_way_out(
    weights: list[Path], pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"

    def fails(message: str, *argv: object) -> None:
        refused(ramnas("family", *map(str, argv), "-o", str(out)), message)
        assert not out.exists()

    one = weights[0]
    fails("no accuracy was published at 192 pixels, only at 224 for lite0. Give --data DIR",
          "--weights", one, "--resolutions", 192, 224)  # fmt: skip
    fails("is lite0, which was named before", "--weights", one, one)
    fails("does not exist; give a file that ramnas import", "--weights", tmp_path / "absent")
    other = saved(tmp_path / "s", "lite0", published_statistics=False)
    fails("write such a bundle with ramnas search and ramnas bundle", "--weights", other)
    other = saved(tmp_path / "c", "lite1", classes=imagenet.names()[::-1])
    fails("has other classes than lite0", "--weights", one, other)
    fails("--images 5 is for the pictures of --data", "--weights", one, "--images", 5)
    empty = tmp_path / "unlabelled"
    empty.mkdir()
    shutil.copy(pictures / "unknown.png", empty)
    fails("none of the 1 pictures below", "--weights", one, "--data", empty)
    for part in ("train", "val"):
        shutil.copytree(pictures, tmp_path / "whole" / part)
    fails(f"give --data {tmp_path / 'whole/val'}", "--weights", one, "--data", tmp_path / "whole")
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused(ramnas("family", "--weights", tmp_path / "absent", "-o", out), str(out))
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
