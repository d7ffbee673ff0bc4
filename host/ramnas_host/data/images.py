"""Labelled images in four splits, and how evaluation turns an image into a network's input."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor

from ramnas_edge.board import cores
from ramnas_edge.vision import preprocessing
from ramnas_host.data.class_names import folder_names
from ramnas_host.data.findings import Finding
from ramnas_host.data.paths import PathList
from ramnas_host.data.picture_cache import CACHE_BYTES, PictureCache
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, FileError, SourceError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.whole_folder import new_folder

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

log = logging.getLogger(__name__)

_KEEP_BYTES = 2**30  # of a split's prepared images that are kept in memory


class Files:
    """Image files, decoded anew at every access; SourceError if a file is not an image."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths if isinstance(paths, PathList) else PathList.of(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return preprocessing.read_image(str(self.paths[index]))

    def name(self, index: int) -> str:
        """The path, for messages."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory: uint8 [n, h, w] in grey, or [n, h, w, 3] in BGR."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image:
        image = self.pixels[index]
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image

    def name(self, index: int) -> str:
        """A name for messages."""
        return f"image {index}"


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [h, w, 3] in BGR and perhaps of different sizes, with labels int64 [n]."""

    images: Arrays | Files
    labels: Tensor
    preprocessing: Preprocessing
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _caches: dict[Preprocessing, PictureCache | None] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Split:
        """The images and labels at the positions `index`, in that order."""
        images = self.images
        part = (
            Arrays(images.pixels[index])
            if isinstance(images, Arrays)
            else Files(images.paths.take(index))
        )
        return Split(part, self.labels[torch.from_numpy(index)], self.preprocessing)

    @cached_property
    def identity(self) -> str:
        """A digest that other images, labels or another preprocessing would change.

        For files it has their paths, sizes and times of change, not their content.
        """
        parts = (self._images_identity, msgspec.json.encode(self.preprocessing))
        return _digest(*parts, self.labels.numpy().tobytes())

    @cached_property
    def _images_identity(self) -> bytes:
        if isinstance(self.images, Arrays):
            shape = str(self.images.pixels.shape).encode()
            return _digest(shape, np.ascontiguousarray(self.images.pixels).data).encode()
        with ThreadPoolExecutor(_threads()) as pool:
            facts = pool.map(_facts, map(self.images.name, range(len(self))), chunksize=256)
            return _digest(*facts).encode()

    def at(self, resolution: int) -> Tensor:
        """All images as a network sees them: float32 [n, 3, r, r], channels last."""
        return torch.cat([images for images, _ in self.batches(resolution)])

    def batches(
        self, resolution: int, size: int = 256, device: torch.device = torch.device("cpu")
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) on `device`, in order, prepared as the runtime prepares them.

        `size` is the number of images in a batch, of which those that cannot be read are missing.
        They are logged; DataError if none can be read. While the caller works on one batch, threads
        prepare the next one.

        Files that are all cropped to one size are decoded once, into a PictureCache; with a
        `margin` there is one for each resolution. Other images are kept as they were prepared, at
        all resolutions together up to a GiB. What is too large for that is prepared anew by each
        call.
        """
        norm = self.preprocessing.normalisation
        for batch in self._prepared(resolution, size):
            if device.type == "cuda":
                # here and not in a thread, which would open a context on the first GPU
                batch = tuple(part.pin_memory() for part in batch)
            pixels, labels = (part.to(device, non_blocking=True) for part in batch)
            yield normalise(pixels, norm), labels

    def _prepared(self, resolution: int, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield (pixels, labels) as `batches` does, the pixels as uint8 [n, r, r, 3] in BGR."""
        if resolution in self._kept:
            yield from zip(*(torch.split(t, size) for t in self._kept[resolution]), strict=True)
            return
        if not len(self):
            raise DataError("a split without images cannot be evaluated")
        cached = self._crops(resolution) is not None  # here, before several threads ask for it
        kept = sum(pixels.nbytes for pixels, _ in self._kept.values())
        fits = kept + len(self) * resolution**2 * 3 <= _KEEP_BYTES
        keep: list[tuple[Tensor, Tensor]] | None = [] if fits and not cached else None
        any_readable = False
        starts = list(range(0, len(self), size))
        with ThreadPoolExecutor(_threads()) as pool, ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._batch, starts[0], size, resolution, pool)
            for following in [*starts[1:], None]:
                pixels, labels = coming.result()
                if following is not None:
                    coming = ahead.submit(self._batch, following, size, resolution, pool)
                if keep is not None:
                    keep.append((pixels, labels))
                if len(labels):
                    any_readable = True
                    yield pixels, labels
        if not any_readable:
            raise DataError(
                f"none of the {len(self)} files is an image, such as {self.images.name(0)}"
            )
        if keep is not None:
            pixels, labels = (torch.cat(part) for part in zip(*keep, strict=True))
            self._kept[resolution] = pixels, labels

    def _batch(
        self, start: int, size: int, resolution: int, pool: Executor
    ) -> tuple[Tensor, Tensor]:
        index = range(start, min(start + size, len(self)))
        # OpenCV decodes and resizes outside the GIL
        found = list(pool.map(lambda i: self._picture(i, resolution), index))
        readable = [i for i, image in zip(index, found, strict=True) if image is not None]
        array = np.empty((len(readable), resolution, resolution, 3), np.uint8)
        for place, image in enumerate(image for image in found if image is not None):
            array[place] = image
        return torch.from_numpy(array), self.labels[readable]

    def _picture(self, index: int, resolution: int) -> Image | None:
        """The image as the runtime prepares it; None if it cannot be read."""
        crops, how = self._crops(resolution), self.preprocessing.at(resolution)
        if crops is None:
            image = self._read(index)
        else:
            image = crops.pixels[index] if crops.readable[index] else None
            how = Preprocessing(how.normalisation, how.interpolation)  # the rest is done
        return None if image is None else preprocessing.prepare(image, how, (resolution,) * 2)

    def _read(self, index: int) -> Image | None:
        try:
            return self.images[index]
        except SourceError as error:
            log.warning("left out: %s", error)
            return None

    def _crops(self, resolution: int) -> PictureCache | None:
        """All files scaled and cropped, which is the same for all resolutions without a `margin`.

        None if the images are in memory, are not cropped to one size, or do not fit the cache.
        """
        how = self.preprocessing.at(resolution)
        if how not in self._caches:
            self._caches[how] = self._filled_cache(how)
        return self._caches[how]

    def _filled_cache(self, how: Preprocessing) -> PictureCache | None:
        if isinstance(self.images, Arrays) or not how.crop or (how.resize_short or 0) < how.crop:
            return None
        side = how.crop
        scaled = f"{how.resize_short} {how.crop} {how.interpolation}"
        key = (self._images_identity, scaled.encode())
        cache = PictureCache(_digest(*key, cv2.__version__.encode()), len(self), side)
        if cache.size > CACHE_BYTES:
            log.warning(
                "%d images take %.1f GiB, more than the %.1f GiB of the cache: they are decoded "
                "again for every network",
                len(self), cache.size / 2**30, CACHE_BYTES / 2**30,
            )  # fmt: skip
            return None
        decoded_here = set()

        def crop(index: int) -> Image | None:
            decoded_here.add(index)
            image = self._read(index)
            return None if image is None else preprocessing.prepare(image, how, (side, side))

        try:
            with ThreadPoolExecutor(_threads()) as pool:
                cache.fill(crop, pool)
        except FileError as error:
            log.warning("%s; the images are decoded again for every network", error)
            return None
        broken = set(np.flatnonzero(cache.readable == 0).tolist()) - decoded_here
        if broken:
            log.warning(
                "left out: %d of %d images that could not be read when they were decoded, such as "
                "%s", len(broken), len(self), self.images.name(min(broken)),
            )  # fmt: skip
        return cache


def _threads() -> int:
    """The processors that this process may use; under torchrun its share of them."""
    return max(1, cores.usable() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _digest(*parts: bytes | memoryview) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def _facts(path: str) -> bytes:
    """What changes if the file at `path` changes."""
    try:
        stat = os.stat(path)
    except OSError:
        return f"{os.path.abspath(path)}\0missing".encode("utf-8", "surrogateescape")
    facts = f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return facts.encode("utf-8", "surrogateescape")


def normalise(pixels: Tensor, norm: Normalisation) -> Tensor:
    """Turn uint8 [n, h, w, 3] in BGR into a network's input: float [n, 3, h, w], channels last."""
    return standardise(pixels.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255, norm)


def standardise(x: Tensor, norm: Normalisation) -> Tensor:
    """Bring x into the channel order of `norm`, subtract its mean and divide by its deviation.

    x: [n, 3, h, w] in BGR, with white at 1. The result has channels last.
    """
    if norm.channels == "rgb":
        x = x.flip(1)
    mean, std = _constants(norm, x.dtype, x.device)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)  # copying them to a GPU would wait for all its work before
def _constants(
    norm: Normalisation, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, dtype=dtype, device=device) for v in (norm.mean, norm.std))
    return mean[:, None, None], std[:, None, None]


@dataclass(frozen=True)
class Dataset:
    """A labelled data set in four splits.

    `train` is for the weights and `calibration` for the statistics of BatchNorm. `selection` is for
    everything that is chosen: archs in a search, and the best weights. `report` is for the figures
    that are published. It is read once, at the end, and nothing is chosen by it.

    `findings` says what was noticed in a folder when it was read. `listing` is a digest of the
    names of the pictures that were divided into `train` and `selection`, if they are files: with
    other names the splits are others.
    """

    name: str
    classes: tuple[str, ...]
    licence: str
    source: str
    train: Split
    calibration: Split
    selection: Split
    report: Split
    findings: tuple[Finding, ...] = ()
    listing: str = ""

    def split(self, name: str) -> Split:
        """A split by its name."""
        split: Split = getattr(self, name)
        return split


def write_image_folder(dataset: Dataset, part: str, out: Path) -> int:
    """Write a split as `out/<class>/<number>.png`, whole or not at all.

    A class whose name no folder can have gets a similar one, which the log says, and from which
    `load_folder` and the reader of such folders know the class. Returns the number of images.
    DataError names an image that cannot be written as PNG.
    """
    split = dataset.split(part)
    names = folder_names(dataset.classes)
    for name, folder in zip(dataset.classes, names, strict=True):
        if folder != name:
            log.warning("the class '%s' is in the folder '%s'", name, folder)
    with new_folder(out, ["*/?????.png"]) as whole:
        for i, label in enumerate(split.labels.tolist()):
            target = whole / names[label]
            target.mkdir(exist_ok=True)
            (target / f"{i:05d}.png").write_bytes(_png(split.images, i))
    return len(split)


def _png(images: Arrays | Files, index: int) -> bytes:
    try:
        written, png = cv2.imencode(".png", images[index])
        reason = "OpenCV does not say why"
    except cv2.error as error:
        written, reason = False, str(error)
    if not written:
        raise DataError(f"{images.name(index)} cannot be written as PNG: {reason}")
    return png.tobytes()
