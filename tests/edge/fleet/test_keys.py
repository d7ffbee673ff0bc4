"""Keys in files, and the endpoints that need them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import zmq
from zmq.auth import load_certificate

from ramnas_edge.fleet import keys
from ramnas_models.errors import DataError, FileError


def test_a_new_pair_is_two_files_and_only_the_owner_may_read_the_secret_one(tmp_path: Path) -> None:
    before = os.umask(0)  # the most permissive one
    try:
        path = keys.new(tmp_path / "keys", "jetson.1")
    finally:
        os.umask(before)
    assert path == tmp_path / "keys/jetson.1.key_secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["jetson.1.key", "jetson.1.key_secret"]
    own = keys.load_keys(path)
    assert zmq.curve_public(own.secret) == own.public
    assert own.public == keys.load_public(path.with_suffix(".key")) == keys.load_public(path)
    assert own.secret.decode() not in path.with_suffix(".key").read_text()
    assert own.secret.decode() not in repr(own)
    assert load_certificate(path) == tuple(own)  # ZeroMQ's own tools read it


def test_a_secret_is_never_replaced_and_its_public_half_can_be_restored(tmp_path: Path) -> None:
    path = keys.new(tmp_path, "a")
    own = keys.load_keys(path)
    with pytest.raises(FileError, match=r"a.key_secret exists, .* another --name"):
        keys.new(tmp_path, "a")
    path.with_suffix(".key").unlink()  # as after a kill between the two
    assert keys.new(tmp_path, "a") == path
    assert keys.load_keys(path) == own
    assert keys.load_public(path.with_suffix(".key")) == own.public
    assert {p.name for p in tmp_path.iterdir()} == {"a.key", "a.key_secret"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = keys.new(tmp_path, "a")
    path.chmod(mode)
    with pytest.raises(FileError, match=rf"read by others .mode {mode:04o}.: chmod 600 {path}"):
        keys.load_keys(path)


@pytest.mark.parametrize(
    "text", ["", "curve", 'public-key = "short"', f'public-key = "{"," * 40}"', "\0" * 99]
)
def test_a_file_that_is_not_a_key_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(text)
    with pytest.raises(FileError, match=r"a.key is not a key file of ramnas"):
        keys.load_public(path)


def test_a_missing_key_and_a_public_one_in_place_of_a_secret_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read the key .*: `ramnas keys new` makes one"):
        keys.load_public(tmp_path / "none.key")
    with pytest.raises(FileError, match=r"cannot read the key"):
        keys.load_public(tmp_path)
    public = keys.new(tmp_path, "a").with_suffix(".key")
    with pytest.raises(FileError, match=r"has no secret key; give the .key_secret"):
        keys.load_keys(public)


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 65, "é"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be the name of a key"):
        keys.new(tmp_path, name)
    with pytest.raises(DataError, match=r"cannot be the name of a key"):
        keys.authorize(keys.new(tmp_path / "k", "a"), tmp_path / "authorized", name)


@pytest.mark.parametrize(
    ("endpoint", "public"),
    [
        ("tcp://127.0.0.1:5555", False), ("tcp://127.1.2.3:*", False), ("tcp://[::1]:5555", False),
        ("tcp://localhost:5555", False), ("tcp://lo:5555", False), ("ipc:///tmp/x", False),
        ("inproc://x", False), ("tcp://*:5555", True), ("tcp://0.0.0.0:5555", True),
        ("tcp://[::]:5555", True), ("tcp://192.168.1.7:5555", True), ("tcp://host:5555", True),
        ("tcp://eth0:5555", True), ("tcp://127.0.0.1:0;10.0.0.1:5555", True),
        ("ws://127.0.0.1.evil.org:80", True), ("tcp://[::ffff:127.0.0.1]:5555", False),
        ("tcp://[::ffff:10.0.0.1]:5555", True), ("tcp://[fe80::1%lo]:5555", True),
        ("tcp://[fd00::1]:5555", True),
    ],
)  # fmt: skip
def test_an_endpoint_that_other_machines_can_reach_is_public(endpoint: str, public: bool) -> None:
    assert keys.is_public(endpoint) is public


@pytest.mark.parametrize("name", ["EPERM", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_links_or_flushing_keeps_keys_all_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*args: object) -> None:
        raise OSError(getattr(errno, name), "")

    monkeypatch.setattr(os, "link", impossible)
    monkeypatch.setattr(os, "fsync", impossible)
    path = keys.new(tmp_path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own = keys.load_keys(path)
    with pytest.raises(FileError, match=r"a.key_secret exists"):
        keys.new(tmp_path, "a")
    assert keys.load_keys(path) == own
    assert {p.name for p in tmp_path.iterdir()} == {"a.key", "a.key_secret"}


def test_a_file_system_where_others_can_read_every_file_gets_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_open_to_others", lambda path: 0o755)  # as on FAT
    with pytest.raises(FileError, match=r"lets others read every file; name another --folder"):
        keys.new(tmp_path, "a")
    assert not list(tmp_path.iterdir())


def test_folders_of_keys_are_for_their_owner_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret = keys.new(tmp_path / "own", "jetson")
        keys.authorize(secret.with_suffix(keys.PUBLIC), tmp_path / "own/authorized_keys")
    finally:
        os.umask(before)
    for folder in ("own", "own/authorized_keys"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_a_folder_where_everybody_can_add_keys_is_said(tmp_path: Path) -> None:
    authorized = tmp_path / "authorized_keys"
    authorized.mkdir()
    assert keys.load_authorized(authorized) == ({}, [])
    authorized.chmod(0o777)
    reason = f"every user of this machine can add keys to {authorized}: chmod o-w {authorized}"
    assert keys.load_authorized(authorized) == ({}, [reason])
