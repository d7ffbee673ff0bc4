"""Import and export at the command line: checkpoint -> supernet -> bundle -> runtime."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_sample_images

from ramnas_edge.cli import main as edge
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.preprocessing import read_image
from ramnas_edge.vision.sources import list_images
from ramnas_host.data.about import About
from ramnas_host.data.labelled_folder import load_folder
from ramnas_host.search.front import arch_of
from ramnas_host.training import checkpoint
from ramnas_host.training.evaluate import recalibrated_subnet
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.named import ALPHANET, find_arch
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.host.cli.commands import ramnas, refused
from tests.models.attentivenas_source import random_state


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the public code writes it, with random weights."""
    path = tmp_path_factory.mktemp("source") / "attentive_nas.pth.tar"
    torch.save({"state_dict": random_state(), "epoch": 360}, path)
    return path


@pytest.fixture(scope="module")
def weights(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights") / "supernet.safetensors"
    ran = ramnas("import", "attentivenas", source, "-o", out)
    assert ran.returncode == 0, ran.stderr
    assert "licence of the weights: CC-BY-NC-4.0" in ran.stdout
    assert re.search(r"^661 tensors imported, \d+ that no network uses left out", ran.stdout)
    assert len(ran.stdout.splitlines()) == 3
    return out


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of scikit-learn's two real photographs, in folders named after made-up labels."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(24):
        photograph = load_sample_images().images[i % 2]
        top, left = rng.integers(0, 100, 2)
        target = folder / str(int(rng.integers(1000)))
        target.mkdir(exist_ok=True)
        crop = photograph[top : top + 300, left : left + int(rng.integers(250, 500)), ::-1]
        cv2.imwrite(str(target / f"{i}.png"), crop)
    return folder


@pytest.fixture(scope="module")
def exported(
    weights: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The bundle of A0, and what the command printed."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    ran = ramnas("export", "--weights", weights, "--arch", "A0", "--calibration", photographs,
                 "--test", photographs, "-o", out)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return out, ran.stdout


def test_licence_source_and_preprocessing_travel_into_the_manifest(
    exported: tuple[Path, str], photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, printed = exported
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["licence"] == "CC-BY-NC-4.0"
    assert "AttentiveNAS" in manifest["source"]
    (front,) = manifest["tasks"]
    (model,) = front["models"]
    how = model["preprocessing"]
    assert (how["resize_short"], how["crop"], how["interpolation"]) == (256, 224, "bicubic")
    assert how["normalisation"]["channels"] == "rgb"
    assert model["input_hw"] == [192, 192]
    (accuracy,) = model["accuracies"]
    assert accuracy["metric"] == "top1"
    assert accuracy["split"] == "report"
    assert accuracy["n"] == len(list(photographs.glob("*/*")))
    assert f"top1 {100 * accuracy['value']:.1f} % (report split, n {accuracy['n']}" in printed
    low, high = accuracy["interval"]
    assert low < high
    assert edge.main(["run", "--bundle", str(out), "--source", str(photographs)]) == 0
    assert "for non-commercial use only: CC-BY-NC-4.0" in caplog.text


def test_test_images_without_a_label_are_refused(
    weights: Path, photographs: Path, tmp_path: Path
) -> None:
    """They would count as wrong answers."""
    shutil.copytree(photographs, tmp_path / "test")
    image = next((tmp_path / "test").glob("*/*"))
    image.rename(tmp_path / "test" / image.name)
    ran = ramnas("export", "--weights", weights, "--arch", "A0", "--calibration", photographs,
                 "--test", tmp_path / "test", "-o", tmp_path / "bundle")  # fmt: skip
    refused(ran, "1 of the images in")
    assert not (tmp_path / "bundle").exists()


def test_the_edge_gives_what_torch_gives(
    exported: tuple[Path, str], weights: Path, photographs: Path
) -> None:
    """The same most likely class for every photograph."""
    loaded = checkpoint.load(weights)
    about = loaded.about
    images = load_folder(photographs, about.classes, about.preprocessing, 100)
    arch = find_arch(loaded.net.space, "A0")
    with torch.no_grad():
        expected = recalibrated_subnet(loaded.net, arch, images)(images.at(192)).argmax(1)
    with Runtime.open(exported[0], frame_hw=(300, 400)) as runtime:
        found = [runtime(read_image(str(p))).index for p in list_images(str(photographs))]
    assert found == expected.tolist()


def test_a_subfolder_is_the_class_of_its_name_or_else_of_its_position(tmp_path: Path) -> None:
    how = About((), *_how(), "", "").preprocessing
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / "d" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"d/{name}/{i}.png"), np.full((9, 9, 3), i, np.uint8))
    by_name = load_folder(tmp_path / "d", ("c", "b", "a", "x"), how, 10)
    assert by_name.labels.tolist() == [2, 1, 0]
    by_place = load_folder(tmp_path / "d", ("x", "y", "z"), how, 10)
    assert by_place.labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="3 subfolders, such as 'a'"):
        load_folder(tmp_path / "d", ("x", "y"), how, 10)
    assert len(load_folder(tmp_path / "d", ("x", "y", "z"), how, 2)) == 2
    assert load_folder(tmp_path / "d/a", ("x",), how, 2).labels.tolist() == [-1]


def _how() -> tuple[object]:
    from ramnas_models.bundle import Preprocessing
    from ramnas_models.onnx_graph import Normalisation

    return (Preprocessing(Normalisation()),)


def test_an_arch_is_found_by_name_id_or_file(tmp_path: Path) -> None:
    space = load_space("attentivenas")
    assert find_arch(space, "A0") == space.min() == find_arch(space, "min")
    assert find_arch(space, "max") == space.max()
    arch = space.sample(np.random.default_rng(0))
    assert find_arch(space, arch.id, [space.min(), arch]) == arch
    (tmp_path / "list.yaml").write_text(str(list(arch.integers)))
    assert find_arch(space, str(tmp_path / "list.yaml")) == arch
    import msgspec
    import yaml

    (tmp_path / "dict.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(arch)))
    assert find_arch(space, str(tmp_path / "dict.yaml")) == arch
    (tmp_path / "bad.yaml").write_text(str([200, *arch.integers[1:]]))
    with pytest.raises(SpaceError, match="resolution is 200, not one of"):
        find_arch(space, str(tmp_path / "bad.yaml"))
    with pytest.raises(SpaceError, match="unknown arch 'A9': give A0, A1"):
        find_arch(space, "A9")
    with pytest.raises(SpaceError, match="cannot read arch"):
        find_arch(space, str(tmp_path / "absent.yaml"))


def test_a_bad_checkpoint_is_refused_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    state = torch.load(source)["state_dict"]
    for key in [key for key in state if "blocks.3." in key][:7]:
        del state[key]
    bad, out = tmp_path / "bad.pth", tmp_path / "supernet.safetensors"
    torch.save({"state_dict": state}, bad)
    refused(ramnas("import", "attentivenas", bad, "-o", out), "blocks.3.")
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    ran = ramnas("import", "attentivenas", source, "--classes", names, "-o", out)
    refused(ran, "has 2 names, but the checkpoint has 1000 classes")
    assert not out.exists()


def test_weights_of_alphanet_say_so_and_have_its_a5(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "supernet.safetensors"
    ran = ramnas("import", "alphanet", source, "-v", "-o", out)
    assert ran.returncode == 0, ran.stderr
    left_out = int(re.search(r"(\d+) that no network uses", ran.stdout)[1])
    assert ran.stdout.count("  left out ") == left_out > 0
    loaded = checkpoint.load(out)
    assert loaded.about.source == ALPHANET
    found = arch_of(loaded.net.space, "A5_1", None, loaded.about.source)
    assert found.resolution == 288


def test_the_supernet_of_a_checkpoint_reads_back(weights: Path) -> None:
    loaded = checkpoint.load(weights)
    assert isinstance(loaded.net, Supernet)
    assert loaded.net.space == load_space("attentivenas")
    assert loaded.about.licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    "argv",
    [
        ["export", "--weights", "w", "--arch", "min", "--calibration", "c"],
        ["bundle", "--front", "f.json", "--supernet", "s.safetensors"],
        ["bundle", "--finetuned", "run"],
    ],
)
def test_a_folder_of_somebody_else_is_refused_before_anything_is_read(
    argv: list[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    ran = ramnas(*argv, "--out", tmp_path / "thesis")
    refused(ran, "thesis holds chapter.tex, which would be deleted")
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years of work"
