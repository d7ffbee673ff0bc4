"""The bytes of an image or a video -> why they cannot be read, in words for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Optional, Tuple

import cv2

from ramnas_models.files import GIT_LFS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Within the data of a JPEG's scan FF00 is a byte 255, FFD0 to FFD7 are restart markers, and further
# FFs before a marker are padding. Any other byte after FF is a marker.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# markers that may stand between two scans: tables, DNL, restart interval, application data, comment
_BETWEEN = (0xC4, 0xCC, _SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE)

# the largest value of a PGM or PPM, which stands after its size; comments go to the line's end
_PNM_LARGEST = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+\s+\d+\s+(\d{1,5})\s")

# first bytes -> what the file is: kinds of images that some OpenCVs read, and other things
_IMAGES = (
    (b"GIF8", "GIF"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1aE\xdf\xa3", "a video (Matroska)"),
    (b"RIFF", "a video or a sound (RIFF)"),
    (b"\0\5\x16\7", "AppleDouble, which macOS writes beside the file itself"),
)
_OR_OTHER = "damaged, or of a kind that OpenCV does not read"
# brands of ISO media files, which tell pictures from videos
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "a raw photograph (CR3)",
}


def jpeg_fault(data: NDArray[np.uint8]) -> str:
    """Say what is wrong with a JPEG that is cut off or damaged; an empty string if nothing is.

    OpenCV can fill what is missing with grey and report no error. So this walks from marker to
    marker to the end of the main image. Whatever follows it does not matter: padding of a camera's
    buffer, the video of a motion photo, a second picture. The end of a thumbnail within the header
    does not count. Data that is not a JPEG has no fault.
    """
    if data[:2].tobytes() != b"\xff\xd8":
        return ""
    at, scans, view = 2, 0, data.data
    while True:
        found = _MARKER.search(view, at)
        if not found:
            return "is cut off: its JPEG data has no end marker"
        at, marker = found.end(), found[1][0]
        if marker == _EOI and scans:
            return ""
        if scans and marker == _SOI:
            return f"is cut off: another JPEG begins at byte {at - 2}, before its end marker"
        if scans and marker not in _BETWEEN:
            return f"is damaged: its JPEG data has the marker FF{marker:02X} at byte {at - 2}"
        if marker in (0x01, _SOI, _EOI):  # these have no length; OpenCV says what it thinks of them
            continue
        at += int.from_bytes(view[at : at + 2], "big")
        scans += marker == _SOS


def unreadable(data: NDArray[np.uint8]) -> str:
    """Say why OpenCV could not decode the image `data`, as far as its bytes tell."""
    head = data[:256].tobytes()
    known = _no_picture(head) or _damage(data, head)
    if known:
        return known
    image, other = _image_kind(head), _named(head, _OTHERS)
    if image:
        return f"it is {image}, which OpenCV {cv2.__version__} cannot decode; convert it to JPEG"
    if other or head[4:8] == b"ftyp":
        return f"it is {other or 'a video (MP4)'}, not an image"
    if not data.any():
        return f"all of its {data.size} bytes are zero, as after a copy that did not finish"
    return f"it begins with the bytes {head[:8].hex()}, as no kind of image that OpenCV reads"


def has_16_bits(data: NDArray[np.uint8]) -> bool:
    """Whether an image has samples of 16 bits, of which OpenCV keeps the upper 8."""
    head = data[:256].tobytes()
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    if head.startswith((b"II*\0", b"MM\0*")):
        return _tiff_samples(data)[0] == 16
    found = _PNM_LARGEST.match(head)
    return bool(found and int(found[1]) > 255)


def unplayable(path: str) -> str:
    """Say why OpenCV could not open the file `path` as a video; OSError if it cannot be read."""
    with open(path, "rb") as file:
        head = file.read(256)
        known, image = _no_picture(head), _image_kind(head)
        if known:
            return known
        if image:
            return f"it is {image}, not a video"
        if head[4:8] == b"ftyp" and not _has_index(file):
            return (
                "it is cut off: an MP4 has its index (moov) mostly at its end, and that is missing"
            )
    return f"OpenCV {cv2.__version__} does not know its format or codec, or it is damaged"


def counts_frames(path: str) -> bool:
    """Whether a video's container holds the number of its frames; others only hold its length."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:] == b"AVI ")


def _no_picture(head: bytes) -> str:
    """What stands in place of an image or a video; an empty string if it may be one."""
    if not head:
        return "it is empty"
    if head.startswith(GIT_LFS):
        return "it is a Git LFS pointer, not the file itself; run git lfs pull"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is an HTML page; download the file itself"
    if text.startswith((b"<svg", b"<?xml")):
        return "it is XML, such as an SVG drawing"
    return ""


def _has_index(file: BinaryIO) -> bool:
    """Walk the boxes of an MP4 to its index."""
    at = 0
    while True:
        file.seek(at)
        box = file.read(16)
        size = int.from_bytes(box[:4], "big")
        if box[4:8] in (b"moov", b"moof"):
            return True
        size = int.from_bytes(box[8:16], "big") if size == 1 else size
        if len(box) < 8 or size < 8:
            return False
        at += size


def _damage(data: NDArray[np.uint8], head: bytes) -> Optional[str]:
    """What is wrong with `data` if it is of a kind that every OpenCV reads; None if it is not."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        kind, cut_off = "PNG", _png_ends_early(data)
    elif head.startswith(b"\xff\xd8"):
        kind, cut_off = "JPEG", False  # jpeg_fault has found its end
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        kind, cut_off = "WebP", data.size < 8 + int.from_bytes(head[4:8], "little")
    elif head.startswith(b"BM"):
        kind, cut_off = "BMP", data.size < int.from_bytes(head[2:6], "little")
    elif re.match(rb"P[1-6]\s", head):
        return f"its PNM data is cut off, {_OR_OTHER}"
    elif head.startswith((b"II*\0", b"MM\0*")) and head[8:10] != b"CR":
        return f"its TIFF data {_tiff_fault(data)}"
    else:
        return None
    return f"its {kind} data is {'cut off' if cut_off else _OR_OTHER}"


def _png_ends_early(data: NDArray[np.uint8]) -> bool:
    at = 8
    while at + 8 <= data.size:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8].tobytes()
        at += 12 + length
        if kind == b"IEND":
            break
    else:
        return True
    return at > data.size


def _tiff_samples(data: NDArray[np.uint8]) -> Tuple[int, bool]:
    """The bits of a sample of a TIFF's first picture, and whether it is a floating-point number.

    Its directory has entries of 12 bytes: tag, type, count, value (TIFF 6.0, section 2).
    """
    view, little = data.data, data[0] == ord("I")

    def number(at: int, size: int) -> int:
        return int.from_bytes(view[at : at + size], "little" if little else "big")

    bits, kind = 1, 1
    directory = number(4, 4)
    for at in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        tag, count = number(at, 2), number(at + 4, 4)
        where = number(at + 8, 4) if count > 2 else at + 8  # two numbers fit into the entry itself
        if tag == 258:
            bits = number(where, 2)
        elif tag == 339:
            kind = number(where, 2)
    return bits, kind == 3


def _tiff_fault(data: NDArray[np.uint8]) -> str:
    bits, floating = _tiff_samples(data)
    if floating or bits not in (1, 2, 4, 8, 16):
        kind = "floating-point samples" if floating else "samples"
        return f"has {kind} of {bits} bits; convert it to 8 or 16 bits"
    return f"is cut off, {_OR_OTHER}"


def _image_kind(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, 40, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "")
    if head[8:10] == b"CR" and head.startswith(b"II"):
        return "a raw photograph (CR2)"
    return _named(head, _IMAGES)


def _named(head: bytes, kinds: Tuple[Tuple[bytes, str], ...]) -> str:
    return next((name for start, name in kinds if head.startswith(start)), "")
