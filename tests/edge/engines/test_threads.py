"""More threads than the machine has processors are refused in one line, before an engine opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.engines import backends
from ramnas_edge.measuring.record import Target
from ramnas_edge.runtime import Perception, Runtime
from ramnas_edge.runtime.bundle_calibration import calibrate_bundle
from ramnas_models.errors import BackendError
from tests.models.bundles import classifiers, written

PROCESSORS = os.cpu_count() or 1
TOO_MANY = PROCESSORS + 1


@pytest.fixture(autouse=True)
def no_engine_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many threads an engine would not come to an end."""
    import onnxruntime

    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", started)


@pytest.mark.parametrize("threads", [TOO_MANY, 99_999, 2**40])
def test_every_verb_refuses_too_many_threads_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: int
) -> None:
    written(tmp_path / "b", classifiers())
    bundle, store = ("--bundle", str(tmp_path / "b")), str(tmp_path / "r.sqlite")
    for argv in (
        ["run", *bundle, "--source", str(tmp_path)],
        ["calibrate", *bundle],
        ["profile", "--space", "micro", "--store", store],
    ):
        assert main([*argv, "--threads", str(threads)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {threads} threads are more than the {PROCESSORS} proc")
        assert "of which this process may use " in line
    assert not Path(store).exists()


@pytest.mark.parametrize("threads", [-1, 0, TOO_MANY])
def test_the_library_refuses_them_too(tmp_path: Path, threads: int) -> None:
    written(tmp_path / "b", classifiers())
    message = f"{threads} threads are more|1 thread or more, not {threads}"
    with pytest.raises(BackendError, match=message):
        Runtime.open(tmp_path / "b", threads=threads)
    with pytest.raises(BackendError, match=message):
        Perception.open(tmp_path / "b", tasks=["classification"], threads=threads)
    with pytest.raises(BackendError, match=message):
        calibrate_bundle(tmp_path / "b", Target(frame_hw=(8, 8), threads=threads))
    with pytest.raises(BackendError, match=message):
        backends.probe("onnxruntime-cpu", backends.Options(threads=threads))


def test_as_many_threads_as_there_are_processors_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processors, threads in ((None, 1), (1, 1), (8, 8), (PROCESSORS, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda: processors)  # noqa: B023 - called at once
        backends.check_threads(threads)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    with pytest.raises(BackendError, match="2 threads are more than the 1 processors"):
        backends.check_threads(2)
