"""What travels to a robot: a folder of `manifest.json` and `models/*.onnx`, verified on reading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterator, Mapping, Optional, Tuple, Union

import msgspec

from ramnas_models.anchors import Anchors
from ramnas_models.errors import BundleError
from ramnas_models.files import new_folder, write_file
from ramnas_models.head_plan import CLASSIFICATION, DETECTION, TASKS
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, Space

FORMAT = 2
MANIFEST = "manifest.json"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure between 0 and 1 with what it is: `top1`, `mAP50-95`, `mIoU`; split `test`."""

    metric: str
    value: float
    split: str


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch 1; `macs_bn` adds two operations a BatchNorm element to `macs`."""

    macs: int
    macs_bn: int
    params: int


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency of this very graph on one device class.

    `frame_hw`: whole calls on frames of that size, resize and decode included; None: the engine
    alone, host buffer in to outputs on the host. `p90_ms` is raw; `corrected_ms` is the median
    with the machine's drift taken out.
    """

    device_class: str
    engine: str
    precision: str
    threads: int
    batch: int
    frame_hw: Optional[Tuple[int, int]]
    p90_ms: float
    corrected_ms: float


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network of a front; `input_hw` in pixels, `file` relative to the bundle.

    `accuracies`: the first one orders the front; empty: not measured. `anchors`: of a detector.
    """

    arch_id: str
    arch: Arch
    file: str
    sha256: str
    input_hw: Tuple[int, int]
    accuracies: Tuple[Accuracy, ...]
    cost: Cost
    latency: Tuple[Latency, ...]
    anchors: Optional[Anchors] = None

    @property
    def accuracy(self) -> Optional[Accuracy]:
        return self.accuracies[0] if self.accuracies else None


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a frame becomes the graph's input; normalisation and channel order are in the graph.

    First, where given, the short side is scaled to `resize_short` pixels and the centre square of
    `crop` pixels is kept; then `interpolation` ("bilinear" or "bicubic") takes what there is to
    `input_hw`, aspect ratio not kept.
    """

    normalisation: Normalisation
    interpolation: str = "bilinear"
    resize_short: Optional[int] = None
    crop: Optional[int] = None


class TaskFront(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models of one task, fast to slow, and what they share.

    Classes are in the order of the outputs: class k is value k of a class map, and column k of the
    logits, of a detector k + 1 (column 0 is the background).
    """

    task: str
    classes: Tuple[str, ...]
    preprocessing: Preprocessing
    models: Tuple[Model, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`licence` and `source` are of the weights; `space` is whole, as its file may be elsewhere."""

    format: int
    space: Space
    licence: str
    source: str
    tasks: Tuple[TaskFront, ...]


class _Version(msgspec.Struct):
    format: int


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    def front(self, task: Optional[str] = None) -> TaskFront:
        """The front of `task`; without one, that of the only task. BundleError if there is none."""
        fronts = self.manifest.tasks
        found = [front for front in fronts if task in (None, front.task)]
        if len(found) != 1:
            known = ", ".join(front.task for front in fronts)
            raise BundleError(
                f"{self.path}: name its task, one of {known}"
                if task is None
                else f"{self.path}: no task '{task}'; it has {known}"
            )
        return found[0]

    def read_model(self, model: Model) -> bytes:
        """The ONNX bytes of `model`; BundleError if they are not those of the manifest."""
        path = _inside(self.path, model.file)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path}: cannot be read ({error.strerror}); fetch the bundle again"
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != model.sha256:
            raise BundleError(
                f"{path}: sha256 is {found[:12]}..., the manifest says {model.sha256[:12]}...; "
                "the file was changed or damaged, fetch the bundle again"
            )
        return data


def open_bundle(path: Union[str, Path]) -> Bundle:
    """Read and verify the bundle at `path`: format, every file inside it, every hash."""
    folder = Path(path)
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format
        if version != FORMAT:
            raise BundleError(
                f"{file}: format {version}, this ramnas reads {FORMAT}; write the bundle again"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except OSError as error:
        raise BundleError(
            f"{folder} is no bundle: cannot read {file} ({error.strerror})"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: {error}") from error
    for trouble in _troubles(manifest):
        raise BundleError(f"{file}: {trouble}")
    bundle = Bundle(folder, manifest)
    for front in manifest.tasks:
        for model in front.models:
            bundle.read_model(model)
    return bundle


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle that appears whole or not at all; `files`: ONNX bytes by `Model.file`.

    The hashes in the manifest are set here.
    """

    def put(folder: Path, model: Model) -> Model:
        target = _inside(folder, model.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[model.file])
        return msgspec.structs.replace(model, sha256=hashlib.sha256(files[model.file]).hexdigest())

    for trouble in _troubles(manifest):
        raise BundleError(f"{path} would be no bundle: {trouble}")
    with new_folder(path) as folder:
        fronts = tuple(
            msgspec.structs.replace(front, models=tuple(put(folder, m) for m in front.models))
            for front in manifest.tasks
        )
        manifest = msgspec.structs.replace(manifest, tasks=fronts)
        (folder / MANIFEST).write_bytes(_text(manifest))
    return Bundle(path, manifest)


def add_latencies(bundle: Bundle, found: Mapping[str, Latency]) -> Bundle:
    """Write `found`, by the sha256 of the graph, into the manifest, in place of older figures.

    The models stay as they are. FileError if it cannot be written; it is whole either way.
    """

    def told(model: Model) -> Model:
        new = found.get(model.sha256)
        if new is None:
            return model
        kept = tuple(old for old in model.latency if conditions(old) != conditions(new))
        return msgspec.structs.replace(model, latency=(*kept, new))

    fronts = tuple(
        msgspec.structs.replace(front, models=tuple(map(told, front.models)))
        for front in bundle.manifest.tasks
    )
    manifest = msgspec.structs.replace(bundle.manifest, tasks=fronts)
    write_file(bundle.path / MANIFEST, _text(manifest))
    return Bundle(bundle.path, manifest)


def conditions(latency: Latency) -> Tuple[object, ...]:
    """Under which it was measured; a model has one figure for each, the newest."""
    return (
        latency.device_class, latency.engine, latency.precision, latency.threads, latency.batch,
        latency.frame_hw,
    )  # fmt: skip


def _text(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _troubles(manifest: Manifest) -> Iterator[str]:
    """What a manifest of the right types may still get wrong."""
    if not any(front.models for front in manifest.tasks):
        yield "names no model"
    tasks = [front.task for front in manifest.tasks]
    for task in tasks:
        if task not in TASKS:
            yield f"task '{task}': known are {', '.join(TASKS)}"
        if tasks.count(task) > 1:
            yield f"task {task} stands there twice"
    for front in manifest.tasks:
        ids = [model.arch_id for model in front.models]
        how = front.preprocessing
        if len(set(ids)) < len(ids):
            yield f"task {front.task} has an arch_id twice"
        if not front.models:
            yield f"task {front.task} names no model"
        if front.task != CLASSIFICATION and (how.resize_short or how.crop):
            yield f"task {front.task}: boxes and masks are of the whole frame, which is cropped"
        if front.task == DETECTION and not all(model.anchors for model in front.models):
            yield "task detection: a model has no anchors"


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or folder.resolve() not in path.resolve().parents:
        raise BundleError(f"{folder / MANIFEST}: file '{name}' lies outside the bundle")
    return path
