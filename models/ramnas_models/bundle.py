"""A bundle, which travels to a robot: `manifest.json` and `models/*.onnx`, verified when opened."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

import msgspec

from ramnas_models.accuracy import Accuracy
from ramnas_models.anchors import Anchors
from ramnas_models.errors import BundleError
from ramnas_models.files import GIT_LFS, write_file
from ramnas_models.head_plan import CLASSIFICATION, DETECTION, TASKS
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, Space
from ramnas_models.whole_folder import check_replaceable, new_folder

# In format 2 an accuracy lacks its images and its interval. Up to format 3 all models came from one
# space, those of a task shared one preprocessing, and the arch id was the name.
FORMAT = 4
READABLE = (2, 3, FORMAT)
MANIFEST = "manifest.json"
INTERPOLATIONS = ("bilinear", "bicubic")
_OWN = (MANIFEST, "models/*.onnx")  # the files of a bundle, which a new bundle may replace


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one inference at batch 1 costs; `macs_bn` adds two operations per BatchNorm element."""

    macs: int
    macs_bn: int
    params: int


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latency of one graph of a bundle, measured on one device class.

    With `frame_hw`, whole calls on frames of that size were timed, resizing and the decoding of
    the outputs included. Without it (None) the engine was timed alone, from a buffer on the host
    to outputs on the host. `p90_ms` is as measured; `corrected_ms` is the median after the
    machine's drift is taken out.
    """

    device_class: str
    engine: str
    precision: str
    threads: int
    batch: int
    frame_hw: Optional[Tuple[int, int]]
    p90_ms: float
    corrected_ms: float


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a frame becomes the uint8 image that a graph of the bundle takes.

    If `resize_short` is given, the short side is first scaled to that many pixels: smaller by means
    of areas, larger by `interpolation` ("bilinear" or "bicubic"). If `crop` is given, the central
    square of that many pixels is then cut out. What remains is resized to `input_hw` by
    `interpolation`, without keeping the aspect ratio. The `normalisation` and the order of the
    channels are built into the graph.

    `margin` is for weights that serve several input sizes: the crop then has the size of the input,
    and the short side is first scaled to that size plus `margin`. Each model of a bundle has its
    own numbers instead (`at`).
    """

    normalisation: Normalisation
    interpolation: str = "bilinear"
    resize_short: Optional[int] = None
    crop: Optional[int] = None
    margin: Union[int, msgspec.UnsetType] = msgspec.UNSET  # so that no manifest has it

    def at(self, side: int) -> Preprocessing:
        """The same for a network whose input has `side` pixels, with numbers for any `margin`."""
        if self.margin is msgspec.UNSET:
            return self
        return Preprocessing(self.normalisation, self.interpolation, side + self.margin, side)


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network of a front: its ONNX file and what is known about it.

    `name` is short and unique within its task, because two models of a task may have the same
    `arch_id`: the same arch with two input sizes, or trained twice. `space` is a key of the
    manifest's `spaces`. `file` is relative to the bundle, `input_hw` in pixels. The first of
    `accuracies` is the one that orders the front, and by which a budget chooses: for all models of
    a front a measured one, or for all a published one. There may be a further one on the report
    split, and published ones beside them. There is none at all if no accuracy is known. Only a
    detector has `anchors`.
    """

    name: str
    arch_id: str
    space: str
    arch: Arch
    file: str
    sha256: str
    input_hw: Tuple[int, int]
    preprocessing: Preprocessing
    accuracies: Tuple[Accuracy, ...]
    cost: Cost
    latency: Tuple[Latency, ...]
    anchors: Optional[Anchors] = None

    @property
    def accuracy(self) -> Optional[Accuracy]:
        """The accuracy by which models are chosen."""
        return self.accuracies[0] if self.accuracies else None

    @property
    def reported(self) -> Optional[Accuracy]:
        """The accuracy to show: that on the report split, by which nothing was chosen."""
        return next((a for a in self.accuracies if a.split == "report"), self.accuracy)


class TaskFront(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models of one task, from fast to slow, and their classes.

    `classes` has the order of the outputs: class k is value k of a class map and column k of a
    classifier's logits. In a detector's logits it is column k + 1, as column 0 is the background.
    """

    task: str
    classes: Tuple[str, ...]
    models: Tuple[Model, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `manifest.json`.

    `licence` and `source` belong to the weights. The `spaces` of the models are stored whole,
    because the robot may not have their YAML files. Their keys are their names, which are made
    unique if two of them have the same one.
    """

    format: int
    spaces: Dict[str, Space]
    licence: str
    source: str
    tasks: Tuple[TaskFront, ...]


class _Version(msgspec.Struct):
    format: int


class _OldFront(msgspec.Struct, forbid_unknown_fields=True):
    """A front of format 2 or 3."""

    task: str
    classes: List[str]
    preprocessing: Dict[str, Any]
    models: List[Dict[str, Any]]


class _OldManifest(msgspec.Struct, forbid_unknown_fields=True):
    """A manifest of format 2 or 3."""

    format: int
    space: Dict[str, Any]
    licence: str
    source: str
    tasks: List[_OldFront]

    def widened(self) -> Dict[str, Any]:
        """The same content in today's format, not yet checked."""
        space = str(self.space.get("name"))
        tasks = []
        for front in self.tasks:
            own = {"space": space, "preprocessing": front.preprocessing}
            models = [{"name": model.get("arch_id"), **own, **model} for model in front.models]
            tasks.append({"task": front.task, "classes": front.classes, "models": models})
        return {
            "format": FORMAT,
            "spaces": {space: self.space},
            "licence": self.licence,
            "source": self.source,
            "tasks": tasks,
        }


class Bundle(msgspec.Struct, frozen=True):
    """A bundle on disk that has been verified."""

    path: Path
    manifest: Manifest

    def front(self, task: Optional[str] = None) -> TaskFront:
        """The front of `task`; without `task` the front of the bundle's only task.

        BundleError if the bundle does not have `task`, or has several tasks and none was named.
        """
        fronts = self.manifest.tasks
        found = [front for front in fronts if task in (None, front.task)]
        if len(found) != 1:
            known = ", ".join(front.task for front in fronts)
            raise BundleError(
                f"{self.path} serves several tasks: name one of {known}"
                if task is None
                else f"{self.path} has no task '{task}'; it has {known}"
            )
        return found[0]

    def read_model(self, model: Model) -> bytes:
        """The ONNX bytes of `model`; BundleError if their hash differs from the manifest's."""
        path = _inside(self.path, model.file)
        try:
            data = _content(path)
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}); fetch the bundle again"
            ) from error
        _check_fetched(path, data)
        found = hashlib.sha256(data).hexdigest()
        if found != model.sha256:
            raise BundleError(
                f"{path} has sha256 {found[:12]}..., but the manifest says {model.sha256[:12]}...: "
                "the file was changed or damaged; fetch the bundle again"
            )
        return data


def open_bundle(path: Union[str, Path]) -> Bundle:
    """Read and verify the bundle at `path`.

    BundleError if there is no valid manifest, if its format is another one, if a file lies outside
    the folder or cannot be read, or if a hash does not match.
    """
    folder = Path(path)
    file = folder / MANIFEST
    try:
        content = _content(file)
    except NotADirectoryError as error:
        raise BundleError(
            f"{folder} is a file, and a bundle is a folder: unpack it if it is an archive, and "
            f"name the folder that holds {MANIFEST}{_hint(folder)}"
        ) from error
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: cannot read {file} ({error.strerror})"
            f"{_hint(folder) if error.errno == errno.ENOENT else ''}"
        ) from error
    _check_fetched(file, content)
    try:
        manifest = _decode(file, content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())  # names in the file may hold line breaks
        raise BundleError(f"{file}: {reason}; fetch or write the bundle again") from error
    for trouble in _troubles(manifest):
        raise BundleError(f"{file}: {trouble}")
    bundle = Bundle(folder, manifest)
    for front in manifest.tasks:
        for model in front.models:
            bundle.read_model(model)
    return bundle


def _decode(file: Path, content: bytes) -> Manifest:
    """The manifest in `content`, of any readable format; a MsgspecError says what is wrong."""
    if content.startswith(codecs.BOM_UTF8):  # some editors on Windows add it
        content = content[len(codecs.BOM_UTF8) :]
    version = msgspec.json.decode(content, type=_Version).format
    if version not in READABLE:
        readable = f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}"
        raise BundleError(
            f"{file} has format {version}, and this ramnas reads {readable}; write the bundle "
            "again, or install the version of ramnas that wrote it"
        )
    if version == FORMAT:
        return msgspec.json.decode(content, type=Manifest)
    old = msgspec.json.decode(content, type=_OldManifest)
    return msgspec.convert(old.widened(), Manifest)


def _content(file: Path) -> bytes:
    """The bytes of a file; OSError also for a pipe, which would never end, or a device."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file")
    return file.read_bytes()


def _hint(path: Path) -> str:
    """The bundle that lies one folder deeper, as after unpacking an archive, or above, as a clause.

    The one above is meant where `path` is its folder of models or one of its files.
    """
    above = [*Path(os.path.abspath(path)).parents]
    for file in (*sorted(path.glob(f"*/{MANIFEST}")), *(up / MANIFEST for up in above[:2])):
        if file.is_file():
            return f"; name {file.parent} if that is the bundle"
    return ""


def _check_fetched(path: Path, data: bytes) -> None:
    """BundleError if Git has fetched only the pointer to a file."""
    if data.startswith(GIT_LFS):
        raise BundleError(
            f"{path} is only a pointer of Git LFS, and the file itself was not fetched: run git "
            "lfs pull where you cloned the bundle"
        )


def check_out(path: Path) -> None:
    """FileError if there is something at `path` that a new bundle may not replace.

    `write_bundle` checks this too, but only after the work of making the models.
    """
    check_replaceable(path, _OWN)


def unique_names(networks: Sequence[Tuple[str, Tuple[int, int]]]) -> List[str]:
    """A name for each network of one task, which are given as (arch id, input size).

    The name is the arch id if that is unique. Networks of one arch with several input sizes get
    the size too, as in `9d56ae8d0d3a-224x224`. Of those with the same arch and size, the second and
    later ones get a number, as in `9d56ae8d0d3a-2`.
    """
    sizes: Dict[str, Set[Tuple[int, int]]] = {}
    for arch_id, input_hw in networks:
        sizes.setdefault(arch_id, set()).add(input_hw)
    names: List[str] = []
    count: Dict[str, int] = {}
    for arch_id, (height, width) in networks:
        name = arch_id if len(sizes[arch_id]) == 1 else f"{arch_id}-{height}x{width}"
        count[name] = count.get(name, 0) + 1
        names.append(name if count[name] == 1 else f"{name}-{count[name]}")
    return names


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle, which appears whole or not at all.

    `files` holds the ONNX bytes by `Model.file`. The hashes in the manifest are filled in here.
    BundleError if the manifest is not valid, FileError if the folder cannot be written.
    """

    def put(folder: Path, model: Model) -> Model:
        target = _inside(folder, model.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[model.file])
        return msgspec.structs.replace(model, sha256=hashlib.sha256(files[model.file]).hexdigest())

    for trouble in _troubles(manifest):
        raise BundleError(f"{path} would not be a valid bundle: {trouble}")
    with new_folder(path, _OWN) as folder:
        fronts = tuple(
            msgspec.structs.replace(front, models=tuple(put(folder, m) for m in front.models))
            for front in manifest.tasks
        )
        manifest = msgspec.structs.replace(manifest, tasks=fronts)
        (folder / MANIFEST).write_bytes(_text(manifest))
    return Bundle(path, manifest)


def add_latencies(bundle: Bundle, found: Mapping[str, Latency]) -> Bundle:
    """Write the latencies `found`, keyed by the sha256 of their graph, into the manifest.

    Each replaces an older one of the same setup. The models themselves stay as they are. FileError
    if the manifest cannot be written; the old one then stays whole.
    """

    def with_latency(model: Model) -> Model:
        new = found.get(model.sha256)
        if new is None:
            return model
        kept = tuple(old for old in model.latency if setup_of(old) != setup_of(new))
        return msgspec.structs.replace(model, latency=(*kept, new))

    fronts = tuple(
        msgspec.structs.replace(front, models=tuple(map(with_latency, front.models)))
        for front in bundle.manifest.tasks
    )
    manifest = msgspec.structs.replace(bundle.manifest, tasks=fronts)
    write_file(bundle.path / MANIFEST, _text(manifest))
    return Bundle(bundle.path, manifest)


def setup_of(latency: Latency) -> Tuple[object, ...]:
    """What the latency was measured with; a model keeps one latency, the newest, per setup."""
    return (
        latency.device_class, latency.engine, latency.precision, latency.threads, latency.batch,
        latency.frame_hw,
    )  # fmt: skip


def _text(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _troubles(manifest: Manifest) -> Iterator[str]:
    """What is wrong with a manifest although all its types are right."""
    if not any(front.models for front in manifest.tasks):
        yield "names no model"
    tasks = [front.task for front in manifest.tasks]
    for task in tasks:
        if task not in TASKS:
            yield f"unknown task {task!r}: known are {', '.join(TASKS)}"
        if tasks.count(task) > 1:
            yield f"task {task} appears twice"
    for front in manifest.tasks:
        names = [model.name for model in front.models]
        if len(set(names)) < len(names):
            yield f"task {front.task} has two models with the same name"
        if not front.models:
            yield f"task {front.task} names no model"
        if not front.classes:
            yield f"task {front.task} names no class"
        chosen_by = [model.accuracy for model in front.models if model.accuracy]
        if len({bool(accuracy.source) for accuracy in chosen_by}) > 1:
            yield (
                f"task {front.task} has models whose accuracy was published beside models whose "
                "accuracy was measured, and these cannot be compared"
            )
        for model in front.models:
            which, how = f"model {model.name} of task {front.task}", model.preprocessing
            if not model.name or not model.name.isprintable():
                yield f"task {front.task} has a model with the name {model.name!r}"
            if model.space not in manifest.spaces:
                yield f"{which} comes from space {model.space!r}, which is not among the spaces"
            if min(model.input_hw) < 1:
                yield f"{which} has an input of {model.input_hw[0]}x{model.input_hw[1]} pixels"
            if how.interpolation not in INTERPOLATIONS:
                yield f"{which} has an unknown interpolation {how.interpolation!r}"
            if min(1 if n is None else n for n in (how.resize_short, how.crop)) < 1:
                yield f"{which} resizes to {how.resize_short} and crops to {how.crop} pixels"
            if how.margin is not msgspec.UNSET:
                yield f"{which} has a margin in its preprocessing, which is for weights alone"
            if any(min(one.p90_ms, one.corrected_ms) <= 0 for one in model.latency):
                yield f"{which} has a latency that is not above 0 ms"
            if front.task != CLASSIFICATION and (how.resize_short or how.crop):
                yield (
                    f"{which}: its preprocessing crops the frame, but boxes and masks must cover "
                    "the whole frame"
                )
            if front.task == DETECTION and not model.anchors:
                yield f"{which} has no anchors"


def _inside(folder: Path, name: str) -> Path:
    """The path of file `name` of the bundle; BundleError if it lies outside the folder."""
    path, manifest = folder / name, folder / MANIFEST
    try:
        inside = folder.resolve() in path.resolve().parents
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a link to itself
        raise BundleError(f"{manifest}: {name!r} is not a file of the bundle: {error}") from error
    if Path(name).is_absolute() or not inside:
        raise BundleError(
            f"{manifest}: file {name!r} lies outside the bundle"
            + ("; copy the bundle with cp -rL, which follows links" if path.is_symlink() else "")
        )
    return path
