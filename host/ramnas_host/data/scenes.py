"""Composes scenes for detection and segmentation: images of a labelled data set over photographs.

They are written in the layouts of COCO and of Cityscapes, so any loader for these reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from ramnas_host.data.images import Dataset, Split
from ramnas_host.data.photographs import PHOTOGRAPHS
from ramnas_models.errors import DataError
from ramnas_models.files import CANNOT_LINK
from ramnas_models.whole_folder import new_folder

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

HEIGHT, WIDTH = 240, 320
ITEMS = (3, 8)  # fewest and most items in a scene
SIDES = (0.15, 0.6)  # an item's longer side, as a share of the scene's height
MOST_OVERLAP = 0.3  # the largest IoU of two boxes
CONTRAST = (60.0, 160.0)  # between an item and the background under it, where white is 255

_SOURCES = {"train": "train", "val": "selection", "test": "report"}  # split of scenes -> of items


@dataclass(frozen=True)
class Item:
    """One object: its class, its box [left, top, width, height] in pixels, and its ink.

    The box holds the whole item, even if another item covers a part of it. `ink`: float32 [h, w]
    from 0 to 1; a pixel of 0.5 or more belongs to the item.
    """

    label: int
    box: tuple[int, int, int, int]
    ink: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the box in the scene."""
        left, top, width, height = self.box
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True)
class Scene:
    """A scene. `image`: uint8 [240, 320, 3] in BGR. `owner`: int [240, 320], the index of the item
    that is seen at a pixel, or -1 for the background."""

    image: Image
    items: tuple[Item, ...]
    owner: np.ndarray


def write_scenes(
    dataset: Dataset, out: Path, counts: Mapping[str, int], seed: int,
    *, on_done: Callable[[int], None] = lambda count: None,
) -> None:  # fmt: skip
    """Write `counts` scenes for each of train, val and test to `out`, whole or not at all.

    The same seed gives the same scenes. `out/coco` and `out/cityscapes` share one set of images,
    and `out/scenes.json` says what they are made of. No two splits share an item's image or a
    background.
    """
    done = 0
    with new_folder(out, ["scenes.json", "coco/*", "cityscapes/*"]) as folder:
        for part, count in counts.items():
            backgrounds = [photograph.read() for photograph in PHOTOGRAPHS[part]]
            frames = folder / "cityscapes/leftImg8bit" / part / "scenes"
            truths = folder / "cityscapes/gtFine" / part / "scenes"
            for made in (frames, truths, folder / "coco/annotations"):
                made.mkdir(parents=True, exist_ok=True)
            coco = _coco_head(dataset, part, seed)
            for i in range(count):
                rng = np.random.default_rng((seed, list(_SOURCES).index(part), i))
                scene = compose(
                    dataset.split(_SOURCES[part]), backgrounds, rng, varied=part == "train"
                )
                name = f"scenes_{i:06d}_000000"
                _write_png(frames / f"{name}_leftImg8bit.png", scene.image)
                values = np.array([0, *(item.label + 1 for item in scene.items)], np.uint8)
                _write_png(truths / f"{name}_gtFine_labelIds.png", values[scene.owner + 1])
                _append(coco, i + 1, f"{name}_leftImg8bit.png", scene)
                done += 1
                on_done(done)
            _share(frames, folder / "coco" / part)
            file = folder / f"coco/annotations/instances_{part}.json"
            file.write_bytes(msgspec.json.encode(coco))
        names = ("background", *dataset.classes)
        labels = [{"name": name, "id": i, "trainId": i} for i, name in enumerate(names)]
        (folder / "cityscapes/labels.json").write_bytes(msgspec.json.encode(labels))
        (folder / "scenes.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(_about(dataset, counts, seed)))
        )


def _share(frames: Path, link: Path) -> None:
    """Let the folder `link` have the images of `frames`: as copies where there are no links."""
    try:
        link.symlink_to(os.path.relpath(frames, link.parent))
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        link.mkdir()
        for image in frames.iterdir():
            shutil.copyfile(image, link / image.name)


def compose(
    items: Split, backgrounds: list[Image], rng: np.random.Generator, *, varied: bool = False
) -> Scene:
    """Compose a scene, all of it drawn from `rng`. `varied` backgrounds are for training."""
    image = _background(backgrounds, rng, varied=varied)
    placed: list[Item] = []
    wanted = int(rng.integers(ITEMS[0], ITEMS[1] + 1))
    for _ in range(1000):
        item = _place(items, rng)
        if item and all(iou(item.box, other.box) <= MOST_OVERLAP for other in placed):
            placed.append(item)
        if len(placed) == wanted:
            break
    if len(placed) < ITEMS[0]:
        raise DataError(
            f"cannot place {ITEMS[0]} items in a scene: are the images of the items almost black?"
        )
    placed.sort(key=lambda item: -item.ink.size)  # small items lie on large ones and stay in sight
    canvas = image.astype(np.float32)
    owner = np.full((HEIGHT, WIDTH), -1)
    for i, item in enumerate(placed):
        under = canvas[item.window]
        colour = _colour(float(under.mean()), rng)
        opacity = (4 * item.ink - 1.5).clip(0, 1)  # 0.5 at an ink of 0.5, where the mask ends
        under += opacity[..., None] * (colour - under)
        owner[item.window][item.ink >= 0.5] = i
    canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape)  # like the noise of a sensor
    return Scene(canvas.clip(0, 255).round().astype(np.uint8), tuple(placed), owner)


def iou(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The intersection over union of two boxes [left, top, width, height]."""
    overlap = 1
    for axis in (0, 1):
        start = max(one[axis], other[axis])
        overlap *= max(0, min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - start)
    return overlap / (one[2] * one[3] + other[2] * other[3] - overlap)


def _background(photographs: list[Image], rng: np.random.Generator, *, varied: bool) -> Image:
    """A random part of a photograph, perhaps mirrored, in other colours, darker or brighter.

    `varied` backgrounds may also be turned, enlarged, negative, or a mixture of two. There are few
    photographs to train on, and a network that has learnt them by heart sees digits in any other.
    """
    image = _window(photographs, rng, varied=varied)
    if varied:
        if rng.random() < 0.5:
            share = rng.uniform(0.3, 0.7)
            image = share * image + (1 - share) * _window(photographs, rng, varied=True)
        if rng.random() < 0.25:
            image = 255 - image
    return np.asarray((image * rng.uniform(0.6, 1.2)).clip(0, 255), np.uint8)


def _window(photographs: list[Image], rng: np.random.Generator, *, varied: bool) -> np.ndarray:
    """A random part of a photograph, float [h, w, 3] at the size of a scene, with its colour
    channels in random order."""
    photograph = photographs[rng.integers(len(photographs))]
    smallest = 0.4
    if varied:
        photograph, smallest = np.rot90(photograph, int(rng.integers(4))), 0.1
    height, width = photograph.shape[:2]
    h = min(height, width * HEIGHT / WIDTH) * rng.uniform(smallest, 1)
    w = h * WIDTH / HEIGHT
    top, left = (int(rng.uniform(0, most)) for most in (height - h + 1, width - w + 1))
    window = photograph[top : top + int(h), left : left + int(w)]
    window = window[:, :: int(rng.choice((-1, 1))), rng.permutation(3)]
    how = cv2.INTER_AREA if h > HEIGHT else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(window), (WIDTH, HEIGHT), interpolation=how)
    return np.asarray(resized, float)


def _place(items: Split, rng: np.random.Generator) -> Item | None:
    """A random item at a random place and scale; None if its ink does not reach all four edges of
    its box, or if it becomes too small."""
    index = int(rng.integers(len(items)))
    grey = items.images[index][..., 0].astype(np.float32) / 255
    large = cv2.resize(grey, (128, 128), interpolation=cv2.INTER_CUBIC)
    rows, columns = (np.flatnonzero((large >= 0.5).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    tight = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = rng.uniform(*SIDES) * HEIGHT
    width, height = (max(1, int(n * side / max(tight.shape))) for n in tight.shape[::-1])
    how = cv2.INTER_AREA if side < max(tight.shape) else cv2.INTER_LINEAR
    ink = cv2.resize(tight, (width, height), interpolation=how).clip(0, 1)
    edges = (ink[0], ink[-1], ink[:, 0], ink[:, -1])
    if max(width, height) < SIDES[0] * HEIGHT or any(edge.max() < 0.5 for edge in edges):
        return None
    left, top = rng.integers(WIDTH - width + 1), rng.integers(HEIGHT - height + 1)
    return Item(int(items.labels[index]), (int(left), int(top), width, height), ink)


def _colour(under: float, rng: np.random.Generator) -> np.ndarray:
    """A slightly tinted colour that is brighter or darker than `under`, if there is room for it."""
    contrast = rng.uniform(*CONTRAST)
    signs = [s for s in (-1, 1) if 0 <= under + s * contrast <= 255] or [1 if under < 128 else -1]
    return np.asarray(under + rng.choice(signs) * contrast + rng.uniform(-25, 25, 3), np.float32)


def _append(coco: dict[str, list[object]], number: int, file: str, scene: Scene) -> None:
    coco["images"].append(
        {"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT, "license": 1}
    )
    for i, item in enumerate(scene.items):
        seen = scene.owner == i
        coco["annotations"].append({
            "id": len(coco["annotations"]) + 1, "image_id": number, "iscrowd": 0,
            "category_id": item.label + 1, "bbox": item.box, "area": int(seen.sum()),
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": run_lengths(seen)},
        })  # fmt: skip


def run_lengths(mask: np.ndarray) -> list[int]:
    """A mask in COCO's uncompressed RLE: the lengths of the runs of 0s and 1s, column by column.

    The first length is that of a run of 0s, so it may be 0.
    """
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return lengths


def _coco_head(dataset: Dataset, part: str, seed: int) -> dict[str, list[object]]:
    about = _about(dataset, {}, seed)
    return {
        "info": about,  # type: ignore[dict-item]
        "licenses": [{"id": 1, "name": about["licence"], "url": ""}],
        "images": [],
        "annotations": [],
        "categories": [
            {"id": i, "name": name, "supercategory": dataset.name}
            for i, name in enumerate(dataset.classes, start=1)
        ],
    }


def _about(dataset: Dataset, counts: Mapping[str, int], seed: int) -> dict[str, object]:
    photographs = {
        part: [f"{p.package}/{p.file}: {p.licence}, {p.by}" for p in found]
        for part, found in PHOTOGRAPHS.items()
    }
    licences = sorted({p.licence for found in PHOTOGRAPHS.values() for p in found})
    return {
        "description": f"scenes of {dataset.name} over photographs, made by ramnas scenes",
        "seed": seed,
        "counts": dict(counts),
        "licence": f"{dataset.licence} (items); {', '.join(licences)} (backgrounds)",
        "source": f"{dataset.source}; photographs of scikit-learn, scikit-image, matplotlib",
        "photographs": photographs,
    }


def _write_png(path: Path, pixels: np.ndarray) -> None:
    ok, data = cv2.imencode(".png", pixels)
    assert ok
    path.write_bytes(data.tobytes())
