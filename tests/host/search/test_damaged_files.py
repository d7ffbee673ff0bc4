"""Files of ramnas that are damaged, or not of ramnas at all: each is one line with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ramnas_edge.runtime import latency_file
from ramnas_host.cli import demo
from ramnas_host.search import front
from ramnas_models.bundle import MANIFEST, open_bundle
from ramnas_models.errors import RamnasError

DAMAGED = {
    "empty": b"",
    "cut off": b'{"candidates": [',
    "of another kind": b'"text"',
    "not UTF-8": b'{"candidates": ["\xff\xfe"], "train": {}}',
    "zeros": bytes(4096),
    "nested": b'{"candidates": ' + b"[" * 200_000,
}
READERS: dict[str, Callable[[Path], object]] = {
    "front.json": front.load,
    MANIFEST: lambda path: open_bundle(path.parent),
    "steps.json": lambda path: demo.run(path.parent, lambda argv: None, small=True),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RamnasError) as raised:
        READERS[name](tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_latencies_are_ignored_with_a_warning(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = latency_file.path_of("damaged")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert latency_file.known("damaged") == ()
    assert f"ignoring {path}" in caplog.text
    path.unlink()
