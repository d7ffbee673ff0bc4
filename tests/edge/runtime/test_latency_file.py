from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.latency_file import StoredLatency
from ramnas_models.errors import FileError

QUICK = StoredLatency("ab" * 32, (480, 640), "fp32", 1, p90_ms=9.0, runs=44, calibrated=False)
GOOD = msgspec.structs.replace(QUICK, p90_ms=7.0, runs=96, calibrated=True)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def kept_ms(latency: StoredLatency) -> float:
    kept = latency_file.find(latency_file.known("board"), latency.key)
    assert kept is not None
    return kept.p90_ms


def test_a_kept_latency_is_known_only_for_its_device_class_and_its_graph(tmp_path: Path) -> None:
    path = latency_file.keep("board", [QUICK])
    assert path == tmp_path / "ramnas/latencies/board.json"
    assert kept_ms(QUICK) == 9.0
    assert latency_file.known("another") == ()
    for change in ({"sha256": "cd" * 32}, {"frame_hw": (8, 8)}, {"threads": 2}, {"batch": 2}):
        other = msgspec.structs.replace(QUICK, **change)
        assert latency_file.find(latency_file.known("board"), other.key) is None
    assert latency_file.known("board")[0].date > "2020"


def test_a_quick_timing_never_replaces_a_calibration() -> None:
    latency_file.keep("board", [QUICK])
    latency_file.keep("board", [GOOD])
    latency_file.keep("board", [QUICK])
    assert kept_ms(QUICK) == 7.0
    latency_file.keep("board", [msgspec.structs.replace(GOOD, p90_ms=6.0)])
    assert kept_ms(QUICK) == 6.0
    assert len(latency_file.known("board")) == 1


def test_calibrating_a_graph_drops_its_latencies_together_with_others() -> None:
    both = msgspec.structs.replace(QUICK, sha256=f"{'cd' * 32}+{QUICK.sha256}")
    others = msgspec.structs.replace(QUICK, sha256=f"{'cd' * 32}+{'ef' * 32}")
    latency_file.keep("board", [both, others])
    latency_file.keep("board", [QUICK])
    assert kept_ms(both) == 9.0
    latency_file.keep("board", [GOOD])
    assert [kept.sha256 for kept in latency_file.known("board")] == [others.sha256, GOOD.sha256]


def test_a_broken_file_is_logged_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    path = latency_file.keep("board", [QUICK])
    path.write_text("{")
    assert latency_file.known("board") == ()
    assert f"ignoring {path}: " in caplog.text
    latency_file.keep("board", [GOOD])
    assert kept_ms(GOOD) == 7.0


def test_a_folder_that_cannot_be_written_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "ramnas").write_text("a file")
    with pytest.raises(FileError, match="a part of the path is a file"):
        latency_file.keep("board", [QUICK])
