"""Records wait on the board until a host has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ramnas_edge.fleet import wire
from ramnas_edge.fleet.spool import Spool, default_path
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import LatencyRecord, Target, Visit
from ramnas_models.errors import FileError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 5)


def record(i: int = 0, times: int = 2, **changes: object) -> LatencyRecord:
    arch = ARCHS[i]
    visits = (Visit(arch.id, "b", 0, 1, tuple(np.linspace(1, 2, times).tolist())),)
    made = LatencyRecord(
        "run", Target(), arch, arch.id, SPACE.hash, (24, 24), "dev", "1", ("CPU",), "ok",
        visits=visits, p50_ms=1.5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_records_outlive_the_process_that_measured_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep/spool.sqlite")
    added = {record(i).key: spool.add(record(i)) for i in range(3)}
    other = spool.add(record(3, run="other"))
    board = spool.board
    spool.close()
    again = Spool(tmp_path / "deep/spool.sqlite")
    assert again.board == board
    assert again.waiting("run") == added
    assert list(again.waiting("other").values()) == [other]
    assert wire.decode_from_board(added[record().key]) == messages.Measured(record())
    again.remove([record(0).key, record(1).key, record(0).key])
    assert list(again.waiting("run")) == [record(2).key]
    assert len(again) == 2
    again.close()


def test_a_spool_belongs_to_one_process_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    code = (
        "import sys, pathlib; from ramnas_edge.fleet.spool import Spool; "
        "s = Spool(pathlib.Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdin and owner.stdout
    assert owner.stdout.readline() == b"open\n"
    with pytest.raises(FileError, match=r"another agent works with the spool .*--name"):
        Spool(path)
    owner.kill()
    owner.communicate()
    Spool(path).close()


def test_a_full_disk_keeps_records_in_memory_until_there_is_room(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool.sqlite")
    spool.add(record(0))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="space"):
        filler.write_bytes(bytes(2**20))
    spool.add(record(1, times=2000))
    assert "full" in spool.trouble and "free some space" in spool.trouble
    assert len(spool.waiting("run")) == len(spool) == 2
    assert not spool.write()
    filler.unlink()
    assert spool.write()
    assert not spool.trouble
    spool.close()
    again = Spool(small_disk / "spool.sqlite")
    assert again.waiting("run").keys() == {record(0).key, record(1).key}
    again.close()


def test_a_file_that_is_not_a_spool_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(FileError, match=r"cannot open the spool .*text.*--spool"):
        Spool(tmp_path / "text")


def test_agents_of_different_names_have_different_spools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path(None).parent == default_path("a").parent == tmp_path / "ramnas"
    assert len({default_path(None), default_path("a"), default_path("b")}) == 3
