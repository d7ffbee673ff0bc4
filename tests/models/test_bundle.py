from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ramnas_models.bundle import MANIFEST, Bundle, TaskFront, open_bundle, write_bundle
from ramnas_models.errors import BundleError
from tests.models.bundles import ACCURACIES, classifiers, written


def new_bundle(path: Path) -> Bundle:
    return written(path, classifiers())


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    written = new_bundle(tmp_path / "bundle")
    read = open_bundle(tmp_path / "bundle")
    assert read == written
    accuracies = [m.accuracy for m in read.front().models]
    assert [a.value for a in accuracies if a] == [*ACCURACIES]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_can_be_moved(tmp_path: Path) -> None:
    new_bundle(tmp_path / "bundle")
    (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    bundle = open_bundle(tmp_path / "elsewhere")
    assert bundle.read_model(bundle.front().models[0])


def test_a_changed_or_missing_model_is_named(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / bundle.front().models[1].file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=f"{file.name} has sha256 .* fetch the bundle again"):
        open_bundle(tmp_path / "bundle")
    file.unlink()
    with pytest.raises(BundleError, match=f"{file.name} cannot be read"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "models/../../outside.onnx"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    new_bundle(tmp_path / "bundle")
    (tmp_path / "outside.onnx").write_bytes(b"x")
    file = tmp_path / "bundle" / MANIFEST
    content = json.loads(file.read_text())
    content["tasks"][0]["models"][0]["file"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(tmp_path / "bundle")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / bundle.front().models[0].file
    file.rename(tmp_path / "outside.onnx")
    file.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "has format 1, and this ramnas reads 2 and 3; write the bundle again"),
        ({"tasks": []}, "names no model"),
        ({"licence": 1}, "Expected `str`, got `int` - at `\\$.licence`"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "pose"}, "unknown task 'pose': known are classification, detection, segm"),
        ({"task": "detection"}, "task detection has a model without anchors"),
        ({"models": []}, "names no model"),
        ({"classes": "ab"}, "Expected `array`, got `str`"),
        ({"task": "segmentation", "crop": 224}, "boxes and masks must cover the whole frame"),
        ({"twice": True}, "task classification has two models with the same arch_id"),
    ],
)
def test_a_bad_front_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / MANIFEST
    content = json.loads(file.read_text())
    front = content["tasks"][0]
    front["preprocessing"]["crop"] = change.pop("crop", None)
    if change.pop("twice", False):
        front["models"].append(front["models"][0])
    content["tasks"] = [{**front, **change}]
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "bundle")


def test_a_task_appears_once_and_is_found_by_name(tmp_path: Path) -> None:
    front, files = classifiers()
    masks = msgspec.structs.replace(front, task="segmentation")
    bundle = written(tmp_path / "b", (front, files), (masks, files))
    assert bundle.front("segmentation").task == "segmentation"
    with pytest.raises(BundleError, match="several tasks: name one of classification, segm"):
        bundle.front()
    with pytest.raises(BundleError, match="no task 'detection'; it has classification, segm"):
        bundle.front("detection")
    with pytest.raises(BundleError, match="not be a valid bundle: task classification appears"):
        written(tmp_path / "c", (front, files), (front, files))
    assert not (tmp_path / "c").exists()


def test_a_folder_without_a_whole_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 1,')
    with pytest.raises(BundleError, match="truncated"):
        open_bundle(tmp_path)


def test_a_failed_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    old = new_bundle(tmp_path / "bundle")
    front: TaskFront = old.front()
    outside = msgspec.structs.replace(front.models[0], file="../x.onnx")
    bad = msgspec.structs.replace(
        old.manifest, tasks=(msgspec.structs.replace(front, models=(outside,)),)
    )
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "bundle", bad, {"../x.onnx": b""})
    assert open_bundle(tmp_path / "bundle") == old
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
