"""Label images in the forms that tools write: the same ids come out, or one line that says why."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from ramnas_host.annotations.label_images import read_ids
from ramnas_models.errors import SourceError
from tests.host.annotations.mask_files import FORMS, png, tiff

IDS = np.arange(256, dtype=np.uint8).reshape(8, 32)


@settings(max_examples=60, deadline=None)
@given(
    ids=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    form=st.sampled_from(sorted(FORMS)),
)
def test_every_form_of_file_has_the_ids_that_were_saved(ids: np.ndarray, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label.png"
        FORMS[form](ids, path)
        np.testing.assert_array_equal(read_ids(path, {}), ids)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_no_id_is_lost(tmp_path: Path, form: str) -> None:
    path = tmp_path / "label.PNG"
    FORMS[form](IDS, path)
    found = read_ids(path, {})
    assert found.dtype in (np.uint8, np.uint16)
    np.testing.assert_array_equal(found, IDS)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", ["grey", "palette", "tiff"])
def test_numbers_of_few_bits_are_ids_and_no_shades_of_grey(
    tmp_path: Path, depth: int, kind: str
) -> None:
    ids = np.arange(2**depth, dtype=np.uint8).reshape(2, -1)
    path = tmp_path / "label.png"
    if kind == "grey":
        path.write_bytes(png(ids, depth, 0))
    elif kind == "tiff":
        path.write_bytes(tiff(ids, depth))
    else:
        image = Image.fromarray(ids, "P")
        image.putpalette([9, 8, 7] * 2**depth)
        image.save(path, bits=depth)
    assert read_ids(path, {}).tolist() == ids.tolist()


def test_ids_of_16_bits_stay_whole(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 256], [1000, 26001, 65535]])
    for form, pixels in ((0, ids), (2, np.repeat(ids[..., None], 3, 2))):
        (tmp_path / "label.png").write_bytes(png(pixels, 16, form))
        assert read_ids(tmp_path / "label.png", {}).tolist() == ids.tolist()


def test_a_label_image_is_read_as_it_is_stored_whatever_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(tmp_path / "label.png", exif=exif)
    np.testing.assert_array_equal(read_ids(tmp_path / "label.png", {}), IDS)


COLOURS = {(0, 0, 0): 7, (128, 64, 128): 300, (64, 128, 128): 2}


def painted(ids: np.ndarray) -> np.ndarray:
    pixels = np.zeros((*ids.shape, 3), np.uint8)
    for colour, label in COLOURS.items():
        pixels[ids == label] = colour
    return pixels


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_ids_if_the_colours_are_listed(tmp_path: Path, mode: str) -> None:
    ids = np.random.default_rng(0).choice([7, 300, 2], (6, 5))
    Image.fromarray(painted(ids)).convert(mode).save(tmp_path / "label.png")
    assert read_ids(tmp_path / "label.png", COLOURS).tolist() == ids.tolist()


def test_a_colour_that_is_not_listed_is_named_with_its_place(tmp_path: Path) -> None:
    pixels = painted(np.full((6, 5), 300))
    pixels[4, 2] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "label.png")
    with pytest.raises(SourceError, match=r"colour \[1, 2, 3\] in row 4, column 2.*\(1 pixels"):
        read_ids(tmp_path / "label.png", COLOURS)


def test_grey_colours_are_colours_if_they_are_listed(tmp_path: Path) -> None:
    """White for a crack and black for the rest, saved in three channels."""
    ids = np.random.default_rng(0).integers(0, 2, (6, 5))
    Image.fromarray(np.repeat(ids[..., None] * 255, 3, 2).astype(np.uint8)).save(tmp_path / "a.png")
    assert read_ids(tmp_path / "a.png", {(0, 0, 0): 0, (255,) * 3: 1}).tolist() == ids.tolist()
    assert read_ids(tmp_path / "a.png", COLOURS).tolist() == (255 * ids).tolist()


def test_a_palette_with_listed_colours_in_another_order_is_refused(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (6, 5)).astype(np.uint8)
    colours = {(0, 0, 0): 0, (128, 0, 0): 1, (0, 128, 0): 2}
    image = Image.fromarray(ids, "P")
    for palette, message in (
        ([0, 0, 0, 128, 0, 0, 0, 128, 0], ""),
        ([9, 9, 9, 128, 0, 0, 0, 0, 0], ""),  # not the colours that are listed
        ([0, 128, 0, 128, 0, 0, 0, 0, 0], "palette index 0 in the colour of id 2"),
    ):
        image.putpalette(palette)
        image.save(tmp_path / "label.png")
        if message:
            with pytest.raises(SourceError, match=message):
                read_ids(tmp_path / "label.png", colours)
        else:
            assert read_ids(tmp_path / "label.png", colours).tolist() == ids.tolist()


def _save(kind: str, mode: str = "RGB", **options: object) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        Image.fromarray(IDS).convert(mode).save(file.name, kind, **options)
        return Path(file.name).read_bytes()


WHOLE = png(np.random.default_rng(0).integers(0, 256, (90, 90)), 8, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_save("JPEG"), "is a JPEG image, whose compression changes label ids"),
        (_save("JPEG", "L"), "is a JPEG image, whose compression changes label ids"),
        (_save("WEBP"), "is a WebP image, whose compression changes label ids"),
        (_save("TIFF", "F"), "mode F, from 0.0 to 255.0, but label ids are one whole number"),
        (_save("TIFF", "CMYK"), "mode CMYK"),
        (b"", "cannot be read as a label image: it is empty"),
        (b"no image", "cannot be read as a label image: it begins with the bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (WHOLE[:4000], "cannot be read as a label image: image file is truncated"),
        (WHOLE[:2000] + bytes(300) + WHOLE[2300:], "cannot be read as a label image: "),
        (png(np.dstack([IDS, IDS, IDS[::-1]]), 8, 2), "painted in colours (mode RGB)"),
        (png(np.dstack([IDS, IDS, IDS[::-1]]), 16, 2), "painted in colours (mode RGB)"),
    ],
)
def test_a_file_without_ids_is_refused_by_its_own_name(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "town_gtFine_labelIds.png"
    path.write_bytes(content)
    with pytest.raises(SourceError) as raised:
        read_ids(path, {})
    text = str(raised.value)
    assert text.startswith(str(path))
    assert reason in text
    assert "\n" not in text


def test_negative_ids_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "label.tif"
    Image.fromarray(np.array([[-1, 5]], np.int32)).save(path)
    with pytest.raises(SourceError, match="from -1 to 5, but label ids are"):
        read_ids(path, {})
    with pytest.raises(SourceError, match=r"other\.png cannot .*: No such file or directory$"):
        read_ids(tmp_path / "other.png", {})
    with pytest.raises(SourceError, match=r"Is a directory$"):
        read_ids(tmp_path, {})
