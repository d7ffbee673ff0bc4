"""Writes label images in the forms that tools write, and small sets in the layout of Cityscapes."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

Save = Callable[[np.ndarray, Path], None]


def png(pixels: np.ndarray, depth: int, colour_type: int) -> bytes:
    """A PNG of samples [h, w] or [h, w, channels] with any depth, as no library writes them all."""
    rows = pixels.reshape(len(pixels), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    data = np.column_stack([np.zeros(len(rows), np.uint8), packed]).tobytes()
    head = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def tiff(pixels: np.ndarray, depth: int) -> bytes:
    """A TIFF of grey samples [h, w] with few bits, black at 0."""
    bits = (pixels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    data = np.packbits(bits.reshape(len(pixels), -1).astype(np.uint8), axis=1).tobytes()
    height, width = pixels.shape
    # width, height, bits, no compression, black is 0, place of the data, rows in it, its length
    tags = ((256, width), (257, height), (258, depth), (259, 1), (262, 1), (273, 8),
            (278, height), (279, len(data)))  # fmt: skip
    place = 8 + len(data) + len(data) % 2
    head = b"II*\0" + struct.pack("<I", place) + data.ljust(place - 8, b"\0")
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


def _pillow(mode: str, kind: str = "PNG") -> Save:
    def save(ids: np.ndarray, path: Path) -> None:
        Image.fromarray(ids).convert(mode).save(path, kind)

    return save


def save_palette(ids: np.ndarray, path: Path) -> None:
    """As Pascal VOC and labelme do: the colours of the palette have nothing to do with the ids."""
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path, "PNG")


def _stacked(ids: np.ndarray, path: Path, alpha: np.ndarray) -> None:
    image = np.dstack([*[ids.astype(np.uint8)] * 3, alpha.astype(np.uint8)])
    Image.fromarray(image, "RGBA").save(path, "PNG")


# every form in which a file can hold ids of 8 bits
FORMS: dict[str, Save] = {
    "grey": _pillow("L"),
    "palette": save_palette,
    "equal channels": _pillow("RGB"),
    "equal channels and alpha": lambda ids, path: _stacked(ids, path, np.full(ids.shape, 255)),
    "some pixels transparent": lambda ids, path: _stacked(ids, path, ids % 2 * 255),
    "grey and alpha": _pillow("LA"),
    "16 bit": lambda ids, path: path.write_bytes(png(ids, 16, 0)) and None,
    "16 bit, equal channels": lambda ids, path: path.write_bytes(
        png(np.repeat(ids[..., None], 3, 2), 16, 2)
    ) and None,
    "16 bit, grey and alpha": lambda ids, path: path.write_bytes(
        png(np.dstack([ids, np.full(ids.shape, 65535)]), 16, 4)
    ) and None,
    "bmp": _pillow("L", "BMP"),
    "tiff": _pillow("L", "TIFF"),
    "32 bit tiff": _pillow("I", "TIFF"),
}  # fmt: skip


def write_set(
    folder: Path,
    masks: Mapping[str, Sequence[np.ndarray]],
    *,
    labels: object = None,
    save: Save = FORMS["grey"],
    ending: str = "_gtFine_labelIds.png",
) -> Path:
    """Write `masks` of each part with a picture of noise for each, and `labels` to labels.json."""
    rng = np.random.default_rng(0)
    for part, of_part in masks.items():
        for i, ids in enumerate(of_part):
            name = f"{part}/town/town_{i:06d}_000000"
            picture = folder / "leftImg8bit" / f"{name}_leftImg8bit.png"
            truth = folder / "gtFine" / f"{name}{ending}"
            for path in (picture, truth):
                path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(picture), rng.integers(0, 256, (*ids.shape, 3)).astype(np.uint8))
            save(ids, truth)
    if labels is not None:
        (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def named(*names: str) -> list[dict[str, object]]:
    """The entries of a labels.json for classes whose ids are 0, 1, 2 and so on."""
    return [{"name": name, "id": i, "trainId": i} for i, name in enumerate(names)]


def drawn(ids: Sequence[int], shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """A mask of 40 x 50 pixels in which `ids` have about these shares."""
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array(ids), size=(40, 50), p=np.array(shares) / sum(shares))
    return mask.astype(np.uint8 if max(ids) < 256 else np.uint16)
