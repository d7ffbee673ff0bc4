from __future__ import annotations

import gc
from typing import Any, Iterator, List

import numpy as np
import pytest

from ramnas_edge import backends, profiler
from ramnas_edge.profiler import Block, measure
from ramnas_edge.record import FAILED, INCONCLUSIVE, OK, Target, Visit
from ramnas_models.errors import BackendError
from ramnas_models.space import Arch, load_space

SPACE = load_space("micro")
ARCHS = tuple(SPACE.sample_by_macs(np.random.default_rng(0), 8))
FAST = {"runs": 6, "warm_up_ms": 0.0, "timed_ms": 0.0}


def block(archs: tuple[Arch, ...] = ARCHS[:4], **changes: Any) -> Block:
    fields = {
        "id": "b", "run": "r", "target": Target(num_classes=10), "archs": archs,
        "anchors": ARCHS[5:7], **FAST, **changes,
    }  # fmt: skip
    return Block(**fields)


@pytest.mark.parametrize(
    "target",
    [
        Target(num_classes=10),
        Target(num_classes=10, image_input=False, batch=3),
        Target(num_classes=10, frame_hw=(48, 64)),
        Target(num_classes=10, input_hw=(40, 56)),
    ],
    ids=["engine", "float batch 3", "whole call", "other size"],
)
def test_every_arch_gets_a_record_with_its_raw_times(target: Target) -> None:
    seen: List[Visit] = []
    records = measure(block(target=target), SPACE, "dev", on_visit=seen.append)
    assert [r.arch for r in records] == list(ARCHS[:4])
    for record in records:
        assert record.validity in (OK, INCONCLUSIVE)
        assert record.providers == ("CPUExecutionProvider",)
        assert len(record.visits) == 8
        assert sum(len(v.times_ms) for v in record.visits) >= 44
        assert record.p50_ms is not None
        assert record.p90_ms is not None
        assert 0 < record.p50_ms <= record.p90_ms
        assert record.input_hw == target.hw(record.arch)
        assert {v.arch_id for v in record.anchors} == {a.id for a in ARCHS[5:7]}
        assert len(record.anchors) == 8 * 4  # both anchors at both ends of every round
    assert len(seen) == 8 * (4 + 4)


def test_larger_networks_take_longer() -> None:
    small, large = measure(block((SPACE.min(), SPACE.max())), SPACE, "dev")
    assert small.p50_ms is not None
    assert large.p50_ms is not None
    assert large.p50_ms > 2.5 * small.p50_ms


def test_rounds_are_shuffled_and_the_seed_repeats_them() -> None:
    def order(seed: int) -> List[str]:
        seen: List[Visit] = []
        measure(block(seed=seed), SPACE, "dev", on_visit=seen.append)
        return [v.arch_id for v in seen]

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert first[:8] != first[8:16]


def test_times_come_from_the_given_clock_and_nothing_collects_garbage() -> None:
    ticks: Iterator[int] = iter(range(0, 10**12, 1_000_000))
    collecting: List[bool] = []

    def clock() -> int:
        collecting.append(gc.isenabled())
        return next(ticks)

    (record,) = measure(block((SPACE.min(),)), SPACE, "dev", clock=clock)
    assert {t for v in record.visits for t in v.times_ms} == {1.0}  # one tick is 1 ms
    assert not any(collecting)
    assert gc.isenabled()


class Flaky:
    """onnxruntime, but for one arch that opens badly and one that fails while it runs."""

    def __init__(self, bad_open: int, bad_run: int) -> None:
        self.real = backends.load("onnxruntime-cpu")
        self.version = self.real.version
        self.opened = 0
        self.bad_open, self.bad_run = bad_open, bad_run

    def open(self, model: bytes, options: backends.Options) -> backends.Session:
        self.opened += 1
        if self.opened == self.bad_open:
            raise BackendError("out of memory")
        session = self.real.open(model, options)
        if self.opened == self.bad_run:

            def infer(feeds: Any) -> Any:
                raise BackendError("engine stopped")

            session.infer = infer  # type: ignore[method-assign]
        return session


def test_an_arch_that_fails_is_recorded_with_its_reason_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flaky = Flaky(2, 3)
    monkeypatch.setattr(profiler.backends, "load", lambda engine: flaky)
    records = measure(block(), SPACE, "dev")
    assert [r.reason for r in records if r.validity == FAILED] == [
        "out of memory",
        "engine stopped",
    ]
    assert [r.p50_ms for r in records if r.validity == FAILED] == [None, None]
    assert [len(r.visits) for r in records] == [8, 0, 0, 8]


def test_scattered_visits_are_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "MAX_SPREAD", 0.0)
    records = measure(block(), SPACE, "dev")
    assert {r.validity for r in records} == {INCONCLUSIVE}
    assert all("scatter" in r.reason for r in records)
