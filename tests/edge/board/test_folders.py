"""Where the files of a user go who has no home folder, as in containers."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ramnas_edge.board import folders
from ramnas_edge.board.folders import cache_folder, config_folder, state_folder
from ramnas_models.errors import FileError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; the user has no folder of his own yet."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for remembered in (folders._temporary, folders._say):
        remembered.cache_clear()
    yield tmp_path
    for remembered in (folders._temporary, folders._say):
        remembered.cache_clear()


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """passwd does not know the user, as after `docker run -u 12345`."""

    def missing(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", missing)


def test_a_user_with_a_home_folder_has_folders_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/ramnas"
    assert state_folder() == tmp_path / ".local/state/ramnas"
    assert config_folder() == tmp_path / ".config/ramnas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c/ramnas"


@pytest.mark.parametrize("value", ["", "relative", "./cache", "~/cache"])
def test_a_folder_that_is_not_absolute_does_not_count(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, value)
    for folder in (cache_folder(), state_folder(), config_folder()):
        assert tmp_path in folder.parents


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_folder_caches_are_temporary_and_private(
    home: Any, unknown: None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    own = temporary / f"ramnas-{os.getuid()}"
    assert cache_folder() == own / "cache"
    assert state_folder() == own / "state"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    folders._temporary.cache_clear()  # the next process finds the same ones
    assert cache_folder() == own / "cache"


@pytest.mark.parametrize("below", ["nonexistent", "proc", "dev/null"])
def test_a_home_folder_that_cannot_be_written_holds_no_cache(
    below: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", f"/{below}")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == temporary)
    assert cache_folder().parent == temporary / f"ramnas-{os.getuid()}"


def test_a_cache_that_sudo_has_made_is_named_with_its_owner(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    of_root = temporary / ".cache/ramnas"
    of_root.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(temporary))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != of_root)
    monkeypatch.setattr(os, "getuid", lambda: of_root.stat().st_uid + 1000)
    own = cache_folder()
    assert temporary / ".cache" not in own.parents
    assert cache_folder() == own
    assert state_folder() == temporary / ".local/state/ramnas"  # sudo has made nothing there
    said = f"{of_root} of user {of_root.stat().st_uid} cannot be written, so caches and records are"
    assert caplog.text.count(f"{said} in {own.parent};") == 1


@pytest.mark.parametrize("trap", ["link", "open to others", "file"])
def test_a_temporary_folder_that_others_could_have_made_is_not_used(
    trap: str, unknown: None, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = temporary / f"ramnas-{os.getuid()}"
    traps: dict[str, Callable[[], object]] = {
        "link": lambda: theirs.symlink_to(temporary),
        "open to others": lambda: (theirs.mkdir(), theirs.chmod(0o777)),
        "file": theirs.touch,
    }
    traps[trap]()
    own = cache_folder().parent
    assert own != theirs
    assert own == state_folder().parent  # one for the whole process
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert "is not a folder of this user alone" in caplog.text


def test_keys_are_never_temporary(unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"no folder for keys.* set HOME or XDG_CONFIG_HOME"):
        config_folder()
    monkeypatch.setenv("XDG_CONFIG_HOME", "/secure")
    assert config_folder() == Path("/secure/ramnas")


def test_without_any_folder_for_temporary_files_a_name_is_known_all_the_same(
    unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    # writing there is what fails, and that is said; in /tmp others could have put something
    assert cache_folder() == Path(f"/nonexistent/ramnas-{os.getuid()}/cache")
