"""YAML as people write it: numbers, names, encodings and keys that are given twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ramnas_models.errors import SpaceError
from ramnas_models.named import find_arch, read_archs
from ramnas_models.space import load_space
from ramnas_models.yaml_file import as_type, read_yaml


class Section(msgspec.Struct):
    lr: float
    name: str = ""
    sync: bool = False
    epochs: int = 1
    clip: Optional[float] = None
    size: Tuple[int, int] = (1, 1)
    sizes: Tuple[int, ...] = ()
    se: Tuple[bool, ...] = ()


def read(folder: Path, content: str | bytes) -> Any:
    path = folder / "mine.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(path)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"\w") as raised:
        call()
    return str(raised.value)


def refusal(folder: Path, content: str | bytes) -> str:
    message = reason(lambda: read(folder, content))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.", 1.0), ("0.1", 0.1), ("-.inf", -math.inf), ("64", 64), ("-3", -3), ("+7", 7),
        ("1.5e+3", 1500.0), ("010", 10), ("0x1F", 31), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None), ("no", "no"), ("NO", "NO"), ("off", "off"),
        ("y", "y"), ("1_000", "1_000"), ("1:30", "1:30"), ("2026-11-30", "2026-11-30"),
        ("1e", "1e"), ("'1e3'", "1e3"), ('"5"', "5"), ("inf", "inf"), ("nan", "nan"),
        ("1e3x", "1e3x"), ("=", "="), ("e3", "e3"), ("._", "._"),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: object, tmp_path: Path) -> None:
    found = read(tmp_path, f"key: {text}")["key"]
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), (".5e1", 5.0), ("+1e3", 1000.0), ("-2e+4", -2e4),
        ("1.5e3", 1500.0), ("08", 8), ("0o17", 15),
    ],
)  # fmt: skip
def test_a_number_that_yaml_1_1_reads_as_text_is_a_number_where_one_is_wanted(
    text: str, value: float, tmp_path: Path
) -> None:
    found = read(tmp_path, f"key: {text}")["key"]
    assert found == text
    assert as_type(found, float) == value
    assert as_type(found, Optional[float]) == value
    assert as_type(found, str) == text
    if value == int(value):
        assert as_type(found, int) == value
    with pytest.raises(ValueError, match="Expected `bool`"):
        as_type(found, bool)
    with pytest.raises(ValueError, match="Expected `float`"):
        as_type(read(tmp_path, f"key: '{text}'")["key"], float)


def test_not_a_number_is_read(tmp_path: Path) -> None:
    assert all(map(math.isnan, read(tmp_path, "[.nan, .NaN]")))


def test_the_type_that_is_wanted_decides(tmp_path: Path) -> None:
    content = """
        {lr: 1e-3, name: 1e3, sync: yes, epochs: 1e2, size: [64.0, 32], sizes: [3.0, 5],
         se: [off, On, true], clip: 10}
    """
    expected = Section(0.001, "1e3", True, 100, 10.0, (64, 32), (3, 5), (False, True, True))
    expected.clip = 10.0
    assert as_type(read(tmp_path, content), Section) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: fast", "Expected `float`, got `str` - at `lr`"),
        ("lr: '1e-3'", "Expected `float`, got `str` - at `lr`"),
        ("lr: yes", "Expected `float`, got `str` - at `lr`"),
        ("{lr: 1, sync: 'yes'}", "Expected `bool`, got `str` - at `sync`"),
        ("{lr: 1, sync: maybe}", "Expected `bool`, got `str` - at `sync`"),
        ("{lr: 1, sync: 1}", "Expected `bool`, got `int` - at `sync`"),
        ("{lr: 1, epochs: 64.5}", "Expected `int`, got `float` - at `epochs`"),
        ("{lr: 1, epochs: .inf}", "Expected `int`, got `float` - at `epochs`"),
        ("{lr: 1, epochs: 1_000}", "Expected `int`, got `str` - at `epochs`"),
        ("{lr: 1, epochs: 1:30}", "Expected `int`, got `str` - at `epochs`"),
        ("{lr: 1, name: 1.5}", "Expected `str`, got `float` - at `name`"),
        ("{lr: 1, size: [1.0]}", "Expected `array` of length 2, got 1 - at `size`"),
        ("- 1", "Expected `object`, got `array`"),
    ],
)
def test_what_has_another_type_is_refused_with_its_key(
    content: str, message: str, tmp_path: Path
) -> None:
    assert reason(lambda: as_type(read(tmp_path, content), Section)) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' was already given in line 1"),
        ("a: {x: 1,\n  x: 2}", "line 2, column 3: the key 'x' was already given in line 1"),
        ("no: 1\n'no': 2", "line 2, column 1: the key 'no' was already given in line 1"),
        ("a:\n\tb: 1", "line 2, column 1: found character '\\t' that cannot start any token; "
                       "indent with spaces, as YAML takes no tabs there"),
        ("", "it is empty"), ("# nothing\n", "it is empty"), ("---\n...\n", "it is empty"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected a single document in the stream, "
                           "but found another document"),
        ("{[1]: 2}", "line 1, column 2: found unhashable key"),
        ("a: *x", "line 1, column 4: found undefined alias 'x'"),
        ("a: !!int x", "line 1, column 4: 'x' is not of the type int"),
        ("a: !!bool maybe", "line 1, column 4: 'maybe' is not of the type bool"),
        ("[" * 5000, "its values are nested too deeply"),
        (b"a: caf\xe9", "character 7 is not text; save the file as UTF-8"),
        (b"\x89PNG\r\n", "character 1 is not text; save the file as UTF-8"),
        (b"a\x00b", "character 2 is not text; save the file as UTF-8"),
        ("a: " + "1" * 5000, "line 1, column 4: the number has too many digits"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where_and_why(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, content) == message


def test_an_object_of_python_is_never_made(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a: !!python/object/apply:os.system [ls]")
    assert "could not determine a constructor" in message


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16"]  # Python writes utf-16 with its mark
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_editor_of_a_file_does_not_matter(encoding: str, end: str, tmp_path: Path) -> None:
    text = end.join(["names: [猫, café]", "lr: 0.5", ""])
    assert read(tmp_path, text.encode(encoding)) == {"names": ["猫", "café"], "lr": 0.5}


def test_a_merged_key_may_be_given_again(tmp_path: Path) -> None:
    content = "base: &base {x: 1, y: 2}\nmine: {<<: *base, x: 3}"
    assert read(tmp_path, content)["mine"] == {"x": 3, "y": 2}


def test_a_folder_or_an_absent_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Is a directory$"):
        read_yaml(tmp_path)
    with pytest.raises(ValueError, match=r"^No such file or directory$"):
        read_yaml(tmp_path / "absent.yaml")


def test_a_json_file_may_be_indented_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "archs.json"
    path.write_bytes(b'\xef\xbb\xbf[\r\n\t{"lr":\t1e-3, "name": "\\ud83d\\ude00"}\r\n]')
    assert read_yaml(path) == [{"lr": 0.001, "name": "😀"}]
    path.write_text("[1,")
    with pytest.raises(ValueError, match="line 1 column 4"):
        read_yaml(path)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    st.sampled_from(["no", "off", "1e3", "1e-3", "010", "1:30", "0o7", ".inf", "<<", "~", "="]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text("abcnoyf<~=", max_size=3), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(content=st.dictionaries(st.text("abcnoyf", min_size=1), VALUES, min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_what_was_written_with_pyyaml_or_msgspec_reads_back(
    content: Dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    for text in (
        yaml.safe_dump(content, allow_unicode=True),
        msgspec.yaml.encode(content).decode(),
    ):
        path.write_text(text, encoding="utf-8")
        assert read_yaml(path) == content


def test_a_space_may_hold_numbers_as_people_write_them(tmp_path: Path) -> None:
    micro = Path(load_space.__globals__["_FOLDER"]) / "micro.yaml"
    text = micro.read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_space(path).hash == load_space("micro").hash
    path.write_text(text + "\nname: other\n")
    with pytest.raises(SpaceError, match=r"mine.yaml: line \d+, column 1: the key 'name' was alr"):
        load_space(path)


def test_an_arch_may_be_written_with_any_editor(tmp_path: Path) -> None:
    space = load_space("micro")
    row: List[int] = list(space.encode(space.max()))
    path = tmp_path / "arch.yaml"
    path.write_bytes(f"[{', '.join(map(str, row))}]\r\n".encode("utf-16"))
    assert find_arch(space, str(path)) == space.max()
    path.write_text("")
    with pytest.raises(SpaceError, match=r"cannot read arch .*arch.yaml: it is empty"):
        find_arch(space, str(path))
    with pytest.raises(SpaceError, match=r"cannot read arch .*: it is empty"):
        read_archs(space, path)
