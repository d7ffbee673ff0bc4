"""A machine that loses its power in a training leaves half a row: the run goes on all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from ramnas_host.training.metrics import Metrics


@pytest.mark.parametrize("damage", [b"3,1,0.1,64", b"\0" * 4096, b"\xff\xfe,1", b"\n\n", b""])
def test_a_row_that_is_not_whole_is_dropped(damage: bytes, tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, ("loss",))
    for step in (1, 2):
        metrics.write(step, 1, 0.1, 64.0, 0.0, (2.5,), None)
    metrics.close()
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    Metrics(tmp_path, 3, ("loss",)).close()
    assert path.read_bytes() == whole
