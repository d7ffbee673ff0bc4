from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ramnas_models.errors import SourceError
from ramnas_ros.convert import ENCODINGS, compressed_to_bgr, fill_image, to_bgr

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def message(rows: Any, encoding: str, padding: int = 0, **changes: Any) -> SimpleNamespace:
    """The fields of a sensor_msgs/Image that is 8 pixels wide, with `padding` bytes per row."""
    rows = rows.reshape(len(rows), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    fields = {
        "height": 6, "width": 8, "encoding": encoding, "is_bigendian": 0,
        "step": padded.shape[1], "data": padded.tobytes(),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "conversion"),
    [
        ("bgr8", None),
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
    ],
)
def test_colour_encodings_become_bgr(encoding: str, conversion: Any, padding: int) -> None:
    image = BGR if conversion is None else cv2.cvtColor(BGR, conversion)
    np.testing.assert_array_equal(to_bgr(message(image, encoding, padding)), BGR)


def test_grey_becomes_three_equal_channels() -> None:
    grey = BGR[..., 0]
    np.testing.assert_array_equal(
        to_bgr(message(grey, "mono8", 3)), np.repeat(grey[..., None], 3, 2)
    )


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_pattern_of_one_colour_becomes_that_colour(pattern: str, padding: int) -> None:
    colour = {"b": 10, "g": 100, "r": 200}
    cell = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    image = to_bgr(message(np.tile(cell, (3, 4)), f"bayer_{pattern}8", padding))
    np.testing.assert_array_equal(image, np.full((6, 8, 3), (10, 100, 200)))


def yuv_to_bgr(y: Any, u: Any, v: Any) -> Any:
    """Convert BT.601 with Y from 16 to 235, as cameras send it."""
    y, u, v = (np.asarray(plane, float) for plane in (y, u, v))
    y, u, v = 1.164 * (y - 16), u - 128, v - 128
    bgr = np.stack([y + 2.018 * u, y - 0.391 * u - 0.813 * v, y + 1.596 * v], -1)
    return bgr.clip(0, 255)


Y = RNG.integers(16, 236, (6, 8), np.uint8)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_two_pixels_of_yuv422_share_their_colours(encoding: str, order: str, padding: int) -> None:
    u, v = RNG.integers(90, 160, (2, 6, 4), np.uint8)
    samples = {"y": iter((Y[:, ::2], Y[:, 1::2])), "u": iter((u,)), "v": iter((v,))}
    packed = np.stack([next(samples[letter]) for letter in order], -1)
    expected = yuv_to_bgr(Y, u.repeat(2, 1), v.repeat(2, 1))
    np.testing.assert_allclose(to_bgr(message(packed, encoding, padding)), expected, atol=2)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
def test_the_second_plane_of_nv12_and_nv21_holds_the_colours(
    encoding: str, order: str, padding: int
) -> None:
    colours = dict(zip("uv", RNG.integers(90, 160, (2, 3, 4), np.uint8)))
    second = np.stack([colours[letter] for letter in order], -1).reshape(3, 8)
    expected = yuv_to_bgr(Y, *(colours[letter].repeat(2, 0).repeat(2, 1) for letter in "uv"))
    found = to_bgr(message(np.vstack([Y, second]), encoding, padding))
    np.testing.assert_allclose(found, expected, atol=2)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.endswith("16")])
def test_only_the_upper_byte_of_16_bits_is_used(encoding: str, big: int, padding: int) -> None:
    channels = 3 if encoding in ("rgb16", "bgr16") else 4 if "a16" in encoding else 1
    upper = RNG.integers(0, 256, (6, 8 * channels), np.uint8)
    wide = upper.astype(np.uint16) * 256 + RNG.integers(0, 256, upper.shape, np.uint16)
    rows = wide.astype(">u2" if big else "<u2").view(np.uint8)
    found = to_bgr(message(rows, encoding, padding, is_bigendian=big))
    np.testing.assert_array_equal(found, to_bgr(message(upper, encoding[:-2] + "8")))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_behind_the_last_row_are_ignored(encoding: str) -> None:
    """A driver of V4L2 gives whole pages of memory."""
    fields = {"height": 6, "width": 8, "encoding": encoding, "is_bigendian": 0, "step": 72}
    data = RNG.integers(0, 256, 72 * 9, np.uint8).tobytes()
    whole, padded = (SimpleNamespace(**fields, data=d) for d in (data, data.ljust(4096, b"\7")))
    np.testing.assert_array_equal(to_bgr(padded), to_bgr(whole))
    rows = 9 if encoding in ("nv12", "nv21") else 6
    short = SimpleNamespace(**fields, data=data[: 72 * rows - 1])
    with pytest.raises(SourceError, match=f"with step 72 does not fit its {72 * rows - 1} bytes"):
        to_bgr(short)


def test_bgr8_is_not_copied() -> None:
    source = message(BGR, "bgr8", padding=4)
    assert np.shares_memory(to_bgr(source), np.frombuffer(source.data, np.uint8))


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_an_image_put_into_a_message_comes_out_unchanged(encoding: str) -> None:
    image = BGR[:, ::2] if encoding == "bgr8" else BGR[:, ::2, 0]  # not contiguous
    filled = fill_image(SimpleNamespace(), image, encoding)
    assert (filled.height, filled.width, filled.encoding) == (6, 4, encoding)
    expected = image if encoding == "bgr8" else np.repeat(image[..., None], 3, 2)
    np.testing.assert_array_equal(to_bgr(filled), expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoding": "yuv999"}, "image encoding 'yuv999' is not one of bgr8"),
        ({"data": b"short"}, "does not fit its 5 bytes"),
        ({"step": 3}, "with step 3 does not fit"),
        ({"height": 0}, "image of 8x0"),
        ({"encoding": "mono16", "step": 15}, "8x6 mono16 with step 15 does not fit"),
        ({"encoding": "yuv422", "width": 7}, "7x6 yuv422: width must be even"),
        ({"encoding": "nv12", "height": 5}, "8x5 nv12: width and height must be even"),
        ({"encoding": "nv12", "step": 24, "height": 8}, "8x8 nv12 with step 24 does not fit"),
        ({"height": 2**32 - 1, "width": 2**32 - 1}, "does not fit its 144 bytes"),
    ],
)
def test_a_broken_image_is_refused_with_its_reason(change: dict, text: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SourceError, match=text):
        to_bgr(message(BGR, **{"encoding": "bgr8", **change}))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_accepts_the_smallest_image(encoding: str) -> None:
    pixels = SimpleNamespace(
        height=2, width=2, encoding=encoding, is_bigendian=0, step=16, data=bytes(48)
    )
    assert to_bgr(pixels).shape == (2, 2, 3)


def compressed(suffix: str) -> bytes:
    smooth = cv2.resize(BGR, (64, 48), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(suffix, smooth)[1])


def test_compressed_images_are_decoded() -> None:
    png = compressed_to_bgr(SimpleNamespace(format="png", data=compressed(".png")))
    jpeg = compressed_to_bgr(
        SimpleNamespace(format="rgb8; jpeg compressed bgr8", data=compressed(".jpg"))
    )
    np.testing.assert_array_equal(png, cv2.resize(BGR, (64, 48), interpolation=cv2.INTER_CUBIC))
    assert np.abs(jpeg.astype(int) - png).mean() < 8


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("padding", [1, 4096, 2 * 640 * 480])
def test_the_rest_of_a_cameras_buffer_behind_a_compressed_image_is_ignored(
    suffix: str, padding: int
) -> None:
    """Every frame of such a camera was refused as cut off."""
    data = compressed(suffix)
    found, expected = (
        compressed_to_bgr(SimpleNamespace(format="jpeg", data=array("B", d)))
        for d in (data + bytes(padding), data)
    )
    np.testing.assert_array_equal(found, expected)
    # zeros in place of the end are found where a kind has an end marker
    filled = data[:-60] + bytes(padding if suffix in (".jpg", ".png") else 0)
    with pytest.raises(SourceError, match=r"compressed image 'jpeg' of .* cut off|damaged"):
        compressed_to_bgr(SimpleNamespace(format="jpeg", data=filled))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"\0" * 16, "all of its 16 bytes are zero"),
        (b"\0\0\0\1\x67\x42\0\x1e", "it begins with the bytes 000000016742001e"),
        (bytes(12) + b"\x89PNG\r\n\x1a\n", "it begins with the bytes 0000000000000000"),
    ],
)
def test_a_compressed_image_of_another_kind_is_refused_with_its_reason(
    data: bytes, reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        compressed_to_bgr(SimpleNamespace(format="16UC1; compressedDepth png", data=data))


@pytest.mark.parametrize("data", [b"", b"\0" * 16, compressed(".jpg")[:-60]])
def test_a_broken_compressed_image_is_refused_with_its_format(data: bytes) -> None:
    with pytest.raises(SourceError, match=f"compressed image 'jpeg' of {len(data)} bytes"):
        compressed_to_bgr(SimpleNamespace(format="jpeg", data=data))
