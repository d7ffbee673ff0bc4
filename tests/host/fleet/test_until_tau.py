"""When a class is known well enough: real surrogates on latencies that follow the MACs."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring.record import FAILED, OK, LatencyRecord, Target, Visit
from ramnas_edge.measuring.request import sampled
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet import steering, until_tau
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.host import Host
from ramnas_host.fleet.status import Status
from ramnas_host.fleet.until_tau import UntilTau
from ramnas_host.surrogates.surrogate import COST, Score
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space
from tests.host.fleet.hostile import Honest
from tests.studies import until_tau as study

Rows = Any
MICRO = load_space("micro")
SPACE = msgspec.structs.replace(MICRO, stages=(MICRO.stages[0], MICRO.stages[-1]))  # fits are fast
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 120)
TARGET = Target(num_classes=10)


def record(arch: Arch, noise: float = 0.01, validity: str = OK) -> LatencyRecord:
    """As a board would send it: 8 visits, milliseconds that follow the MACs."""
    rng = np.random.default_rng(int(arch.id, 16) % 2**32)
    base = plan(SPACE, arch).macs / 1e5 + 0.05
    visits = tuple(
        Visit(arch.id, f"of {arch.id}", r, 0, tuple(base * np.exp(noise * rng.normal(size=6))))
        for r in range(8)
    )
    return LatencyRecord(
        "run", TARGET, arch, arch.id, SPACE.hash, (32, 32), "class", "1", (), validity,
        visits=visits,
    )  # fmt: skip


def test_a_class_ends_when_its_real_surrogate_is_good_enough() -> None:
    """The study, small."""
    found = study.run(SPACE, target=0.85, samples=120, seed=0)
    # 24, 36 and 48 are the first three fits that there can be
    assert 48 <= found.measured < 120
    assert found.cross_validated >= 0.85
    assert found.held_out > 0.8  # on archs that it has never seen


def test_what_that_saved_is_said() -> None:
    assert UntilTau(SPACE, 0.85).saved(48, 120) == (
        "48 of 120 measured: tau 0.85 held over 3 fits, 72 measurements (60%) saved"
    )


class Fitted:
    """A surrogate of a given tau."""

    def __init__(self, tau: float) -> None:
        self.score = Score(tau, 1.0, 0.0)


@pytest.fixture
def taus(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next fits score; not the fit but its turn is what these tests look at."""
    scores: list[float] = []

    def fit(space: Space, rows: Rows, y: Rows, family: str, *, log: bool) -> Fitted:
        assert family == COST and log and len(rows) == len(y) >= 20
        return Fitted(scores.pop(0))

    monkeypatch.setattr(until_tau, "fit", fit)
    return scores


def test_a_host_ends_a_class_that_is_known_well_enough(
    taus: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taus += [0.5, 0.96, 0.97, 0.98]
    monkeypatch.setattr(steering, "EVERY_S", 0.0)
    request = sampled("run", SPACE, TARGET, 120, rounds=8, seed=0)
    until = UntilTau(SPACE, 0.95)
    seen: list[Status] = []
    ports: list[str] = []

    def serve() -> None:
        store = Store(tmp_path / "s.sqlite")
        steer = steering.Steering(until, store, "run")
        host = Host(request, store, seen.append, steer=steer.step)
        ports.append(host.bind(Door("tcp://127.0.0.1:*")))
        host.serve()
        host.close()
        steer.close()
        store.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    while not ports:
        time.sleep(0.02)
    board = Honest(ports[0], pace_s=0.02, space=SPACE)
    thread.join(60)
    assert not thread.is_alive()
    board.left.wait(10)
    (ended,) = seen[-1].classes
    assert ended.ended
    assert 48 <= ended.done < ended.total == 120
    assert taus == []
    store = Store(tmp_path / "s.sqlite")
    kept = {record.arch_id for record in store.records("run")}
    store.close()
    assert {arch.id for arch in request.archs} <= kept  # what all classes share is measured first


def finished(until: UntilTau, counts: Sequence[int], device_class: str = "class") -> list[bool]:
    records = [record(arch) for arch in ARCHS[: max(counts)]]
    return [until.finished(device_class, records[:n]) for n in counts]


def test_the_target_must_be_held_by_fits_in_a_row_on_new_records(taus: list[float]) -> None:
    taus += [0.96, 0.97, 0.90, 0.96, float("nan"), 0.95, 0.99, 0.96]
    until = UntilTau(SPACE, 0.95)
    counts = [22, 23, 24, 25, 26, 27, 28, 28, 28, 29]
    assert finished(until, counts) == [False] * 9 + [True]
    assert taus == []


def test_no_fit_below_20_records_and_of_none_but_good_ones(taus: list[float]) -> None:
    until = UntilTau(SPACE, 0.95, refits=1)
    records = [record(arch) for arch in ARCHS[:19]]
    failed = msgspec.structs.replace(record(ARCHS[19]), validity=FAILED, visits=())
    assert not until.finished("class", [*records, failed])  # would ask for a score
    taus.append(0.96)
    assert until.finished("class", [*records, failed, record(ARCHS[20])])


def test_every_class_is_judged_by_itself(taus: list[float]) -> None:
    until = UntilTau(SPACE, 0.95, refits=1)
    taus += [0.99, 0.5]
    assert finished(until, [22], "one") == [True]
    assert finished(until, [22], "other") == [False]
    assert finished(until, [22], "one") == [True]


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.5, 95, float("nan")])
def test_a_target_that_cannot_be_is_named(tau: float) -> None:
    with pytest.raises(DataError, match=r"above 0 and below 1, such as 0.95"):
        UntilTau(SPACE, tau)
