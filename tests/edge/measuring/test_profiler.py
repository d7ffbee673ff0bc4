"""Blocks measured on a real engine, or on stand-ins where only order and times matter."""

from __future__ import annotations

import gc
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from ramnas_edge.engines import backends
from ramnas_edge.measuring import profiler
from ramnas_edge.measuring.profiler import measure
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, OK, Block, Target, Visit
from ramnas_edge.measuring.runner import MAX_WARM_UP, Runner
from ramnas_models.errors import BackendError, OutOfMemoryError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space

SPACE = load_space("micro")
ARCHS = tuple(sample_by_macs(SPACE, np.random.default_rng(0), 8))
OUTPUTS = {
    "classification": ("logits",),
    "detection": ("class_logits", "box_regression"),
    "segmentation": ("class_map",),
}
FAST = {"runs": 6, "warm_up_ms": 0.0, "timed_ms": 0.0, "most_rounds": 8}


class StandInRunner:
    """Takes the place of a Runner where the engine does not matter: every run takes 1 ms."""

    running = backends.Running("stand-in", "1.0", ("StandIn",), "fp32")
    outputs = ("logits",)

    def __init__(self, *arguments: object) -> None: ...

    def warm_up(self, at_least_ms: float, clock: backends.Clock) -> None: ...

    def time(self, runs: int, at_least_ms: float, clock: backends.Clock) -> List[float]:
        return [1.0] * runs

    def stages(self, clock: backends.Clock) -> Dict[str, float]:
        return {"run": 1.0}

    def close(self) -> None: ...


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "Runner", StandInRunner)


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
        Target(num_classes=10, precision="int8"),
        Target("detection", 10, input_hw=(48, 64)),
        Target("segmentation", 11, input_hw=(48, 64)),
        Target("segmentation", 11, input_hw=(33, 47), image_input=False, batch=2),
        Target("detection", 10, input_hw=(48, 64), frame_hw=(96, 128)),
        Target("segmentation", 11, input_hw=(48, 64), frame_hw=(96, 128)),
        Target("detection", 10, input_hw=(48, 64), precision="int8"),
        Target("segmentation", 11, input_hw=(48, 64), precision="int8"),
    ],
    ids=[
        "engine",
        "float batch 3",
        "whole call",
        "other size",
        "int8",
        "detector",
        "segmenter",
        "segmenter, float batch 2",
        "detector's whole call",
        "segmenter's whole call",
        "int8 detector",
        "int8 segmenter",
    ],
)
def test_every_arch_gets_a_record_with_its_raw_times(target: Target) -> None:
    seen: List[Visit] = []
    records = measure(block(ARCHS[:2], target=target), SPACE, "dev", on_visit=seen.append)
    assert [r.arch for r in records] == list(ARCHS[:2])
    for record in records:
        assert record.validity in (OK, INCONCLUSIVE)
        assert record.providers == ("CPUExecutionProvider",)
        assert len(record.visits) == 8
        assert sum(len(v.times_ms) for v in record.visits) >= 44
        assert record.p50_ms is not None
        assert record.p90_ms is not None
        assert 0 < record.p50_ms <= record.p90_ms
        assert record.input_hw == target.hw(record.arch)
        assert record.outputs == OUTPUTS[target.task]
        stages = (
            {"resize", "engine", "decode"} if target.frame_hw else {"copy_in", "run", "copy_out"}
        )
        assert set(record.stages_ms) == stages
        assert all(ms > 0 for ms in record.stages_ms.values())
        assert {v.arch_id for v in record.anchors} == {a.id for a in ARCHS[5:7]}
        assert len(record.anchors) == 8 * 4  # both anchors at both ends of every round
    assert len(seen) == 8 * (2 + 4)


def test_a_larger_network_takes_longer() -> None:
    small, large = measure(block((SPACE.min(), SPACE.max())), SPACE, "dev")
    assert small.p50_ms is not None
    assert large.p50_ms is not None
    assert large.p50_ms > 1.5 * small.p50_ms  # it has 31 times the MACs


@pytest.mark.usefixtures("no_engine")
def test_rounds_are_shuffled_and_the_same_seed_shuffles_alike() -> None:
    def order(seed: int) -> List[str]:
        seen: List[Visit] = []
        measure(block(seed=seed), SPACE, "dev", on_visit=seen.append)
        return [v.arch_id for v in seen]

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert first[:8] != first[8:16]


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(("wanted", "rounds"), [(float("inf"), 8), (-1.0, 20)])
def test_rounds_go_on_until_the_levels_are_known_well_enough(
    monkeypatch: pytest.MonkeyPatch, wanted: float, rounds: int
) -> None:
    monkeypatch.setattr(profiler, "REPEATABLE", wanted)
    records = measure(block(most_rounds=20), SPACE, "dev")
    assert [len(r.visits) for r in records] == [rounds] * 4


def test_times_come_from_the_given_clock_and_garbage_collection_is_off() -> None:
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
    """onnxruntime, but one session cannot be opened and another one fails when it runs."""

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


class WithoutArgMax:
    """onnxruntime, but it refuses ArgMax, as its CUDA provider did until 2025."""

    def __init__(self) -> None:
        self.real = backends.load("onnxruntime-cpu")
        self.version = self.real.version

    def open(self, model: bytes, options: backends.Options) -> backends.Session:
        if b"ArgMax" in model:
            raise BackendError("no kernel for ArgMax")
        return self.real.open(model, options)


def test_without_argmax_a_segmenter_is_measured_on_its_logits_and_the_record_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = WithoutArgMax()
    monkeypatch.setattr(profiler.backends, "load", lambda name: engine)
    target = Target("segmentation", 11, input_hw=(48, 64))
    for record in measure(block(ARCHS[:1], target=target), SPACE, "dev"):
        assert record.outputs == ("class_logits",)
        assert record.p50_ms is not None


def test_an_unknown_task_is_recorded_as_failed_and_the_reason_lists_the_known_ones() -> None:
    (record,) = measure(block((SPACE.min(),), target=Target("pose", 10)), SPACE, "dev")
    assert record.validity == FAILED
    assert "'pose'" in record.reason
    assert "detection" in record.reason


@pytest.mark.usefixtures("no_engine")
def test_scattered_visits_are_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "MAX_SPREAD", -1.0)
    records = measure(block(), SPACE, "dev")
    assert {r.validity for r in records} == {INCONCLUSIVE}
    assert all("scatter" in r.reason for r in records)


class Scripted:
    """A Runner with its own clock, on which the calls take the given milliseconds in turn."""

    def __init__(self, times_ms: List[float]) -> None:
        self.runner = object.__new__(Runner)
        self.runner.call = self.call  # type: ignore[method-assign]
        self.times_ms, self.now, self.calls = iter(times_ms), 0, 0

    def call(self) -> None:
        self.now += int(1e6 * next(self.times_ms))
        self.calls += 1

    def clock(self) -> int:
        return self.now


def test_warm_up_ends_when_runs_get_no_faster() -> None:
    scripted = Scripted([30, 20, 15, 12, 11.9, 11.8, 11.7])
    scripted.runner.warm_up(0.0, scripted.clock)
    assert scripted.calls == 5  # 11.9 is within 3 % of 12


def test_warm_up_ends_even_if_runs_keep_getting_faster() -> None:
    scripted = Scripted([100 * 0.9**i for i in range(50)])
    scripted.runner.warm_up(0.0, scripted.clock)
    assert scripted.calls == MAX_WARM_UP


def test_warm_up_of_a_fast_network_lasts_the_given_time() -> None:
    scripted = Scripted([1.0] * 99)
    scripted.runner.warm_up(20.0, scripted.clock)
    assert scripted.calls == 20


def test_visits_have_their_times_and_sustained_runs_come_after_them() -> None:
    ticks: Iterator[int] = iter(range(0, 10**12, 1_000_000))
    (record,) = measure(
        block((SPACE.min(),), sustained_s=0.2), SPACE, "dev", clock=lambda: next(ticks)
    )
    starts = [v.start_s for v in record.visits]
    assert starts == sorted(starts)
    assert all(v.end_s - v.start_s >= sum(v.times_ms) / 1e3 for v in record.visits)
    assert record.sustained is not None
    assert record.sustained.start_s >= record.visits[-1].end_s
    assert record.sustained.seconds >= 0.2
    assert record.sustained.runs == 67  # 3 ticks of 1 ms each, until 200 ms have passed


def test_a_lack_of_memory_ends_the_block_without_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing about a single arch: each is tried again in a process of its own."""

    def full(*arguments: object) -> Any:
        raise OutOfMemoryError("no memory left")

    monkeypatch.setattr(profiler, "Runner", full)
    with pytest.raises(OutOfMemoryError):
        measure(block(), SPACE, "dev")
