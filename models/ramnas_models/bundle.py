"""What travels to a robot: a folder of `manifest.json` and `models/*.onnx`, verified on reading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import List, Mapping, Optional, Tuple, Union

import msgspec

from ramnas_models.errors import BundleError
from ramnas_models.files import new_folder
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch

FORMAT = 1
MANIFEST = "manifest.json"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure between 0 and 1 with what it is: metric `top1`, split `test`."""

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
    """One network of the front; `input_hw` in pixels, `file` relative to the bundle."""

    arch_id: str
    arch: Arch
    file: str
    sha256: str
    input_hw: Tuple[int, int]
    accuracy: Optional[Accuracy]  # None: not measured
    cost: Cost
    latency: Tuple[Latency, ...]


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


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    task: str
    classes: Tuple[str, ...]
    space: str
    space_hash: str
    preprocessing: Preprocessing
    licence: str
    source: str
    models: Tuple[Model, ...]


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

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
        manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except OSError as error:
        raise BundleError(
            f"{folder} is no bundle: cannot read {file} ({error.strerror})"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: {error}") from error
    if manifest.format != FORMAT:
        raise BundleError(f"{file}: format {manifest.format}, this ramnas reads {FORMAT}")
    if not manifest.models:
        raise BundleError(f"{file}: names no model")
    bundle = Bundle(folder, manifest)
    for model in manifest.models:
        bundle.read_model(model)
    return bundle


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle that appears whole or not at all; `files`: ONNX bytes by `Model.file`.

    The hashes in the manifest are set here.
    """
    models: List[Model] = []
    with new_folder(path) as folder:
        for model in manifest.models:
            target = _inside(folder, model.file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[model.file])
            digest = hashlib.sha256(files[model.file]).hexdigest()
            models.append(msgspec.structs.replace(model, sha256=digest))
        manifest = msgspec.structs.replace(manifest, models=tuple(models))
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (folder / MANIFEST).write_bytes(text + b"\n")
    return Bundle(path, manifest)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or folder.resolve() not in path.resolve().parents:
        raise BundleError(f"{folder / MANIFEST}: file '{name}' lies outside the bundle")
    return path
