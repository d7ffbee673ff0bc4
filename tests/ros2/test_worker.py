from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, Callable, FrozenSet, Iterator, List, Optional, Tuple

import numpy as np
import pytest

from ramnas_models.errors import BackendError, BudgetError, DataError, EngineError, SourceError
from ramnas_ros.inbox import Inbox
from ramnas_ros.worker import FRAME_HW, Worker


class FakePerception:
    """Answers with the sum of a frame, or fails on it; calls wait while `gate` is cleared."""

    def __init__(self, engine: str, fails_on: Callable[[int], bool], budget: Optional[float]):
        self.engine, self.providers, self.latency_budget_ms = engine, (engine,), budget
        self.models = (SimpleNamespace(file="m.onnx", arch_id="a"),)
        self.choice = SimpleNamespace(p90_ms=2.0, source="here", calibrated=True)
        self.policy, self.switches, self.closed = "fixed", 0, False
        self.sizes: List[int] = []
        self._fails_on, self.gate = fails_on, threading.Event()
        self.gate.set()

    def __call__(self, frames: List[Any]) -> List[Tuple[Any, ...]]:
        assert not self.closed
        assert self.gate.wait(600)
        self.sizes.append(len(frames))
        if any(self._fails_on(int(frame.sum())) for frame in frames):
            raise EngineError(f"{self.engine} is out of order")
        return [(int(frame.sum()),) for frame in frames]

    def close(self) -> None:
        self.closed = True


class Robot:
    """A worker with fake surroundings: a message is a number, its frame that number as one pixel.

    The clock of the inbox stands still, so a batch waits for every camera that has sent something,
    however busy the machine is.
    """

    def __init__(
        self,
        cameras: int = 1,
        batch: bool = False,
        can_fall_back: bool = True,
        budget: Optional[float] = None,
        fails_on: Callable[[str, int], bool] = lambda engine, value: False,
    ) -> None:
        self.opened: List[FakePerception] = []
        self.open_calls: List[Tuple[FrozenSet[str], Tuple[int, int]]] = []
        self.delivered: List[Tuple[int, int, int]] = []
        self.failures_reported = 0
        self.open_errors: List[Exception] = []

        def open_perception(failed: FrozenSet[str], frame_hw: Tuple[int, int]) -> Any:
            self.open_calls.append((failed, frame_hw))
            if self.open_errors:
                raise self.open_errors.pop()
            engine = next((e for e in ("gpu", "cpu") if e not in failed), None)
            if engine is None:
                raise BackendError("no engine is left")
            self.opened.append(FakePerception(engine, lambda v: fails_on(engine, v), budget))
            return self.opened[-1]

        def to_bgr(message: int) -> Any:
            if message < 0:
                raise SourceError(f"image {message} is broken")
            return np.full((1, 1, 1), message)

        def on_failure() -> None:
            self.failures_reported += 1

        self.inbox = Inbox(cameras, together=batch, clock=lambda: 0.0)
        self.worker = Worker(
            self.inbox, open_perception, to_bgr,
            lambda camera, message, image, results, start: self.delivered.append(
                (camera, message, results[0])
            ),
            batch=cameras if batch else 1, can_fall_back=can_fall_back,
            on_failure=on_failure,
        )  # fmt: skip

    def show(self, message: int) -> None:
        """Put a message into the inbox and wait until it has been worked on."""
        before = self._done()
        self.inbox.put(0, message)
        self.until(lambda: self._done() > before)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "waited 60 s in vain"
            time.sleep(0.001)

    def _done(self) -> int:
        worker = self.worker
        return worker.processed + worker.failures + len(worker._refused)


@pytest.fixture
def robots() -> Iterator[Callable[..., Robot]]:
    made: List[Robot] = []

    def make(**options: Any) -> Robot:
        made.append(Robot(**options))
        made[-1].worker.start()
        return made[-1]

    yield make
    for robot in made:
        for perception in robot.opened:
            perception.gate.set()
        robot.worker.close()
        assert all(perception.closed for perception in robot.opened)


def test_every_frame_gets_its_result_and_a_broken_image_is_skipped(robots: Any) -> None:
    robot = robots()
    for message in (3, -1, 5):
        robot.show(message)
    assert robot.delivered == [(0, 3, 3), (0, 5, 5)]
    assert robot.worker.take_refused() == [(0, "image -1 is broken")]
    assert robot.worker.take_refused() == []
    assert robot.worker.failure == ""


def test_frames_that_come_during_a_call_replace_each_other(robots: Any) -> None:
    robot = robots()
    gate = robot.opened[0].gate
    gate.clear()
    robot.inbox.put(0, 1)
    robot.until(lambda: robot.inbox._items[0] is None)
    for message in range(2, 10):
        robot.inbox.put(0, message)
    gate.set()
    robot.until(lambda: len(robot.delivered) == 2)
    assert [message for _, message, _ in robot.delivered] == [1, 9]
    assert robot.inbox.replaced == [7]


def test_the_next_engine_takes_over_from_one_that_fails(robots: Any) -> None:
    robot = robots(fails_on=lambda engine, value: engine == "gpu" and value == 7)
    for message in (1, 7, 8):
        robot.show(message)
    robot.until(lambda: len(robot.delivered) == 2)
    assert robot.delivered == [(0, 1, 1), (0, 8, 8)]
    assert robot.worker.failed_engines == {"gpu": "gpu is out of order"}
    assert (robot.opened[0].closed, robot.worker.perception.engine) == (True, "cpu")
    assert (robot.worker.failure, robot.worker.failures, robot.failures_reported) == ("", 1, 1)


def test_the_last_engine_keeps_trying(robots: Any) -> None:
    robot = robots(fails_on=lambda engine, value: value == 7)
    for message in (7, 7):
        robot.show(message)
    assert robot.worker.failure == "cpu is out of order"
    for message in (7, 2):
        robot.show(message)
    assert robot.delivered == [(0, 2, 2)]
    assert [failed for failed, _ in robot.open_calls] == [
        frozenset(), frozenset({"gpu"}), frozenset({"gpu", "cpu"}),
    ]  # fmt: skip
    assert (robot.worker.failure, list(robot.worker.failed_engines)) == ("", ["gpu"])


def test_an_engine_chosen_by_name_is_kept_when_it_fails(robots: Any) -> None:
    robot = robots(can_fall_back=False, fails_on=lambda engine, value: value == 7)
    robot.show(7)
    assert robot.worker.failure == "gpu is out of order"
    robot.show(2)
    assert (robot.delivered, len(robot.open_calls)) == ([(0, 2, 2)], 1)


def test_models_are_chosen_again_for_the_size_of_the_first_frame(robots: Any) -> None:
    robot = robots(budget=20.0)
    for message in (1, 2):
        robot.show(message)
    assert robot.open_calls == [(frozenset(), FRAME_HW), (frozenset(), (1, 1))]
    assert [p.closed for p in robot.opened] == [True, False]


def test_the_models_stay_if_none_fits_frames_of_the_new_size(robots: Any) -> None:
    robot = robots(budget=20.0)
    robot.open_errors.append(BudgetError("no model fits 20 ms"))
    robot.show(1)
    assert robot.delivered == [(0, 1, 1)]
    assert len(robot.opened) == 1


def test_a_batch_is_filled_up_when_an_image_is_missing_or_broken(robots: Any) -> None:
    robot = robots(cameras=2, batch=True)
    gate = robot.opened[0].gate
    gate.clear()
    robot.inbox.put(0, 1)  # the other camera has sent nothing yet
    robot.until(lambda: robot.inbox._items[0] is None)
    robot.inbox.put(0, 2)
    robot.inbox.put(1, -3)
    gate.set()
    robot.until(lambda: len(robot.delivered) == 2)
    robot.inbox.put(1, 5)
    robot.inbox.put(0, 4)
    robot.until(lambda: len(robot.delivered) == 4)
    assert robot.delivered == [(0, 1, 1), (0, 2, 2), (0, 4, 4), (1, 5, 5)]
    assert robot.opened[0].sizes == [2, 2, 2]


def test_a_change_is_refused_while_other_models_are_opened(robots: Any) -> None:
    robot = robots()
    with robot.worker._swap, pytest.raises(DataError, match="try again in a moment"):
        robot.worker.change(lambda perception: None)
    changed: List[Any] = []
    robot.worker.change(changed.append)
    assert changed == [robot.opened[0]]


def test_after_a_stop_and_a_start_the_same_models_run(robots: Any) -> None:
    robot = robots()
    robot.show(1)
    robot.worker.stop()
    robot.inbox.put(0, 2)
    robot.worker.start()
    robot.show(3)
    assert robot.delivered == [(0, 1, 1), (0, 3, 3)]
    assert len(robot.opened) == 1


def test_p50_and_p90_start_over_when_the_budget_changes(robots: Any) -> None:
    robot = robots()
    for message in range(5):
        robot.show(message)
    running = robot.worker.running(("detection",))
    assert running.calls == 5
    assert 0 < running.p50_ms <= running.p90_ms
    assert running.models == (("detection", "m.onnx", "a"),)
    robot.opened[0].latency_budget_ms = 9.0
    robot.show(6)
    assert robot.worker.running(("detection",)).calls == 1
