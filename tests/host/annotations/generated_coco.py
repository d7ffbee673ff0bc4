"""COCO folders with the oddities of other people's files, and what a reader should make of them."""

from __future__ import annotations

import copy
import functools
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import cv2
import numpy as np
from hypothesis import strategies as st

T = TypeVar("T")
Truth = tuple[str, tuple[float, float, float, float], bool]  # class, corners, crowd
Draw = Callable[[st.SearchStrategy[Any]], Any]

CLASSES = ("cat", "T-shirt/top", "café")
SIZES = ((24, 40), (40, 24), (32, 32))  # height, width

HW = (48, 64)  # of the pictures of sound folders


def annotated() -> dict[str, Any]:
    """Sound annotations of the pictures 0.jpg to 3.jpg, with objects of two classes."""
    images = [
        {"id": i + 1, "file_name": f"{i}.jpg", "width": HW[1], "height": HW[0]} for i in range(4)
    ]
    annotations = [
        {
            "id": 2 * i + k + 1, "image_id": i + 1, "category_id": k + 1, "iscrowd": 0,
            "bbox": [10 * i, 5 + 20 * k, 20, 15], "area": 300,
        }
        for i in range(4)
        for k in range(2)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_sound(folder: Path) -> None:
    """A folder with the splits train, val and test, in which nothing is odd."""
    (folder / "annotations").mkdir(parents=True)
    for part in ("train", "val", "test"):
        (folder / part).mkdir()
        content = annotated()
        for image in content["images"]:
            (folder / part / image["file_name"]).write_bytes(picture(HW, ".jpg", 1))
        file(folder, part).write_text(json.dumps(content))


def file(folder: Path, part: str = "train") -> Path:
    return folder / f"annotations/instances_{part}.json"


@dataclass
class Made:
    """A folder, and the objects of each of its pictures by part and file; or what is wrong."""

    folder: Path
    expected: dict[str, dict[str, list[Truth]]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@functools.cache
def picture(hw: tuple[int, int], suffix: str, orientation: int) -> bytes:
    """An image file of the stored size `hw`; a JPEG has the EXIF orientation."""
    data: bytes = cv2.imencode(suffix.lower(), np.full((*hw, 3), 90, np.uint8))[1].tobytes()
    if orientation == 1:
        return data
    tag = b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + bytes(4)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


# how tools write the name of a file that lies in train/ or val/
NAMES: dict[str, Callable[[str, str], str]] = {
    "plain": lambda part, name: name,
    "dot": lambda part, name: f"./{name}",
    "folder": lambda part, name: f"{part}/{name}",
    "prefix": lambda part, name: f"images/{name}",
    "upload": lambda part, name: f"..\\..\\media\\upload\\4\\{name}",
    "absolute": lambda part, name: f"/home/somebody/set/{name}",
    "drive": lambda part, name: f"C:\\Users\\me\\{part}\\{name}",
    "climbing": lambda part, name: f"../../../{name}",
    "quoted": lambda part, name: quote(name),
    "case": lambda part, name: name.swapcase(),
    "decomposed": lambda part, name: unicodedata.normalize("NFD", name),
    "url": lambda part, name: f"https://example.org/a/{quote(name)}?token=1",
    "local files": lambda part, name: f"/data/local-files/?d=set/{quote(name)}",
}

ANNOTATION_IDS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "all": lambda of_all, of_picture: {"id": of_all},
    "of each picture": lambda of_all, of_picture: {"id": of_picture},
    "one": lambda of_all, of_picture: {"id": 7},
    "none": lambda of_all, of_picture: {},
    "text": lambda of_all, of_picture: {"id": str(of_all)},
}


def write(folder: Path, draw: Draw) -> Made:
    """Write a folder with whatever oddities are drawn."""
    made = Made(folder)
    (folder / "annotations").mkdir(parents=True)
    parts = ["train", "val", *(["test"] if draw(st.booleans()) else [])]
    for part in parts:
        content = _part(made, part, draw)
        text = json.dumps(content)  # writes NaN, as Python does
        data = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])))
        damage = draw(st.sampled_from([None] * 20 + ["cut", "more", "latin"]))
        if damage == "cut":
            data = text.encode()[: len(text) // 2]
        elif damage == "more":
            data = text.encode() + b"\n}"
        elif damage == "latin":
            data = text.replace('"file_name": "', '"file_name": "\xe9', 1).encode("latin-1")
        if damage:
            made.broken.append(damage)
        (folder / f"annotations/instances_{part}.json").write_bytes(data)
    return made


def _part(made: Made, part: str, draw: Draw) -> dict[str, Any]:
    (made.folder / part).mkdir()
    classes = list(CLASSES)
    if part != "train":
        classes = draw(st.permutations(classes))[: draw(st.integers(1, 3))]
    style = draw(st.sampled_from([int, int, float, str]))
    categories = [
        {"id": style(k + (3 if part == "train" else 1)), "name": name, "supercategory": None}
        for k, name in enumerate(classes)
    ]
    if draw(st.booleans()) and part != "train":
        categories.append({"id": 90, "name": "of no object"})
    if draw(st.integers(0, 9)) == 0:  # one class under two ids
        categories.append({"id": 80, "name": classes[0]})
    if draw(st.integers(0, 9)) == 0:
        categories.append(categories[0])
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    odd_licences = st.sampled_from(
        [[], None, [{"name": None}], [{"id": 1}], [None], "MIT", {"name": "MIT"}, 0]
    )
    if draw(st.booleans()):
        content["licenses"] = draw(odd_licences)
        content["info"] = draw(st.sampled_from([None, [], "x", {"year": "2026"}]))
    expected = made.expected[part] = {}
    swapped = draw(st.integers(0, 9)) == 0
    as_stored = draw(st.booleans())
    ids = ANNOTATION_IDS[draw(st.sampled_from(sorted(ANNOTATION_IDS)))]
    for number in range(draw(st.integers(2, 4))):
        _image(made, part, number, content, expected, swapped, as_stored, ids, draw)
    if not expected:
        made.broken.append("no picture")
    if part == "train" and not any(not crowd for row in expected.values() for *_, crowd in row):
        made.broken.append("nothing to learn")
    _spoil(made, part, content, draw)
    return content


def _image(
    made: Made, part: str, number: int, content: dict[str, Any],
    expected: dict[str, list[Truth]], swapped: bool, as_stored: bool,
    annotation_ids: Callable[[int, int], dict[str, Any]], draw: Draw,
) -> None:  # fmt: skip
    """One picture with its file, its entries and its annotations."""
    stored = draw(st.sampled_from(SIZES))
    suffix = draw(st.sampled_from([".jpg", ".JPG", ".png"]))
    turned = not swapped and suffix != ".png" and draw(st.integers(0, 3)) == 0
    orientation = 6 if turned and stored[0] != stored[1] else 1
    hw = stored if as_stored or orientation == 1 else stored[::-1]
    name = draw(st.sampled_from(["{}", "a photo {}", "é{}", "50%{}"])).format(number) + suffix
    there = draw(st.integers(0, 11)) > 0
    if there:
        (made.folder / part / name).write_bytes(picture(stored, suffix, orientation))
    style = draw(st.sampled_from([int, int, float, str]))
    entry = {
        "id": style(10 - number),
        "file_name": NAMES[draw(st.sampled_from(sorted(NAMES)))](part, name),
        **_size(hw, swapped, orientation, draw),
    }
    content["images"].append(entry)
    if draw(st.integers(0, 9)) == 0:  # the picture is listed twice, by one id or by two
        entry = {**entry, "id": entry["id"] if draw(st.booleans()) else 100 + number}
        content["images"].append(entry)
    found = []
    for k in range(draw(st.integers(0, 4))):
        category = draw(st.sampled_from(content["categories"]))
        if category["name"] == "of no object":
            continue
        truth, more = _object(
            hw, category["name"], draw, may_reach_out=not swapped and orientation == 1
        )
        if truth is not None and truth not in found:
            found.append(truth)
        annotation = {
            **annotation_ids(len(content["annotations"]) + 1, k + 1), "image_id": entry["id"],
            "category_id": category["id"], **more,
        }  # fmt: skip
        content["annotations"] += [annotation] * draw(st.sampled_from([1, 1, 1, 2]))
    if there:
        expected[name] = found


def _size(
    hw: tuple[int, int], swapped: bool, orientation: int, draw: Draw
) -> dict[str, Any]:  # fmt: skip
    """The width and height of an entry; where they say nothing, the picture itself is measured."""
    height, width = hw[::-1] if swapped else hw
    forms: list[dict[str, Any]] = [
        {"width": width, "height": height},
        {"width": float(width), "height": str(height)},
    ]
    if orientation == 1:  # for a turned picture, only the size tells how it was annotated
        forms += [{}, {"width": None, "height": 0}, {"width": width}, {"width": "", "height": -1}]
    return draw(st.sampled_from([forms[0], *forms]))  # type: ignore[no-any-return]


def _object(
    hw: tuple[int, int], name: str, draw: Draw, *, may_reach_out: bool
) -> tuple[Truth | None, dict[str, Any]]:  # fmt: skip
    """What is kept of one object, and the rest of its annotation."""
    height, width = hw
    left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    box = [left, top, right - left, bottom - top]
    crowd = draw(st.sampled_from([{}] * 4 + [{"iscrowd": v} for v in (0, None, False, 1, True)]))
    more: dict[str, Any] = {"bbox": box, **crowd, **draw(st.sampled_from([{}, {"area": None}]))}
    form = draw(st.sampled_from(["sound"] * 8 + ["text", "polygon", "runs", "reaching", *BAD]))
    if form == "text":
        more["bbox"] = [str(value) for value in box]
    elif form == "polygon":
        more["bbox"] = None
        more["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    elif form == "runs":
        pixels = np.zeros((height, width), np.uint8, order="F")
        pixels[top:bottom, left:right] = 1
        flat = pixels.ravel(order="F")
        ends = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
        del more["bbox"]
        counts = np.diff(ends, prepend=0).tolist()
        more["segmentation"] = {"size": [height, width], "counts": counts}
    elif form == "reaching" and may_reach_out:
        right = width
        more["bbox"] = [left, top, width - left + 5, bottom - top]
    elif form in BAD:
        more["bbox"] = BAD[form](box)
        return None, more
    corners = (float(left), float(top), float(right), float(bottom))
    return (name, corners, bool(crowd.get("iscrowd"))), more


BAD: dict[str, Callable[[list[int]], Any]] = {
    "flat": lambda box: [*box[:3], 0],
    "negative": lambda box: [*box[:2], -box[2], box[3]],
    "outside": lambda box: [500, 500, *box[2:]],
    "left of it": lambda box: [-90, *box[1:]],
    "nan": lambda box: [float("nan"), *box[1:]],
    "infinite": lambda box: [*box[:3], float("inf")],
    "hole": lambda box: [None, *box[1:]],
    "empty": lambda box: [],
    "shares": lambda box: [0.25, 0.5, 0.25, 0.125],
}


def _spoil(made: Made, part: str, content: dict[str, Any], draw: Draw) -> None:
    """Sometimes do what has to be refused."""
    fault = draw(st.sampled_from([None] * 40 + FAULTS))
    images, annotations, categories = (
        content[key] for key in ("images", "annotations", "categories")
    )
    box = {"bbox": [1, 1, 5, 5]}
    known = {"image_id": images[0]["id"], "category_id": categories[0]["id"], **box}
    if fault == "picture not listed":
        annotations.append({**known, "image_id": "elsewhere\nand more"})
    elif fault == "class not listed":
        annotations.append({**known, "category_id": 77})
    elif fault == "class that train lacks" and part != "train":
        categories.append({"id": 55, "name": "giraffe"})
        annotations.append({**known, "category_id": 55})
    elif fault == "two files with one id":
        images.append({**images[0], "file_name": "other\n.png"})
    elif fault == "three numbers":
        annotations.append({**known, "bbox": [1, 2, 3]})
    elif fault == "crowd":
        annotations.append({**known, "iscrowd": "perhaps"})
    elif fault == "id of a list":
        annotations.append({**known, "image_id": [1]})
    elif fault == "no pictures":
        images.clear()
    elif fault == "two names":
        categories.append({**categories[0], "name": "another\nname"})
    elif fault == "no name":
        categories.append({"id": 66, "name": None})
    elif fault == "no class":
        del annotations[:]
        annotations.append({"image_id": images[0]["id"], **box})
    else:
        return
    made.broken.append(str(fault))


FAULTS = [
    "picture not listed", "class not listed", "class that train lacks", "two files with one id",
    "three numbers", "crowd", "id of a list", "no pictures", "two names", "no name", "no class",
]  # fmt: skip


ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan"),
    float("inf"), "", "a", "\n", "\0", "\ud800", "0", "1.0", "x" * 5000, [], [[]], [1],
    [1, 2, 3, 4], [1, 2, 3, 4, 5], [None] * 4, [[1, 2], [3, 4]], ["1", "2", "3", "4"], {}, {"a": 1},
    {"size": [48, 64], "counts": "abc"}, {"size": [0, 0], "counts": [1, 2]}, "../x", "/etc/passwd",
    "C:\\x", "a/" * 300 + "b", "%00", "%zz", "?d=", "https://",
]  # fmt: skip


def spoilt(content: Any, draw: Draw) -> bytes:
    """The JSON of `content` with up to four values replaced, left out or listed twice."""
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(content))
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        deed = draw(st.sampled_from(["replace"] * 4 + ["leave out", "repeat"]))
        if deed == "replace":
            inside[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif deed == "leave out":
            del inside[key]
        elif isinstance(inside, list):
            inside.append(inside[key])
    data = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside of `value`, as what it is in and the index or key that it has there."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
