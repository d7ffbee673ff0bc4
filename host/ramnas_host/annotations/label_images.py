"""A label image in any form that tools write -> the label id of every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ramnas_edge.vision.formats import unreadable
from ramnas_models.errors import SourceError

Image.MAX_IMAGE_PIXELS = 2**30  # as many as OpenCV reads; Pillow's own limit is a tenth of that

IDS = 2**16  # label ids are from 0 to 65535
Colours = Mapping[tuple[int, int, int], int]  # red, green and blue of a label -> its id

# formats that may change the ids of pixels in order to make the file smaller
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "WEBP": "WebP", "AVIF": "AVIF"}
# Pillow stretches numbers of 2 and 4 bits to 255; these factors undo it
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_ids(path: Path, colours: Colours) -> np.ndarray:
    """The label ids in the file at `path`, uint8 or uint16 [h, w], as its pixels are stored.

    The number that is stored for a pixel is its id: the index of a palette and not its colour, and
    0 or 1 in an image of one bit. Grey may be stored as three equal channels, and transparency does
    not count. An image that is painted in `colours` has the ids of these. SourceError says why the
    file has no ids.
    """
    palette = None
    try:
        with Image.open(path) as image:
            mode = image.mode
            if image.format in _LOSSY:
                raise SourceError(
                    f"{path} is a {_LOSSY[image.format]} image, whose compression changes label "
                    "ids: make the label images anew, as PNG files"
                )
            stored = _stored(image)
            pixels = np.asarray(image)
            if mode == "P" and colours:
                palette = np.reshape(image.getpalette() or [], (-1, 3))
        if ";16" in stored and pixels.dtype == np.uint8:  # Pillow keeps the upper halves only
            whole = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if whole is None:
                raise UnidentifiedImageError
            pixels = np.asarray(whole)[..., 2::-1]
    except SourceError:
        raise
    except Exception as error:  # Pillow's readers of many formats raise many kinds
        raise SourceError(f"{path} cannot be read as a label image: {_why(path, error)}") from error
    if palette is not None:
        _check_palette(pixels, palette, colours, path)
    if mode in ("LA", "PA"):
        pixels = pixels[..., 0]
    if mode in ("RGB", "RGBA", "RGBX"):
        pixels = _of_channels(pixels[..., :3], path, mode, colours)
    if pixels.ndim != 2 or pixels.dtype.kind == "f" or not 0 <= pixels.min() <= pixels.max() < IDS:
        raise SourceError(
            f"{path} has pixels of mode {mode}, from {pixels.min()} to {pixels.max()}, but label "
            f"ids are one whole number for each pixel, from 0 to {IDS - 1}"
        )
    if stored in _STRETCHED:
        pixels = pixels // _STRETCHED[stored]
    return pixels.astype(np.uint8 if pixels.dtype.itemsize == 1 else np.uint16, copy=False)


def _stored(image: ImageFile.ImageFile) -> str:
    """How the file stores its pixels, in Pillow's words, such as `L;4` or `RGB;16B`."""
    how = image.tile[0][3] if image.tile else image.mode
    return str(how[0] if isinstance(how, tuple) else how)


def _check_palette(pixels: np.ndarray, palette: np.ndarray, colours: Colours, path: Path) -> None:
    """SourceError if the palette has the colours of ids, but at places that are not these ids.

    Programs that save a painted image with a palette put the colours in any order, often in another
    one for each image.
    """
    used = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    meant = {i: colours.get(tuple(palette[i].tolist())) for i in used if i < len(palette)}
    wrong = [i for i in meant if meant[i] != i]
    if wrong and None not in meant.values():
        raise SourceError(
            f"{path} has palette index {wrong[0]} in the colour of id {meant[wrong[0]]}: save it "
            "without a palette, in label ids or in colours"
        )


def _of_channels(pixels: np.ndarray, path: Path, mode: str, colours: Colours) -> np.ndarray:
    """The ids of pixels [h, w, 3] that have the colours of ids, or whose channels are equal."""
    ids = _of_colours(pixels, colours) if colours else np.full(pixels.shape[:2], -1)
    if (ids >= 0).all():
        return ids
    first = pixels[..., 0]
    if (pixels == first[..., None]).all():
        return first
    if not colours:
        raise SourceError(
            f"{path} is painted in colours (mode {mode}), not in label ids: save one channel with "
            'the id of each pixel, or give every entry of labels.json a "color" of its own, such '
            'as "color": [128, 64, 128]'
        )
    row, column = np.argwhere(ids < 0)[0]
    raise SourceError(
        f"{path} has the colour {pixels[row, column].tolist()} in row {row}, column {column}, "
        f"and labels.json does not list it ({(ids < 0).sum()} pixels have such colours)"
    )


def _of_colours(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    """The id of each pixel's colour, int64 [h, w]; -1 where the colour has none."""
    known = np.array(sorted((*colour, label) for colour, label in colours.items()), np.int64)
    keys, wanted = _packed(known[:, :3]), _packed(pixels)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, known[place, 3], -1)


def _packed(rgb: np.ndarray) -> np.ndarray:
    """One number for each colour: int64 [...] from [..., 3]."""
    return np.asarray(rgb.astype(np.int64) @ (2**32, 2**16, 1))


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return unreadable(np.fromfile(path, np.uint8))
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
