from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ramnas_ros import transport
from ramnas_ros.transport import SEGMENT_BYTES, VARIABLES, environment

PROFILE = Path(__file__).parents[2] / "ros2_pkg/config/fastdds_image.xml"


def test_the_segment_size_is_the_same_in_the_profile_and_the_code() -> None:
    sizes = [
        element.text
        for element in ElementTree.parse(PROFILE).iter()
        if element.tag.endswith("segment_size")
    ]
    assert sizes == [str(SEGMENT_BYTES)]


def test_a_profile_that_the_user_has_set_is_kept(tmp_path: Path) -> None:
    for name in VARIABLES:
        assert environment(PROFILE, {name: "mine.xml"}, tmp_path) == ({}, "")


def test_with_enough_shared_memory_both_variables_name_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "SEGMENTS", 0)
    expected = {name: str(PROFILE) for name in VARIABLES}
    assert environment(PROFILE, {}, tmp_path) == (expected, "")


def test_the_warning_about_little_shared_memory_names_a_remedy(small_disk: Path) -> None:
    variables, warning = environment(PROFILE, {}, small_disk)
    assert set(variables) == set(VARIABLES)
    assert warning.startswith(f"{small_disk} has 0 MiB free, but images need 96 MiB")
    assert "--shm-size=256m" in warning


def test_a_machine_without_shared_memory_gets_the_warning(tmp_path: Path) -> None:
    _, warning = environment(PROFILE, {}, tmp_path / "none")
    assert "none has 0 MiB free" in warning
