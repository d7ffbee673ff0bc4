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
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def found(figure: StoredLatency) -> float:
    kept = latency_file.find(latency_file.known("board"), figure.key)
    assert kept is not None
    return kept.p90_ms


def test_what_is_kept_is_known_for_that_class_of_board_and_that_graph_alone(tmp_path: Path) -> None:
    path = latency_file.keep("board", [QUICK])
    assert path == tmp_path / "ramnas/latencies/board.json"
    assert found(QUICK) == 9.0
    assert latency_file.known("another") == ()
    for change in ({"sha256": "cd" * 32}, {"frame_hw": (8, 8)}, {"threads": 2}, {"batch": 2}):
        other = msgspec.structs.replace(QUICK, **change)
        assert latency_file.find(latency_file.known("board"), other.key) is None
    assert latency_file.known("board")[0].date > "2020"


def test_a_quick_look_never_replaces_a_calibration() -> None:
    latency_file.keep("board", [QUICK])
    latency_file.keep("board", [GOOD])
    latency_file.keep("board", [QUICK])
    assert found(QUICK) == 7.0
    latency_file.keep("board", [msgspec.structs.replace(GOOD, p90_ms=6.0)])
    assert found(QUICK) == 6.0
    assert len(latency_file.known("board")) == 1


def test_what_graphs_took_together_is_forgotten_when_one_of_them_is_calibrated() -> None:
    both = msgspec.structs.replace(QUICK, sha256=f"{'cd' * 32}+{QUICK.sha256}")
    others = msgspec.structs.replace(QUICK, sha256=f"{'cd' * 32}+{'ef' * 32}")
    latency_file.keep("board", [both, others])
    latency_file.keep("board", [QUICK])
    assert found(both) == 9.0
    latency_file.keep("board", [GOOD])
    assert [figure.sha256 for figure in latency_file.known("board")] == [others.sha256, GOOD.sha256]


def test_a_broken_file_is_said_and_written_anew(caplog: pytest.LogCaptureFixture) -> None:
    path = latency_file.keep("board", [QUICK])
    path.write_text("{")
    assert latency_file.known("board") == ()
    assert "is ignored" in caplog.text
    latency_file.keep("board", [GOOD])
    assert found(GOOD) == 7.0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "ramnas").write_text("a file")
    with pytest.raises(FileError, match="a part of the path is a file"):
        latency_file.keep("board", [QUICK])
