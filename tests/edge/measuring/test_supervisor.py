"""Jobs through a real measuring process; the board's sensors are a script where they matter."""

from __future__ import annotations

import os
import signal
import time
from typing import Callable, Iterator, List, Sequence

import msgspec
import numpy as np
import psutil
import pytest

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Sample
from ramnas_edge.measuring import messages, supervisor
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, Block, LatencyRecord, Target
from ramnas_edge.measuring.supervisor import Supervisor
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space

SPACE = load_space("micro")
ARCHS = tuple(sample_by_macs(SPACE, np.random.default_rng(0), 6))
DEVICE = Device("board", 4, 8, "Linux")


class Script:
    """Telemetry that answers with `sample(time_s)`, ten times a second."""

    source = "script"

    def __init__(self, sample: Callable[[float], Sample]) -> None:
        self.sample = sample

    def poll(self) -> None: ...

    def between(self, start_s: float, end_s: float) -> List[Sample]:
        count = max(2, int((end_s - start_s) * 10))
        return [self.sample(t) for t in np.linspace(start_s, end_s, count)]


def cool(time_s: float) -> Sample:
    return Sample(time_s, temperature_c={"cpu": 50.0}, clock_mhz={"cpu": 2000.0})


def hot(time_s: float) -> Sample:
    return Sample(time_s, temperature_c={"cpu": 90.0}, clock_mhz={"cpu": 1200.0})


def job(archs: Sequence[Arch], **changes: object) -> messages.Job:
    block = Block(
        "b", "run", Target(num_classes=10), tuple(archs), ARCHS[4:6], warm_up_ms=0.0, timed_ms=0.0
    )
    return messages.Job(msgspec.structs.replace(block, **changes), "dev")


@pytest.fixture
def start() -> Iterator[Callable[..., Supervisor]]:
    started: List[Supervisor] = []

    def make(sample: Callable[[float], Sample] = cool) -> Supervisor:
        started.append(Supervisor(SPACE, DEVICE, Script(sample)))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for one in started:
        one.close()


def until_idle(
    running: Supervisor, on_visit: Callable[[], None] = lambda: None
) -> List[LatencyRecord]:
    records = []
    deadline = time.monotonic() + 120
    while not running.idle:
        assert time.monotonic() < deadline
        for news in running.step():
            if isinstance(news, messages.Measured):
                records.append(news.record)
            else:
                on_visit()
        time.sleep(0.01)
    return records


def process(running: Supervisor) -> psutil.Process:
    return psutil.Process(running._child._process.pid)


def test_records_say_how_the_board_was(start: Callable[..., Supervisor]) -> None:
    running = start()
    running.submit(job(ARCHS[:3]))
    records = until_idle(running)
    assert {r.arch for r in records} == set(ARCHS[:3])  # a doubtful one comes later
    for record in records:
        assert record.device == DEVICE
        assert record.conditions is not None
        assert record.conditions.source == "script"
        assert record.conditions.temperature_c == {"cpu": 50.0}
        assert record.energy is None  # no power sensor: no figure


def test_energy_is_what_sustained_runs_draw_above_idle(start: Callable[..., Supervisor]) -> None:
    working = {"from": float("inf")}

    def watts(time_s: float) -> Sample:
        return Sample(time_s, power_mw={"VDD_IN": 8000.0 if time_s > working["from"] else 5000.0})

    def begin() -> None:
        working["from"] = min(working["from"], time.monotonic())

    running = start(watts)
    running.submit(job(ARCHS[:1]))
    (record,) = until_idle(running, begin)
    assert record.sustained is not None
    assert record.sustained.seconds >= supervisor.SUSTAINED_S
    assert record.energy is not None
    assert record.energy.idle_mw == pytest.approx(5000)
    assert record.energy.loaded_mw == pytest.approx(8000)
    each_s = record.sustained.seconds / record.sustained.runs
    assert record.energy.per_inference_mj == pytest.approx(3000 * each_s)


def test_throttled_archs_are_measured_again_after_the_throttle(
    start: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    state = {"until": float("inf"), "from": float("inf")}

    def sample(time_s: float) -> Sample:
        return hot(time_s) if state["from"] <= time_s < state["until"] else cool(time_s)

    running = start(sample)
    running.submit(job(ARCHS[:2], timed_ms=30.0))
    first = until_idle(running)
    assert all(r.p50_ms is not None for r in first)
    before = process(running)
    state["from"] = time.monotonic()
    state["until"] = state["from"] + 4.0
    running.submit(job(ARCHS[2:4], id="c", timed_ms=30.0))
    second = until_idle(running)
    assert {r.arch for r in second} == set(ARCHS[2:4])
    assert not any("throttle" in r.reason for r in second)
    assert min(v.start_s for r in second for v in r.visits) >= state["until"]
    assert process(running) != before  # a fresh process
    assert "again: " in caplog.text


def test_sensors_that_are_silent_after_a_throttle_do_not_count_as_cool(
    start: Callable[..., Supervisor],
) -> None:
    """A busy board's telemetry may be seconds late, and then say that it is still hot."""
    state = {"from": float("inf"), "until": float("inf")}

    def sample(time_s: float) -> Sample:
        return hot(time_s) if state["from"] <= time_s < state["until"] else cool(time_s)

    class Late(Script):
        def between(self, start_s: float, end_s: float) -> List[Sample]:
            silent = any(job.again for job in running._waiting) and end_s < state["until"] - 2.0
            return [] if silent else super().between(start_s, end_s)

    running = start(sample)
    running._telemetry = Late(sample)  # type: ignore[assignment]
    running.submit(job(ARCHS[:1], timed_ms=30.0))
    until_idle(running)
    state["from"] = time.monotonic()
    state["until"] = state["from"] + 8.0
    running.submit(job(ARCHS[1:2], id="c", timed_ms=30.0))
    (record,) = until_idle(running)
    assert min(v.start_s for v in record.visits) >= state["until"]
    assert "throttle" not in record.reason


def test_a_throttle_without_end_leaves_inconclusive_records(
    start: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "COOL_S", 1.0)
    state = {"from": float("inf")}
    running = start(lambda time_s: hot(time_s) if time_s >= state["from"] else cool(time_s))
    running.submit(job(ARCHS[:1], timed_ms=30.0))
    until_idle(running)
    state["from"] = time.monotonic()
    running.submit(job(ARCHS[1:3], id="c", timed_ms=30.0))
    records = until_idle(running)
    assert [r.validity for r in records] == [INCONCLUSIVE] * 2
    assert all(r.reason.startswith("throttle") for r in records)
    assert all(r.p50_ms is not None for r in records)  # what was measured is kept


def test_an_arch_that_kills_its_process_alone_has_failed_and_the_run_goes_on(
    start: Callable[..., Supervisor],
) -> None:
    running = start()
    running.submit(job(ARCHS[:1], timed_ms=50.0))
    killed: List[int] = []

    def kill() -> None:
        if not killed:
            killed.append(process(running).pid)
            os.kill(killed[0], signal.SIGKILL)

    (record,) = until_idle(running, kill)
    assert record.validity == FAILED
    assert "killed by SIGKILL" in record.reason
    running.submit(job(ARCHS[1:2], id="c"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


def test_a_process_killed_at_rest_is_replaced(start: Callable[..., Supervisor]) -> None:
    running = start()
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    process(running).kill()
    process(running).wait(timeout=10)
    running.submit(job(ARCHS[1:2], id="c"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


def test_want_of_memory_fails_the_arch_and_not_the_run(start: Callable[..., Supervisor]) -> None:
    """The limit of address space makes the engine's own allocation fail, as a full board does."""
    import resource

    running = start()
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    child = process(running)
    roof = child.memory_info().vms + 2**24
    resource.prlimit(child.pid, resource.RLIMIT_AS, (roof, roof))
    huge = job([SPACE.max()], target=Target(num_classes=10, batch=4096), id="c")
    running.submit(huge)
    # alone in the block: it is not tried a third time
    (record,) = until_idle(running)
    assert record.validity == FAILED
    assert "out of memory" in record.reason
    running.submit(job(ARCHS[1:2], id="d"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None
