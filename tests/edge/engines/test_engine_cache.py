from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import List, Optional

import pytest

from ramnas_edge.engines import engine_cache
from ramnas_edge.engines.engine_cache import EngineCache

# A process that builds slowly: it prints a line when it begins and waits for a line to go on.
BUILDER = """
import logging, sys
from pathlib import Path
from ramnas_edge.engines.engine_cache import EngineCache

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

def build():
    print("building", flush=True)
    sys.stdin.readline()
    return b"engine of " + sys.argv[2].encode()

print("has", EngineCache(Path(sys.argv[1])).engine("k", build, lambda data: data.decode()))
"""


def builder(folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", BUILDER, str(folder), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_key_changes_with_the_model_and_with_every_fact() -> None:
    facts = ("10.3.0", "Orin", "8.7", "L4T 36.4", "fp32")
    keys = {engine_cache.key(b"model", *facts), engine_cache.key(b"other", *facts)}
    for i in range(len(facts)):
        keys.add(engine_cache.key(b"model", *facts[:i], "else", *facts[i + 1 :]))
    keys.add(engine_cache.key(b"model", *facts[:3], facts[3] + facts[4]))
    assert len(keys) == 3 + len(facts)
    assert engine_cache.key(b"model", *facts) == engine_cache.key(b"model", *facts)


def test_the_folder_follows_xdg_cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert engine_cache.default_folder() == tmp_path / "cache/ramnas/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_cache.default_folder() == tmp_path / ".cache/ramnas/engines"


def test_a_stored_engine_is_not_built_again(tmp_path: Path) -> None:
    builds: List[int] = []

    def build() -> bytes:
        builds.append(1)
        return b"engine"

    for _ in range(3):
        assert EngineCache(tmp_path / "new").engine("k", build, bytes.decode) == "engine"
    assert builds == [1]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_a_damaged_file_never_reaches_the_loader(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "k.engine").write_bytes(damage)
    loaded: List[bytes] = []

    def load(data: bytes) -> bytes:
        loaded.append(data)
        return data

    cache = EngineCache(tmp_path)
    assert cache.read("k.engine") is None
    assert cache.engine("k", lambda: b"engine", load) == b"engine"
    assert loaded == [b"engine"]
    assert "k.engine cannot be used" in caplog.text
    assert cache.read("k.engine") == b"engine"


def test_every_changed_or_missing_byte_is_noticed(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.write("k", b"engine")
    good = (tmp_path / "k").read_bytes()
    for i in range(len(good)):
        (tmp_path / "k").write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        assert cache.read("k") is None
    for i in range(len(good)):
        (tmp_path / "k").write_bytes(good[:i])
        assert cache.read("k") is None


def test_bytes_that_the_loader_refuses_are_built_again_once(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.write("k.engine", b"old")

    def only_new(data: bytes) -> Optional[str]:
        return "loaded" if data == b"new" else None

    assert cache.engine("k", lambda: b"new", only_new) == "loaded"
    assert cache.read("k.engine") == b"new"
    assert cache.engine("other", lambda: b"strange", only_new) is None


def test_a_failed_build_leaves_no_file_and_frees_the_lock(tmp_path: Path) -> None:
    def fails() -> bytes:
        raise ValueError("no")

    cache = EngineCache(tmp_path)
    with pytest.raises(ValueError, match="no"):
        cache.engine("k", fails, bytes.decode)
    assert not list(tmp_path.glob("k*"))
    assert cache.engine("k", lambda: b"engine", bytes.decode) == "engine"


def test_two_processes_build_the_same_engine_once(tmp_path: Path) -> None:
    first, second = builder(tmp_path, "first"), None
    try:
        assert line(first) == "building"
        second = builder(tmp_path, "second")
        assert line(second) == "another process is building this engine; waiting for it"
        let_go_on(first)
        assert line(first) == "has engine of first"
        assert line(second) == "has engine of first"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


def test_after_a_builder_is_killed_the_next_one_builds(tmp_path: Path) -> None:
    first, second = builder(tmp_path, "first"), None
    try:
        assert line(first) == "building"
        second = builder(tmp_path, "second")
        assert line(second) == "another process is building this engine; waiting for it"
        os.kill(first.pid, signal.SIGKILL)
        assert line(second) == "building"
        let_go_on(second)
        assert line(second) == "has engine of second"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


def test_two_threads_build_the_same_engine_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    builds: List[int] = []
    started, may_go_on = threading.Event(), threading.Event()

    def build() -> bytes:
        builds.append(1)
        started.set()
        assert may_go_on.wait(60)
        return b"engine"

    cache = EngineCache(tmp_path)
    threads = [
        threading.Thread(target=lambda: cache.engine("k", build, bytes.decode)) for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    while "waiting for it" not in caplog.text:
        pass
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert builds == [1]


def test_engines_can_still_be_read_from_a_read_only_cache(tmp_path: Path, small_disk: Path) -> None:
    cache = EngineCache(small_disk)
    cache.write("k.engine", b"engine")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.engine("k", lambda: b"", bytes.decode) == "engine"
    assert not cache.trouble
    assert cache.engine("other", lambda: b"built", bytes.decode) == "built"
    assert "read-only" in cache.trouble


def test_a_full_disk_costs_no_engine_and_leaves_no_partial_file(small_disk: Path) -> None:
    cache = EngineCache(small_disk)
    assert len(cache.engine("k", lambda: bytes(1 << 20), bytes.decode) or "") == 1 << 20
    assert "the disk is full" in cache.trouble
    assert not list(small_disk.glob("*k.engine*"))[1:]  # only the lock file stays
