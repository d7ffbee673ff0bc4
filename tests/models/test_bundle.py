from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    MANIFEST,
    Accuracy,
    Bundle,
    Cost,
    Manifest,
    Model,
    Preprocessing,
    open_bundle,
    write_bundle,
)  # fmt: skip
from ramnas_models.errors import BundleError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space


def a_bundle(path: Path) -> Bundle:
    space = load_space("micro")
    models, files = [], {}
    for arch, value in ((space.min(), 0.9), (space.max(), 0.99)):
        layout = plan(space, arch, num_classes=2)
        file = f"models/{arch.id}.onnx"
        files[file] = onnx_graph.build(layout, image_input=True).SerializeToString()
        cost = Cost(layout.macs, layout.macs_bn, layout.params)
        accuracy = Accuracy("top1", value, "validation")
        models.append(Model(arch.id, arch, file, "", layout.input_hw, accuracy, cost, ()))
    manifest = Manifest(
        FORMAT, "classification", ("no", "yes"), space.name, space.hash,
        Preprocessing(Normalisation()), "CC0-1.0", "test", tuple(models),
    )  # fmt: skip
    return write_bundle(path, manifest, files)


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    written = a_bundle(tmp_path / "bundle")
    read = open_bundle(tmp_path / "bundle")
    assert read == written
    assert [m.accuracy.value for m in read.manifest.models] == [0.9, 0.99]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_may_move(tmp_path: Path) -> None:
    a_bundle(tmp_path / "bundle")
    (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    bundle = open_bundle(tmp_path / "elsewhere")
    assert bundle.read_model(bundle.manifest.models[0])


def test_a_changed_or_missing_model_is_named(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / bundle.manifest.models[1].file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=f"{file.name}: sha256 is .* fetch the bundle again"):
        open_bundle(tmp_path / "bundle")
    file.unlink()
    with pytest.raises(BundleError, match=f"{file.name}: cannot be read"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "models/../../outside.onnx"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    a_bundle(tmp_path / "bundle")
    (tmp_path / "outside.onnx").write_bytes(b"x")
    file = tmp_path / "bundle" / MANIFEST
    content = json.loads(file.read_text())
    content["models"][0]["file"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(tmp_path / "bundle")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / bundle.manifest.models[0].file
    file.rename(tmp_path / "outside.onnx")
    file.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99, this ramnas reads 1"),
        ({"models": []}, "names no model"),
        ({"classes": "ab"}, "Expected `array`, got `str` - at `\\$.classes`"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    a_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "bundle")


def test_no_manifest_or_half_of_one_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 1,')
    with pytest.raises(BundleError, match="truncated"):
        open_bundle(tmp_path)


def test_a_failed_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    old = a_bundle(tmp_path / "bundle")
    bad = msgspec.structs.replace(
        old.manifest,
        models=(msgspec.structs.replace(old.manifest.models[0], file="../x.onnx"),),
    )
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "bundle", bad, {"../x.onnx": b""})
    assert open_bundle(tmp_path / "bundle") == old
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
