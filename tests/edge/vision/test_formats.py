"""Why bytes are no picture, and where a JPEG ends, whatever follows it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import List

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_edge.vision.formats import jpeg_fault
from ramnas_edge.vision.preprocessing import decode_image, read_image
from ramnas_models.errors import SourceError

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + RNG.integers(0, 256, 5000, np.uint8).tobytes()


def encoded(suffix: str, *flags: int, image: object = PICTURE) -> bytes:
    ok, data = cv2.imencode(suffix, image, list(flags))  # type: ignore[call-overload]
    assert ok
    return bytes(data)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """`jpeg` with another segment at its start."""
    return (
        jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
    )


THUMBNAIL = encoded(".jpg", image=PICTURE[:24, :32])
JPEGS = [
    encoded(".jpg"),
    encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 100),
    encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    encoded(".jpg", image=PICTURE[..., 0]),
    with_segment(encoded(".jpg"), 0xE1, b"Exif\0\0" + THUMBNAIL),
]


def fault(data: bytes) -> str:
    return jpeg_fault(np.frombuffer(data, np.uint8))


@settings(max_examples=150, deadline=None)
@given(
    jpeg=st.sampled_from(JPEGS),
    share=st.floats(0, 1),
    behind=st.one_of(
        st.binary(max_size=40),
        st.integers(0, 70_000).map(bytes),  # padding of a camera's buffer
        st.sampled_from([MP4, *JPEGS]),  # a motion photo, a stereo picture
    ),
)
def test_a_jpeg_has_no_fault_whatever_follows_it_and_a_part_of_it_has_one(
    jpeg: bytes, share: float, behind: bytes
) -> None:
    assert fault(jpeg + behind) == ""
    part = jpeg[: 2 + int(share * (len(jpeg) - 4))]
    assert "cut off" in fault(part)
    assert "cut off" in fault(part + bytes(len(behind)))


@pytest.mark.parametrize("jpeg", JPEGS)
def test_whatever_follows_a_jpeg_does_not_change_its_pixels(jpeg: bytes) -> None:
    expected = decode_image(np.frombuffer(jpeg, np.uint8), "whole")
    for behind in (bytes(2048), bytes(2**20), MP4, THUMBNAIL, b"\xff\xd9" + bytes(1500)):
        found = decode_image(np.frombuffer(jpeg + behind, np.uint8), "longer")
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("jpeg", JPEGS[:4])
def test_the_end_marker_of_another_picture_does_not_stand_for_a_missing_one(jpeg: bytes) -> None:
    half = jpeg[: len(jpeg) // 2]
    behind = half + (b"" if half[-1] != 0xFF else b"\0") + THUMBNAIL
    assert "another JPEG begins at byte" in fault(behind)
    cut = with_segment(jpeg, 0xE1, b"Exif\0\0" + THUMBNAIL)[: 2 + 12 + len(THUMBNAIL) + 9]
    assert b"\xff\xd9" in cut[-1024:]
    assert fault(cut).startswith("is cut off")


def test_padding_before_the_end_marker_is_part_of_a_jpeg() -> None:
    jpeg = JPEGS[0]
    for end in (b"\xff\xff\xff\xd9", bytes(50) + b"\xff\xd9", b"\xff\xd9\xff\xd9"):
        image = decode_image(np.frombuffer(jpeg[:-2] + end, np.uint8), "x")
        np.testing.assert_array_equal(image, decode_image(np.frombuffer(jpeg, np.uint8), "x"))


def test_a_marker_that_no_scan_can_have_is_damage() -> None:
    jpeg = bytearray(JPEGS[0])
    middle = len(jpeg) // 2
    jpeg[middle - 1 : middle + 3] = b"\0\xff\x41\0"
    assert fault(bytes(jpeg)) == f"is damaged: its JPEG data has the marker FF41 at byte {middle}"


def test_a_frame_of_a_camera_that_leaves_its_huffman_tables_out_is_read() -> None:
    jpeg = JPEGS[0]
    parts: List[bytes] = []
    at = 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != 0xC4:
            parts.append(jpeg[at:end])
        at = end
    bare = with_segment(jpeg[:2] + b"".join(parts) + jpeg[at:], 0xE0, b"AVI1" + bytes(10))
    image = decode_image(np.frombuffer(bare, np.uint8), "x")
    np.testing.assert_array_equal(image, decode_image(np.frombuffer(jpeg, np.uint8), "x"))


def huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (bytes(300), "all of its 300 bytes are zero"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "run git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>404", "it is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "it is XML, such as an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, which OpenCV"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "it is HEIC, which OpenCV"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "it is AVIF, which OpenCV"),
        (b"GIF89a\0\0", "it is GIF, which OpenCV"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", "it is a video (MP4), not an image"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "it is AppleDouble"),
        (b"%PDF-1.7", "it is a PDF, not an image"),
        (b"\r\n\xff\xd8\xff\xe0", "it begins with the bytes 0d0affd8ffe0"),
        (encoded(".png")[:-20], "its PNG data is cut off"),
        (encoded(".webp")[:-20], "its WebP data is cut off"),
        (encoded(".bmp")[:-20], "its BMP data is cut off"),
        (encoded(".tiff")[:-20], "its TIFF data is cut off, damaged"),
        (huge_png(), "more pixels than OpenCV accepts; raise OPENCV_IO_MAX_IMAGE_PIXELS"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError) as error:
        decode_image(np.frombuffer(data, np.uint8), "x.jpg")
    assert str(error.value).startswith("x.jpg cannot be read as an image: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_no_kind_of_image_is_filled_up_where_it_is_cut_off(suffix: str, share: float) -> None:
    data = encoded(suffix)
    whole = decode_image(np.frombuffer(data + bytes(3000), np.uint8), "padded")
    assert whole.shape == PICTURE.shape
    with pytest.raises(SourceError, match="cut off"):
        decode_image(np.frombuffer(data[: int(len(data) * share)], np.uint8), "part")


def test_a_path_that_is_no_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "annex/SHA256-4711.jpg")
    for name, reason in (
        ("absent.jpg", "No such file"),
        (".", "it is a folder, not a file"),
        ("pipe.jpg", "it is a pipe"),
        ("link.jpg", "it is a link to .*4711.jpg, which does not exist"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(SourceError, match=f"cannot be read as an image: {reason}"):
            read_image(str(tmp_path / name))
    with pytest.raises(SourceError, match="it is a pipe, a socket or a device"):
        read_image("/dev/zero")
