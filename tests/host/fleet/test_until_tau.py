"""When a device class is known well enough, and how a host ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring import profiler
from ramnas_edge.measuring.record import FAILED, OK, LatencyRecord, Target, Visit
from ramnas_edge.measuring.request import BLOCK, Request, sampled
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet import until_tau
from ramnas_host.fleet.boards import Board
from ramnas_host.fleet.dispatch import Queue
from ramnas_host.fleet.until_tau import EVERY_S, UntilTau
from ramnas_host.surrogates.surrogate import COST, Score
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space
from tests.host.fleet.hostile import LOOPBACK, Honest, Serving, until
from tests.studies import until_tau as study

Rows = Any
MICRO = load_space("micro")
SPACE = msgspec.structs.replace(MICRO, stages=(MICRO.stages[0], MICRO.stages[-1]))  # fits are fast
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 60)
TARGET = Target(num_classes=10)


def record(
    arch: Arch, noise: float = 0.01, validity: str = OK, target: Target = TARGET
) -> LatencyRecord:
    """As a board would send it: 8 visits, with times that follow the MACs."""
    rng = np.random.default_rng(int(arch.id, 16) % 2**32)
    base = plan(SPACE, arch, input_hw=target.input_hw).macs / 1e5 + 0.05
    visits = tuple(
        Visit(arch.id, f"of {arch.id}", r, 0, tuple(base * np.exp(noise * rng.normal(size=6))))
        for r in range(8)
    )
    return LatencyRecord(
        "run", target, arch, arch.id, SPACE.hash, target.hw(arch), "class", "1", (), validity,
        visits=visits,
    )  # fmt: skip


def test_a_class_ends_when_its_real_surrogate_is_good_enough() -> None:
    """This is the study, with few archs."""
    found = study.run(SPACE, target=0.85, samples=60, seed=0, held_out=60)
    # the first three fits come at 24, 36 and 48 records
    assert 48 <= found.measured <= 60
    assert found.cross_validated >= 0.85
    assert found.held_out > 0.8  # on archs that were never measured


def test_the_surrogate_of_a_detector_knows_its_input_size() -> None:
    """Without it the archs' own resolutions seem to matter, and the target is not held."""
    target = Target(task="detection", num_classes=3, input_hw=(96, 96))
    sent = [record(arch, target=target) for arch in ARCHS[:36]]
    assert UntilTau(SPACE, 0.95, refits=1).finished("class", sent)


@pytest.mark.parametrize("ms", [5e-324, 1e-300, 1e-9, 1e300])
def test_times_that_cannot_be_true_end_neither_the_host_nor_the_class(ms: float) -> None:
    """An authorised board may send them, and what a fit raises ends the host."""
    sent = [record(arch) for arch in ARCHS[:24]]
    visits = tuple(msgspec.structs.replace(v, times_ms=(ms,) * 6) for v in sent[3].visits)
    sent[3] = msgspec.structs.replace(sent[3], visits=visits)
    with np.errstate(all="raise", under="ignore"):
        assert not UntilTau(SPACE, 0.999, refits=1).finished("class", sent)


def test_it_says_how_many_measurements_were_saved() -> None:
    assert UntilTau(SPACE, 0.85).saved(48, 120) == (
        "48 of 120 measured: tau 0.85 held over 3 fits, 72 measurements (60%) saved"
    )


class Fitted:
    """A surrogate with the given tau."""

    def __init__(self, tau: float) -> None:
        self.score = Score(tau, 1.0, 0.0)


@pytest.fixture
def taus(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The taus of the next fits, which are not real: these tests are about when a fit comes."""
    scores: list[float] = []

    def fit(
        space: Space, rows: Rows, y: Rows, family: str, *, log: bool, input_hw: None,
        floor_ms: float | None,
    ) -> Fitted:  # fmt: skip
        assert family == COST and log and len(rows) == len(y) >= 20
        return Fitted(scores.pop(0))

    monkeypatch.setattr(until_tau, "fit", fit)
    return scores


def test_a_host_ends_a_class_that_is_known_well_enough(
    taus: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taus += [0.5, 0.96, 0.97, 0.98]
    monkeypatch.setattr(until_tau, "EVERY_S", 0.0)
    request = sampled("run", SPACE, TARGET, 160, rounds=8, seed=0)
    serving = Serving(tmp_path / "s.sqlite", LOOPBACK, request, until_tau=UntilTau(SPACE, 0.95))
    board = Honest(serving.endpoint, pace_s=0.01, space=SPACE)
    serving.join()
    assert board.left.wait(60)
    (ended,) = serving.status.classes
    assert ended.ended
    assert 48 <= ended.done < ended.total == 160
    assert taus == []
    with closing(Store(tmp_path / "s.sqlite")) as store:
        kept = [record.arch_id for record in store.records("run")]
    # the archs that all classes share are measured first
    assert set(kept) >= {arch.id for arch in request.archs}


def finished(until_tau: UntilTau, counts: Sequence[int], device_class: str = "class") -> list[bool]:
    records = [record(arch) for arch in ARCHS[: max(counts)]]
    return [until_tau.finished(device_class, records[:n]) for n in counts]


def test_the_target_must_be_held_by_fits_in_a_row_on_new_records(taus: list[float]) -> None:
    taus += [0.96, 0.97, 0.90, 0.96, float("nan"), 0.95, 0.99, 0.96]
    counts = [22, 23, 24, 25, 26, 27, 28, 28, 28, 29]
    assert finished(UntilTau(SPACE, 0.95), counts) == [False] * 9 + [True]
    assert taus == []


def test_a_fit_needs_20_good_records(taus: list[float]) -> None:
    one_fit = UntilTau(SPACE, 0.95, refits=1)
    records = [record(arch) for arch in ARCHS[:19]]
    failed = msgspec.structs.replace(record(ARCHS[19]), validity=FAILED, visits=())
    assert not one_fit.finished("class", [*records, failed])  # a fit would find no tau
    taus.append(0.96)
    assert one_fit.finished("class", [*records, failed, record(ARCHS[20])])


def test_every_class_is_judged_by_itself(taus: list[float]) -> None:
    one_fit = UntilTau(SPACE, 0.95, refits=1)
    taus += [0.99, 0.5]
    assert finished(one_fit, [22], "one") == [True]
    assert finished(one_fit, [22], "other") == [False]
    assert finished(one_fit, [22], "one") == [True]


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.5, 95, float("nan")])
def test_a_target_must_be_between_0_and_1(tau: float) -> None:
    with pytest.raises(DataError, match="it must lie between 0 and 1"):
        UntilTau(SPACE, tau)


# -- when a fit comes ------------------------------------------------------------------------------


class AfterTwoBlocks(UntilTau):
    """Has finished when it sees two blocks of records."""

    def __init__(self) -> None:
        super().__init__(SPACE, 0.95)
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def finished(self, device_class: str, records: Sequence[LatencyRecord]) -> bool:
        self.threads.add(threading.get_ident())
        self.asked.append(len(records))
        return len(records) >= 2 * BLOCK

    def stepped(self, queue: Queue, store: Store, now: float) -> list[Queue]:
        """Begin a fit if it is due, wait for it, and take its result."""
        ended = self.step([queue], store, now)
        if self._fit:
            until(self._fit[1].done)
            ended += self.step([queue], store, now)
        return ended


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "s.sqlite")) as store:
        yield store


def measure_a_block(queue: Queue, store: Store) -> None:
    block = queue.give(Board(b"a", queue), 0.0)
    assert block
    for arch in block.archs:
        blank = profiler.failed(block, arch, SPACE, "class", "")
        store.add(msgspec.structs.replace(blank, validity="ok"))
        queue.record(arch.id, 1.0)


def test_a_fit_follows_every_block_in_a_thread_of_its_own_and_ends_the_class(store: Store) -> None:
    judge, queue = AfterTwoBlocks(), Queue(Request("run", SPACE, TARGET, ARCHS), "class", ())
    assert judge.stepped(queue, store, 0.0) == []
    assert judge.asked == []  # nothing is measured
    measure_a_block(queue, store)
    assert judge.stepped(queue, store, 10.0) == []
    assert judge.stepped(queue, store, 10.0 + 2 * EVERY_S) == []
    assert judge.asked == [BLOCK]  # no new record, no new fit
    measure_a_block(queue, store)
    assert judge.stepped(queue, store, 10.0 + EVERY_S / 2) == []  # too soon
    assert judge.stepped(queue, store, 10.0 + 3 * EVERY_S) == [queue]
    assert judge.asked == [BLOCK, 2 * BLOCK]
    assert threading.get_ident() not in judge.threads
