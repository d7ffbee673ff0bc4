"""The study of sample efficiency on small data: a set in the public format, and a store."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from ramnas_edge.measuring.store import Store
from ramnas_host.surrogates.surrogate import cost_table
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from tests.host.search.fronts import SPACE, records
from tests.studies import surrogates
from tests.studies.measured_latencies import Measured, read_npz, read_store

OFA = load_space("ofa_mbv3")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz with two GPUs whose latencies are sums of costs; slots past the depth are random."""
    path = tmp_path_factory.mktemp("data") / "latency.npz"
    rng = np.random.default_rng(0)
    rows = OFA.sample_rows(340, rng)
    costs = cost_table(OFA)(rows)
    macs, moved = costs[:, :, 1].sum(1), costs[:, :, 3:].sum((1, 2))
    ms = np.column_stack([1 + macs / 1e8 + moved / 1e7, 2 + macs / 3e8 + moved / 3e6])
    anything = rng.integers(3, 8, (2, len(rows), 20))
    kernels, expands = (
        np.where(part, part, anything[i]) for i, part in enumerate((rows[:, 16:36], rows[:, 37:57]))
    )
    np.savez(
        path, ks=kernels, e=expands, d=rows[:, 10:15], r=rows[:, 0],
        lat_ms=ms * np.exp(rng.normal(0, 0.01, ms.shape)), devices=np.array(["a_1", "b_1"]),
    )  # fmt: skip
    return path


def test_the_public_set_is_read_into_encodings_of_the_space(public: Path) -> None:
    data = read_npz(public)
    np.testing.assert_array_equal(data.rows, OFA.sample_rows(340, np.random.default_rng(0)))
    assert data.devices == ("a_1", "b_1")
    train, test = data.split(10, 0)
    assert (len(train), len(test)) == (10, 330)
    assert not set(train) & set(test)
    assert data.sizes([10, 140, 141]) == [10, 140]


def test_the_study_writes_tables_json_and_a_plot(
    public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    argv = ["--data", str(public), "--samples", "20,50", "--seeds", "1", "--families", "cost,cart"]
    monkeypatch.setattr(sys, "argv", ["surrogates", *argv, "--out", str(tmp_path)])
    surrogates.main()
    printed = capsys.readouterr().out
    assert "all devices: tau\n\n| family | 20 | 50 |" in printed
    content = (tmp_path / "surrogates.json").read_bytes()
    found = msgspec.json.decode(content, type=list[surrogates.Result])
    assert len(found) == 2 * 2 * 2
    tau = {(r.family, r.n, r.device): r.score.tau for r in found}
    assert all(
        tau["cost", n, d] > 0.9 > tau["cart", n, d] for n in (20, 50) for d in ("a_1", "b_1")
    )
    assert (tmp_path / "surrogates.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_gpu_is_predicted_from_the_other_one(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogates, "PRIOR_SIZES", (10,))
    monkeypatch.setattr(surrogates, "PRIOR_RECORDS", 60)
    lines = surrogates.leave_one_gpu_out(read_npz(public), seeds=1).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| a_1", "| b_1", "| mean"]
    for line in lines[2:]:
        *_, without, informed, mixed, _ = line.split(" | ")
        assert float(mixed) >= min(float(without), float(informed)) - 0.01 > 0.8


def test_a_surrogate_of_one_run_is_judged_on_another(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    for record in (*records(30), *records(220, seed=1, run="uniform")):
        store.add(record)
    store.close()
    data = read_store(path, "run", "uniform", SPACE)
    assert len(data.test) >= 200  # no arch of both runs is both learnt from and judged on
    train, test = data.split(20, 0)
    assert not set(train) & set(test)
    assert data.sizes([20, 50]) == [20]
    (found,) = surrogates.results(data, [("cost", "")], [20], 1)
    assert found.score.tau > 0.9
    with pytest.raises(DataError, match="every board has 30 archs, and 210 are needed"):
        read_store(path, "run", None, SPACE)


def test_a_study_of_detectors_knows_their_input_size(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    for record in (*records(220, run="found", input_hw=(32, 32)), *records(10)):
        store.add(record)
    store.close()
    assert read_store(path, "found", None, SPACE).input_hw == (32, 32)
    with pytest.raises(DataError, match="have 2 targets; name runs of one target"):
        read_store(path, "found", "run", SPACE)


def test_sizes_leave_enough_to_judge_on() -> None:
    rows = SPACE.sample_rows(250, np.random.default_rng(0))
    data = Measured(SPACE, rows, ("a",), np.ones((250, 1)), np.arange(0))
    assert data.sizes([10, 50, 51, 1000]) == [10, 50]


def test_a_device_is_quiet_if_another_one_ranks_the_archs_alike() -> None:
    rng = np.random.default_rng(0)
    ms = rng.uniform(1, 2, 250)
    columns = np.column_stack([ms, 3 * ms**2, ms + rng.normal(0, 0.3, 250)])
    rows = SPACE.sample_rows(250, rng)
    data = Measured(SPACE, rows, ("a", "b", "noisy"), columns, np.arange(0))
    assert list(surrogates.groups(data).values())[:2] == [("a", "b"), ("a", "b", "noisy")]
    alone = Measured(SPACE, rows, ("a",), columns[:, :1], np.arange(0))
    assert surrogates.groups(alone) == {"a": ("a",)}


def test_archs_spread_over_macs_reach_both_ends() -> None:
    rows = SPACE.sample_rows(1000, np.random.default_rng(0))
    data = Measured(SPACE, rows, ("a",), np.ones((1000, 1)), np.arange(0))
    some, test = surrogates.spread(data, 40, 0)
    macs = np.log(cost_table(SPACE).macs(rows))
    assert len(some) == 40
    assert not set(some) & set(test)
    assert macs[some].std() > 1.3 * macs[test].std()
