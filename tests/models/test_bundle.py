from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_models import ready
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import (
    MANIFEST,
    Bundle,
    Preprocessing,
    TaskFront,
    open_bundle,
    unique_names,
    write_bundle,
)
from ramnas_models.errors import BundleError, FileError
from ramnas_models.onnx_graph import Normalisation
from tests.models.bundles import ACCURACIES, WHOLE, classifiers, heads, joined, written

SHARP = Preprocessing(Normalisation(), "bicubic")


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
        ({"format": 1}, "has format 1, and this ramnas reads 2, 3 and 4; write the bundle again"),
        ({"tasks": []}, "names no model"),
        ({"licence": 1}, "Expected `str`, got `int` - at `\\$.licence`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"format": 5}, "has format 5, and this ramnas reads 2, 3 and 4; .* install the version"),
        ({"format": "4"}, "Expected `int`, got `str` - at `\\$.format`; fetch or write the bundle"),
        ({"spaces": {}}, "comes from space 'micro', which is not among the spaces"),
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
        ({"task": "detection"}, "model .* of task detection has no anchors"),
        ({"models": []}, "names no model"),
        ({"classes": "ab"}, "Expected `array`, got `str`"),
        ({"classes": []}, "task classification names no class"),
        ({"task": "segmentation", "crop": 224}, "boxes and masks must cover the whole frame"),
        ({"twice": True}, "task classification has two models with the same name"),
        ({"input_hw": [0, 24]}, "model .* of task classification has an input of 0x24 pixels"),
        ({"name": ""}, "task classification has a model with the name ''"),
        ({"name": "a\nb"}, r"task classification has a model with the name 'a\\nb'"),
    ],
)
def test_a_bad_front_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / MANIFEST
    content = json.loads(file.read_text())
    front = content["tasks"][0]
    first = front["models"][0]
    first["preprocessing"]["crop"] = change.pop("crop", None)
    first.update({key: change.pop(key) for key in ("input_hw", "name") if key in change})
    if change.pop("twice", False):
        front["models"].append(first)
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
    with pytest.raises(BundleError, match="truncated; fetch or write the bundle again"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"\x80\x81", "invalid"),
        ("{}".encode("utf-16"), "invalid character"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `format`"),
        (b'{"format": 3}', "missing required field `space`"),
        (b'{"format": 4}', "missing required field `spaces`"),
        (b'{"x":' * 100_000, "recursion"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=reason) as refused:
        open_bundle(tmp_path)
    assert str(tmp_path / MANIFEST) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_manifest_that_an_editor_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / MANIFEST
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert open_bundle(tmp_path / "bundle") == bundle


def test_an_archive_is_to_be_unpacked_and_a_bundle_inside_a_folder_is_pointed_at(
    tmp_path: Path,
) -> None:
    new_bundle(tmp_path / "unpacked/bundle")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "unpacked")
    for file in (archive, tmp_path / "unpacked/bundle" / MANIFEST):
        with pytest.raises(BundleError, match=f"{file} is a file, .* unpack it if it is an arch"):
            open_bundle(file)
    with pytest.raises(BundleError, match=r"name .*unpacked/bundle if that is the bundle"):
        open_bundle(tmp_path / "unpacked")


def test_a_pointer_of_git_lfs_in_place_of_a_model_is_named(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / bundle.front().models[0].file
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(BundleError, match=f"{file} is only a pointer of Git LFS.*git lfs pull"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["models/\0.onnx", "loop", "", ".", "models", "x" * 5000])
def test_a_name_that_is_no_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    new_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/loop").symlink_to("loop")
    changed(tmp_path / "bundle", file=name)
    with pytest.raises(BundleError) as refused:
        open_bundle(tmp_path / "bundle")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"interpolation": "nearest"}, "has an unknown interpolation 'nearest'"),
        ({"crop": 0}, "resizes to None and crops to 0 pixels"),
        ({"resize_short": -1}, "resizes to -1 and crops to None pixels"),
    ],
)
def test_preprocessing_that_cannot_be_done_is_refused(
    tmp_path: Path, how: dict[str, object], message: str
) -> None:
    new_bundle(tmp_path / "bundle")
    changed(tmp_path / "bundle", preprocessing={"normalisation": {}, **how})
    with pytest.raises(BundleError, match=f"model .* of task classification {message}"):
        open_bundle(tmp_path / "bundle")


def test_a_model_has_the_numbers_of_its_own_input_and_no_margin(tmp_path: Path) -> None:
    of_weights = Preprocessing(Normalisation(), "bicubic", margin=32)
    for side in (24, 224, 260):
        own = Preprocessing(Normalisation(), "bicubic", resize_short=side + 32, crop=side)
        assert of_weights.at(side) == own == own.at(99)
    bundle = new_bundle(tmp_path / "bundle")
    assert "margin" not in (bundle.path / MANIFEST).read_text()  # unknown to earlier versions
    changed(bundle.path, preprocessing=msgspec.to_builtins(of_weights))
    with pytest.raises(BundleError, match="a margin in its preprocessing, which is for weights"):
        open_bundle(bundle.path)


def test_published_and_measured_accuracies_do_not_order_one_front(tmp_path: Path) -> None:
    """They are of different pictures. Beside the one that orders, both may be there."""
    bundle = new_bundle(tmp_path / "bundle")
    measured = Accuracy("top1", 0.9, "selection", 10, (0.6, 1.0))
    published = Accuracy("top1", 0.75, "ImageNet val", source="others")
    changed(bundle.path, accuracies=msgspec.to_builtins((measured, published)))
    first = open_bundle(bundle.path).front().models[0]
    assert first.accuracy == first.reported == measured
    changed(bundle.path, accuracies=msgspec.to_builtins((published, measured)))
    with pytest.raises(BundleError, match="published beside models whose accuracy was measured"):
        open_bundle(bundle.path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), old=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_change_of_a_manifest_is_read_or_refused_in_one_line(
    some_bundle: Path, data: st.DataObject, old: bool
) -> None:
    content = json.loads((some_bundle / MANIFEST).read_text())
    if old:
        narrowed(content, 3)
    place = content
    while True:
        key = data.draw(st.sampled_from([*place] if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 5)) == 0:
            break
        place = inner
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(JSON)
    file = some_bundle / MANIFEST
    before = file.read_bytes()
    file.write_text(json.dumps(content))
    refusal = str(some_bundle)
    try:
        open_bundle(some_bundle)
    except BundleError as error:
        refusal = str(error)
    finally:
        file.write_bytes(before)
    assert len(refusal.splitlines()) == 1
    assert str(some_bundle) in refusal


@pytest.fixture(scope="module")
def some_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("some")
    return written(folder / "bundle", heads("detection")).path


def narrowed(content: dict[str, Any], old_format: int) -> None:
    """Change the content of a manifest whose models share a preprocessing to an old format."""
    content["format"], content["space"] = old_format, content.pop("spaces")["micro"]
    for task in content["tasks"]:
        for model in task["models"]:
            assert model.pop("name") == model["arch_id"]
            assert model.pop("space") == "micro"
            task["preprocessing"] = model.pop("preprocessing")


def changed(bundle: Path, **fields: object) -> None:
    """Change fields of the first model in the manifest."""
    content = json.loads((bundle / MANIFEST).read_text())
    content["tasks"][0]["models"][0].update(fields)
    (bundle / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize("old_format", [2, 3])
def test_a_bundle_of_an_older_format_is_widened(tmp_path: Path, old_format: int) -> None:
    front, files = heads("segmentation")
    front = msgspec.structs.replace(
        front, models=tuple(msgspec.structs.replace(m, preprocessing=SHARP) for m in front.models)
    )
    new = written(tmp_path / "bundle", (front, files))
    file = tmp_path / "bundle" / MANIFEST
    content = json.loads(file.read_text())
    narrowed(content, old_format)
    file.write_text(json.dumps(content))
    assert open_bundle(tmp_path / "bundle") == new
    content["tasks"][0]["models"][0]["extra"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="unknown field `extra`"):
        open_bundle(tmp_path / "bundle")


def test_the_bundle_that_ships_opens_and_serves_two_tasks() -> None:
    bundle = open_bundle(ready.path())
    for front in bundle.manifest.tasks:
        assert [model.name for model in front.models] == [m.arch_id for m in front.models]
        assert {model.space for model in front.models} == {"micro"} == {*bundle.manifest.spaces}
        assert all(m.preprocessing.normalisation.mean == (0.3, 0.3, 0.3) for m in front.models)


def test_the_same_arch_twice_two_spaces_and_two_preprocessings_are_kept(tmp_path: Path) -> None:
    small = heads("detection", (64, 96), name=lambda arch_id: f"{arch_id}-64x96")
    large = heads("detection", (96, 128), name=lambda arch_id: f"{arch_id}-96x128")
    other = heads("detection", (64, 96), "ofa_mbv3")
    front, files = joined(small, large, other)
    first = msgspec.structs.replace(front.models[0], preprocessing=SHARP)
    front = msgspec.structs.replace(front, models=(first, *front.models[1:]))
    bundle = written(tmp_path / "bundle", (front, files))
    assert open_bundle(tmp_path / "bundle") == bundle
    models = bundle.front().models
    assert len({model.arch_id for model in models}) == 4
    assert len({model.name for model in models}) == len({m.sha256 for m in models}) == 6
    assert {*bundle.manifest.spaces} == {"micro", "ofa_mbv3"}
    assert {model.preprocessing for model in models} == {SHARP, WHOLE}


@given(st.lists(st.tuples(st.sampled_from(["ab", "cd", "ef"]), st.sampled_from([(1, 1), (2, 1)]))))
def test_names_are_unique_and_only_as_long_as_needed(
    networks: list[tuple[str, tuple[int, int]]],
) -> None:
    names = unique_names(networks)
    assert len(set(names)) == len(names) == len(networks)
    ids = [arch_id for arch_id, _ in networks]
    for name, arch_id in zip(names, ids):
        assert name.startswith(arch_id)
        assert ids.count(arch_id) > 1 or name == arch_id


def test_names_are_the_arch_id_and_what_tells_models_of_one_arch_apart() -> None:
    small, large = (224, 224), (320, 256)
    networks = [("a", small), ("b", small), ("a", large), ("b", small), ("c", small), ("a", large)]
    assert unique_names(networks) == [
        "a-224x224", "b", "a-320x256", "b-2", "c", "a-320x256-2",
    ]  # fmt: skip
    assert unique_names([]) == []


def test_a_folder_with_other_files_than_those_of_a_bundle_is_not_replaced(tmp_path: Path) -> None:
    new_bundle(tmp_path / "bundle")
    new_bundle(tmp_path / "bundle")  # an older bundle is
    note = tmp_path / "bundle/README.md"
    note.write_text("of the user")
    with pytest.raises(FileError, match=r"bundle holds README.md, which would be deleted"):
        new_bundle(tmp_path / "bundle")
    assert note.read_text() == "of the user"


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


def test_a_manifest_or_model_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    model = bundle.front().models[1].file
    for name in (MANIFEST, model):
        for kind in ("pipe", "device", "socket", "folder"):
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            shutil.copytree(tmp_path / "b", tmp_path / "c")
            file = tmp_path / "c" / name
            file.unlink()
            if kind == "pipe":
                os.mkfifo(file)
            elif kind == "device":
                file.symlink_to("/dev/zero")
            elif kind == "socket":
                here = os.getcwd()
                os.chdir(file.parent)  # the name of a socket must be short
                try:
                    with socket.socket(socket.AF_UNIX) as server:
                        server.bind(file.name)
                finally:
                    os.chdir(here)
            else:
                file.mkdir()
            reason = "Is a directory" if kind == "folder" else "a pipe, a socket or a device"
            if kind == "device" and name == model:
                reason = "lies outside the bundle"
            with pytest.raises(BundleError, match=f"{file.name}.*{reason}"):
                open_bundle(tmp_path / "c")


def test_a_folder_or_file_of_a_bundle_hints_at_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = new_bundle(tmp_path / "b")
    hint = f"; name {tmp_path}/b if that is the bundle"
    for name in ("models", MANIFEST, bundle.front().models[0].file):
        with pytest.raises(BundleError, match=f"{hint}$"):
            open_bundle(tmp_path / "b" / name)
    monkeypatch.chdir(tmp_path / "b/models")
    with pytest.raises(BundleError, match=f"{hint}$"):
        open_bundle(".")
    with pytest.raises(BundleError, match=f"{hint}$"):
        open_bundle(tmp_path)
    (tmp_path / "a/b/c").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"\(No such file or directory\)$"):
        open_bundle(tmp_path / "a/b/c")
