"""Class names as folder names: safe on every disk, apart from each other, and read back."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramnas_edge.vision.picture_files import is_by_product
from ramnas_host.data.class_names import class_name, folder_names

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ODD = st.sampled_from(
    ["T-shirt/top", "..", ".", ".git", "a\\b", "CON", "con.jpg", "nul", "lost+found", "a.", "a ",
     "__MACOSX", "100%", "%41", "%", "a:b", "é", "e\u0301", "Cat", "cat", "CAT", "cAt", "ß", "ss",
     "\0", "x" * 300, "猫" * 120]
)  # fmt: skip
CLASSES = st.lists(st.one_of(WORDS, ODD), min_size=1, max_size=8, unique=True)


@settings(max_examples=150)
@given(CLASSES)
@example(["Cat", "cat", "cAt", "CAT", "CAt"])
def test_folder_names_are_safe_and_apart_on_every_disk(classes: list[str]) -> None:
    names = folder_names(classes)
    assert len({unicodedata.normalize("NFC", name).lower() for name in names}) == len(classes)
    for name in names:
        assert not re.search(r'[/\\:*?"<>|\x00-\x1f]', name)
        assert not is_by_product(name)
        assert not name.endswith((".", " "))
        assert name.split(".")[0].rstrip().lower() not in {"con", "prn", "aux", "nul", "com1"}
        assert 0 < len(name.encode()) <= 255


@settings(max_examples=150)
@given(CLASSES)
def test_a_folder_name_leads_back_to_its_class_unless_it_was_cut(classes: list[str]) -> None:
    for name, folder in zip(classes, folder_names(classes), strict=True):
        if "%~" not in folder:
            assert class_name(folder) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    "name", ["cat", "Ankle boot", "n01440764", "Österreich", "自行车", "a.b-c_d"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert folder_names([name]) == [name]
    assert class_name(name) == name


def test_names_of_macos_and_linux_are_one_class() -> None:
    assert class_name("cafe\u0301") == class_name("caf\u00e9")


def test_a_percent_sign_of_ones_own_stays() -> None:
    assert [class_name(name) for name in ("100%", "%zz", "50%ff")] == ["100%", "%zz", "50%ff"]
