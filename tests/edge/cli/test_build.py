"""`ramnas-edge build`, with a stand-in of TensorRT where the real one cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.cli import build
from ramnas_edge.engines import backends
from ramnas_edge.engines.backend_trt import TrtBackend
from ramnas_edge.engines.device_memory import Gpu
from ramnas_edge.engines.engine_cache import EngineCache
from ramnas_models.errors import BackendError
from tests.edge.engines import fake_tensorrt
from tests.edge.runtime.test_runtime import a_bundle


def test_every_engine_of_a_bundle_is_in_the_cache_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = a_bundle(tmp_path / "b")
    trt = fake_tensorrt.make("10.3.0")
    cache = EngineCache(tmp_path / "cache")
    backend = TrtBackend(trt, Gpu("Orin", (8, 7)), fake_tensorrt.HostMemory, cache)
    monkeypatch.setattr(backends, "load", lambda engine: backend)
    argv = ["build", "--bundle", str(tmp_path / "b"), "--precision", "fp16"]
    assert main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == list(ids)
    assert trt.builds == [["FP16"]] * len(ids)
    assert len(list(cache.folder.glob("*.engine"))) == len(ids)
    assert main(argv) == 0  # all engines are there already
    assert len(trt.builds) == len(ids)
    assert fake_tensorrt.HostMemory.live == []


def test_an_engine_without_a_cache_is_an_error(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    with pytest.raises(BackendError, match=r"keeps no built engines.* tensorrt does"):
        list(build.build_engines(str(tmp_path / "b"), engine="onnxruntime-cpu", precision="fp32"))


def test_where_tensorrt_cannot_run_the_verb_says_why_in_one_line(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    try:
        backends.load("tensorrt")
    except BackendError as error:
        reason = str(error)
    else:
        pytest.skip("TensorRT works here")
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_edge", "build", "--bundle", str(tmp_path / "b")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"error: {reason}\n")
    assert reason.startswith("engine tensorrt: ")


def test_an_engine_that_cannot_be_kept_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elsewhere a cache that cannot be written ends no run, but here it is what was asked for."""
    a_bundle(tmp_path / "b")
    (tmp_path / "cache").touch()
    backend = TrtBackend(
        fake_tensorrt.make("10.3.0"), Gpu("Orin", (8, 7)), fake_tensorrt.HostMemory,
        EngineCache(tmp_path / "cache"),
    )  # fmt: skip
    monkeypatch.setattr(backends, "load", lambda engine: backend)
    assert main(["build", "--bundle", str(tmp_path / "b")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: the engine was built, but not kept: cannot write" in said.err
