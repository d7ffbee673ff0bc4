"""Jobs through a real measuring process; the board's sensors follow a script where they matter."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Callable, Iterator, List, Sequence

import msgspec
import numpy as np
import psutil
import pytest

from ramnas_edge.board.cores import Throttling
from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Sample
from ramnas_edge.measuring import child, messages, supervisor
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, Block, LatencyRecord, Target, Visit
from ramnas_edge.measuring.supervisor import Supervisor
from ramnas_models.errors import BackendError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, load_space
from tests.edge.measuring.hanging import Hanging

SPACE = load_space("micro")
ARCHS = tuple(sample_by_macs(SPACE, np.random.default_rng(0), 6))
DEVICE = Device("board", 4, 8, "Linux")
HANG_S = 300  # only a hang lasts so long

Start = Callable[..., Supervisor]


class Script:
    """Telemetry that answers with `sample(time_s)`, a hundred times a second."""

    source = "script"

    def __init__(self, sample: Callable[[float], Sample]) -> None:
        self.sample = sample

    def poll(self) -> None: ...

    def between(self, start_s: float, end_s: float) -> List[Sample]:
        count = max(5, int((end_s - start_s) * 100))
        return [self.sample(t) for t in np.linspace(start_s, end_s, count)]


def cool(time_s: float) -> Sample:
    return Sample(time_s, temperature_c={"cpu": 50.0}, clock_mhz={"cpu": 2000.0})


def hot(time_s: float) -> Sample:
    return Sample(time_s, temperature_c={"cpu": 90.0}, clock_mhz={"cpu": 1200.0})


class Weather:
    """Cool, but hot from `heat()` to `end()`."""

    def __init__(self) -> None:
        self.from_s = self.until_s = float("inf")

    def __call__(self, time_s: float) -> Sample:
        return hot(time_s) if self.from_s <= time_s < self.until_s else cool(time_s)

    def heat(self) -> None:
        self.from_s = time.monotonic()

    def end(self) -> None:
        self.until_s = time.monotonic()

    @property
    def is_hot(self) -> bool:
        return self.from_s < self.until_s == float("inf")


def job(archs: Sequence[Arch], **changes: object) -> messages.Job:
    block = Block(
        "b", "run", Target(num_classes=10), tuple(archs), ARCHS[4:6], most_rounds=8,
        warm_up_ms=0.0, timed_ms=0.0,
    )  # fmt: skip
    return messages.Job(msgspec.structs.replace(block, **changes), "dev")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts supervisors that do not wait for the sensors of a real board."""
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    monkeypatch.setattr(supervisor, "IDLE_S", 0.1)
    monkeypatch.setattr(supervisor, "SUSTAINED_S", 0.2)
    monkeypatch.setattr(supervisor, "CALM_S", 0.1)
    started: List[Supervisor] = []

    def make(
        sample: Callable[[float], Sample] = cool,
        clock: Callable[[], float] = time.monotonic,
        device: Device = DEVICE,
    ) -> Supervisor:
        script = Script(sample)
        started.append(Supervisor(SPACE, device, script, clock=clock))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for one in started:
        one.close()


def until_idle(
    running: Supervisor,
    on_visit: Callable[[Visit], None] = lambda visit: None,
    on_step: Callable[[], None] = lambda: None,
) -> List[LatencyRecord]:
    records = []
    deadline_s = time.monotonic() + HANG_S
    while not running.idle:
        assert time.monotonic() < deadline_s
        select.select([running.fileno()], [], [], 0.02)
        for news in running.step():
            if isinstance(news, messages.Measured):
                records.append(news.record)
            else:
                on_visit(news.visit)
        on_step()
    return records


def waits_to_try_again(running: Supervisor) -> bool:
    return any(job.again for job in running._waiting)


def process(running: Supervisor) -> psutil.Process:
    return psutil.Process(running._child._process.pid)


def test_records_hold_the_conditions_of_the_board(start: Start) -> None:
    running = start()
    running.submit(job(ARCHS[:3]))
    records = until_idle(running)
    assert {r.arch for r in records} == set(ARCHS[:3])  # in another order if one was doubtful
    for record in records:
        assert record.device == DEVICE
        assert record.conditions is not None
        assert record.conditions.source == "script"
        assert record.conditions.temperature_c == {"cpu": 50.0}
        assert record.energy is None  # there is no power sensor


def throttled(time_s: float) -> Sample:
    """The CPU quota stops this process in every second period; the shortest visit takes several."""
    periods = int(100_000 * time_s)
    return Sample(time_s, quota=Throttling(periods, periods // 2))


def test_a_quota_smaller_than_what_is_timed_belongs_to_the_device_class(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(throttled, device=msgspec.structs.replace(DEVICE, cpu_quota=0.5))
    running.submit(job(ARCHS[:2]))
    for record in until_idle(running):
        assert record.conditions is not None
        assert record.conditions.quota is not None
        assert record.conditions.quota.throttled >= record.conditions.quota.periods // 2 - 1
        assert "quota" not in record.reason
    (warning,) = [m for m in caplog.messages if "quota" in m]
    assert "the CPU quota of 0.5 cores stopped this process in" in warning


def test_a_record_that_a_wide_quota_stopped_is_doubtful(start: Start) -> None:
    running = start(throttled, device=msgspec.structs.replace(DEVICE, cpu_quota=2.0))
    running.submit(job(ARCHS[:1], rounds=40))
    (record,) = until_idle(running)
    assert record.validity == INCONCLUSIVE
    assert "something else in this container works too" in record.reason


def test_energy_is_what_sustained_runs_draw_above_idle(start: Start) -> None:
    first_visit_s = float("inf")

    def watts(time_s: float) -> Sample:
        return Sample(time_s, power_mw={"VDD_IN": 8000.0 if time_s > first_visit_s else 5000.0})

    def note(visit: Visit) -> None:
        nonlocal first_visit_s
        first_visit_s = min(first_visit_s, visit.start_s)

    running = start(watts)
    running.submit(job(ARCHS[:1]))
    (record,) = until_idle(running, note)
    assert record.sustained is not None
    assert record.sustained.seconds >= supervisor.SUSTAINED_S
    assert record.energy is not None
    assert record.energy.idle_mw == pytest.approx(5000)
    assert record.energy.loaded_mw == pytest.approx(8000)
    each_s = record.sustained.seconds / record.sustained.runs
    assert record.energy.per_inference_mj == pytest.approx(3000 * each_s)


def test_throttled_archs_are_measured_again_after_the_throttle(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    weather = Weather()
    running = start(weather)
    running.submit(job(ARCHS[:2]))
    first = until_idle(running)
    assert all(r.p50_ms is not None for r in first)
    before = process(running)
    weather.heat()
    running.submit(job(ARCHS[2:4], id="c"))
    steps_while_hot = 0

    def end_after_some_steps() -> None:
        nonlocal steps_while_hot
        if weather.is_hot and waits_to_try_again(running):
            steps_while_hot += 1
            if steps_while_hot == 20:
                weather.end()

    second = until_idle(running, on_step=end_after_some_steps)
    assert {r.arch for r in second} == set(ARCHS[2:4])
    assert not any("throttle" in r.reason for r in second)
    assert min(v.start_s for r in second for v in r.visits) >= weather.until_s
    assert process(running) != before  # a fresh process
    assert "is measured again: throttled" in caplog.text


def test_sensors_that_are_silent_after_a_throttle_do_not_count_as_cool(start: Start) -> None:
    """A busy board's telemetry may come late, and then show that the board is still hot."""
    weather = Weather()
    looks: List[str] = []

    class Late(Script):
        def between(self, start_s: float, end_s: float) -> List[Sample]:
            if weather.is_hot and waits_to_try_again(running):
                looks.append("silent" if len(looks) < 10 else "hot")
                if looks[-1] == "silent":
                    return []
                if len(looks) == 20:
                    weather.end()
            return super().between(start_s, end_s)

    running = start(weather)
    running._telemetry = Late(weather)  # type: ignore[assignment]
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    weather.heat()
    running.submit(job(ARCHS[1:2], id="c"))
    (record,) = until_idle(running)
    assert len(looks) == 20
    assert min(v.start_s for v in record.visits) >= weather.until_s
    assert "throttle" not in record.reason


def test_a_throttle_without_end_leaves_inconclusive_records(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "COOL_S", 0.1)
    weather = Weather()
    running = start(weather)
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    weather.heat()
    running.submit(job(ARCHS[1:3], id="c"))
    records = until_idle(running)
    assert [r.validity for r in records] == [INCONCLUSIVE] * 2
    assert all(r.reason.startswith("throttle") for r in records)
    assert all(r.p50_ms is not None for r in records)  # what was measured is kept


def test_an_arch_that_kills_its_process_alone_has_failed_and_the_next_job_is_measured(
    start: Start,
) -> None:
    running = start()
    running.submit(job(ARCHS[:1], rounds=100_000))  # it cannot end before it is killed
    killed: List[int] = []

    def kill(visit: Visit) -> None:
        if not killed:
            killed.append(process(running).pid)
            os.kill(killed[0], signal.SIGKILL)

    (record,) = until_idle(running, kill)
    assert record.validity == FAILED
    assert "killed by SIGKILL" in record.reason
    running.submit(job(ARCHS[1:2], id="c"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


def test_a_process_that_dies_between_two_jobs_is_replaced(start: Start) -> None:
    running = start()
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    process(running).kill()
    process(running).wait(timeout=HANG_S)
    running.submit(job(ARCHS[1:2], id="c"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


def test_a_lack_of_memory_fails_the_arch_and_the_next_job_is_measured(start: Start) -> None:
    """A limit on the address space makes the engine's own allocation fail, as on a full board."""
    import resource

    running = start()
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    child = process(running)
    limit = child.memory_info().vms + 2**24
    resource.prlimit(child.pid, resource.RLIMIT_AS, (limit, limit))
    huge = job([SPACE.max()], target=Target(num_classes=10, batch=4096), id="c")
    running.submit(huge)
    (record,) = until_idle(running)  # it was alone in its block, so it is not tried again
    assert record.validity == FAILED
    assert "out of memory" in record.reason
    running.submit(job(ARCHS[1:2], id="d"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


@pytest.mark.parametrize("where", ["open", "visit"])
def test_a_process_that_hangs_is_killed_and_its_archs_are_tried_one_by_one(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", 60.0)
    hanging = Hanging(tmp_path, monkeypatch, where, ARCHS[1])
    running = start(clock=hanging.clock)
    running.submit(job(ARCHS[:3]))
    records = {record.arch: record for record in until_idle(running)}
    assert set(records) == set(ARCHS[:3])
    assert records[ARCHS[1]].validity == FAILED
    assert "said nothing for" in records[ARCHS[1]].reason
    assert "killed by SIGKILL" in records[ARCHS[1]].reason
    assert all(records[arch].p50_ms is not None for arch in (ARCHS[0], ARCHS[2]))
    assert len(hanging.processes) == 2  # with the whole block, then alone
    assert hanging.ended
    running.submit(job(ARCHS[3:4], id="c"))
    (record,) = until_idle(running)
    assert record.p50_ms is not None


def test_a_process_that_hangs_as_it_starts_is_an_error(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", 60.0)
    hanging = Hanging(tmp_path, monkeypatch, "start", ARCHS[0])
    running = start(clock=hanging.clock)
    running.submit(job(ARCHS[:1]))
    with pytest.raises(BackendError, match=r"said nothing for 3\d\d s: killed by SIGKILL, as soon"):
        until_idle(running)
    assert hanging.ended


class Hours:
    """The machine's clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added_s


def test_a_slow_process_that_talks_is_not_killed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STALL_S", float("inf"))
    hours = Hours()
    running = start(clock=hours)
    before = process(running)
    running.submit(job(ARCHS[:2], rounds=100_000))
    deadline_s = time.monotonic() + HANG_S
    while hours.added_s < 10_000.0:  # much longer than it may be silent
        assert time.monotonic() < deadline_s
        select.select([running.fileno()], [], [], 0.02)
        if running.step():  # each visit seems to come 100 s after the one before
            hours.added_s += 100.0
    assert process(running) == before


def test_an_idle_process_and_one_that_was_stopped_with_its_parent_are_not_taken_to_hang(
    start: Start,
) -> None:
    hours = Hours()
    running = start(clock=hours)
    before = process(running)
    running.submit(job(ARCHS[:1]))
    until_idle(running)
    for _ in range(1000):
        hours.added_s += 5.0  # idle for more than an hour
        running.step()
    running.submit(job(ARCHS[1:2], id="c", rounds=100_000))
    running.step()
    for _ in range(10):
        hours.added_s += 3600.0  # as after Ctrl-Z and `fg`
        running.step()
    assert process(running) == before


@pytest.mark.parametrize(
    ("engine", "most_s"), [("onnxruntime-cpu", 1200.0), ("tensorrt", 5 * 3600.0)]
)
def test_a_whole_block_may_take_minutes_to_open_and_hours_where_engines_are_built(
    start: Start, engine: str, most_s: float
) -> None:
    running = start()
    running._current = job(ARCHS * 2, target=Target(num_classes=10, engine=engine))
    running._child_is_ready = False
    assert most_s / 2 < running._patience_s() < most_s
    running._longest_s = 2.0  # a visit has come, and the longest pause was 2 s
    assert running._patience_s() == 3 * 2.0 + 120.0
    running._current = None


def test_a_process_that_outlives_sigkill_is_left_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits in a driver cannot be killed, and its parent must not wait for ever."""
    monkeypatch.setattr(child, "KILLED_S", 0.1)
    running = start()
    undying = running._child._process
    with monkeypatch.context() as patch:
        patch.setattr(undying, "kill", lambda: None)
        os.kill(undying.pid, signal.SIGSTOP)
        assert "outlives SIGKILL" in running._child.close(patience_s=0.0)
    undying.kill()
    assert undying.wait(HANG_S) == -signal.SIGKILL


def test_a_process_that_has_ended_is_waited_for_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting twice for one that cannot be killed took 12 s, and the host gives up after 10 s."""
    running = start()
    dead, close = running._child, child.Child.close
    closed: List[child.Child] = []

    def noted(one: child.Child, *, patience_s: float = 2.0) -> str:
        closed.append(one)
        return close(one, patience_s=patience_s)

    monkeypatch.setattr(child.Child, "close", noted)
    running.submit(job(ARCHS[:1]))
    deadline_s = time.monotonic() + HANG_S
    while running._current is None:
        assert time.monotonic() < deadline_s
        running.step()
        time.sleep(0.01)
    process(running).kill()
    while running._child is dead:
        assert time.monotonic() < deadline_s
        running.step()
        time.sleep(0.01)
    assert closed == [dead]
