from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, Callable, FrozenSet, Iterator, List, Optional, Tuple

import numpy as np
import pytest

from ramnas_models.errors import BackendError, BudgetError, DataError, EngineError, SourceError
from ramnas_ros.newest import Newest
from ramnas_ros.worker import FRAME_HW, Worker


class Scripted:
    """Stands in for a Perception: an answer is the sum of a frame, an engine may fail on it."""

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
        self.gate.wait(30)
        self.sizes.append(len(frames))
        if any(self._fails_on(int(frame.sum())) for frame in frames):
            raise EngineError(f"{self.engine} is out of order")
        return [(int(frame.sum()),) for frame in frames]

    def close(self) -> None:
        self.closed = True


class Robot:
    """A worker with what is around it; messages are numbers, frames of 1x1 that hold them."""

    def __init__(
        self,
        cameras: int = 1,
        batch: bool = False,
        falls: bool = True,
        budget: Optional[float] = None,
        fails_on: Callable[[str, int], bool] = lambda engine, value: False,
    ) -> None:
        self.opened: List[Scripted] = []
        self.asked: List[Tuple[FrozenSet[str], Tuple[int, int]]] = []
        self.delivered: List[Tuple[int, int, int]] = []
        self.noticed = 0
        self.refuses: List[Exception] = []

        def open_perception(failed: FrozenSet[str], frame_hw: Tuple[int, int]) -> Any:
            self.asked.append((failed, frame_hw))
            if self.refuses:
                raise self.refuses.pop()
            engine = next((e for e in ("gpu", "cpu") if e not in failed), None)
            if engine is None:
                raise BackendError("no engine is left")
            self.opened.append(Scripted(engine, lambda v: fails_on(engine, v), budget))
            return self.opened[-1]

        def to_bgr(message: int) -> Any:
            if message < 0:
                raise SourceError(f"image {message} is broken")
            return np.full((1, 1, 1), message)

        def notice() -> None:
            self.noticed += 1

        self.inbox = Newest(cameras, together=batch)
        self.worker = Worker(
            self.inbox, open_perception, to_bgr,
            lambda camera, message, image, results, start: self.delivered.append(
                (camera, message, results[0])
            ),
            batch=cameras if batch else 1, falls=falls, noticed=notice,
        )  # fmt: skip

    def show(self, message: int, camera: int = 0) -> None:
        """Put it, and wait until it has been worked on."""
        before = self._done()
        self.inbox.put(camera, message)
        self.until(lambda: self._done() > before)

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, "it never came"
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


def test_every_frame_has_its_result_and_a_broken_one_is_left_out(robots: Any) -> None:
    robot = robots()
    for message in (3, -1, 5):
        robot.show(message)
    assert robot.delivered == [(0, 3, 3), (0, 5, 5)]
    assert robot.worker.take_refused() == [(0, "image -1 is broken")]
    assert robot.worker.take_refused() == []
    assert robot.worker.failure == ""


def test_while_one_frame_is_worked_on_the_next_ones_replace_each_other(robots: Any) -> None:
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


def test_an_engine_that_fails_is_left_for_the_next_one(robots: Any) -> None:
    robot = robots(fails_on=lambda engine, value: engine == "gpu" and value == 7)
    for message in (1, 7, 8):
        robot.show(message)
    robot.until(lambda: len(robot.delivered) == 2)
    assert robot.delivered == [(0, 1, 1), (0, 8, 8)]
    assert robot.worker.left == {"gpu": "gpu is out of order"}
    assert (robot.opened[0].closed, robot.worker.perception.engine) == (True, "cpu")
    assert (robot.worker.failure, robot.worker.failures, robot.noticed) == ("", 1, 1)


def test_when_no_engine_is_left_the_last_one_goes_on_trying(robots: Any) -> None:
    robot = robots(fails_on=lambda engine, value: value == 7)
    for message in (7, 7):
        robot.show(message)
    assert robot.worker.failure == "cpu is out of order"
    for message in (7, 2):
        robot.show(message)
    assert robot.delivered == [(0, 2, 2)]
    assert [failed for failed, _ in robot.asked] == [
        frozenset(), frozenset({"gpu"}), frozenset({"gpu", "cpu"}),
    ]  # fmt: skip
    assert (robot.worker.failure, list(robot.worker.left)) == ("", ["gpu"])


def test_an_engine_that_was_named_is_kept(robots: Any) -> None:
    robot = robots(falls=False, fails_on=lambda engine, value: value == 7)
    robot.show(7)
    assert robot.worker.failure == "gpu is out of order"
    robot.show(2)
    assert (robot.delivered, len(robot.asked)) == ([(0, 2, 2)], 1)


def test_models_are_chosen_again_for_the_size_of_the_first_frame(robots: Any) -> None:
    robot = robots(budget=20.0)
    for message in (1, 2):
        robot.show(message)
    assert robot.asked == [(frozenset(), FRAME_HW), (frozenset(), (1, 1))]
    assert [p.closed for p in robot.opened] == [True, False]


def test_if_none_fits_frames_of_that_size_the_models_stay(robots: Any) -> None:
    robot = robots(budget=20.0)
    robot.refuses.append(BudgetError("no model fits 20 ms"))
    robot.show(1)
    assert robot.delivered == [(0, 1, 1)]
    assert len(robot.opened) == 1


def test_a_batch_is_whole_though_one_image_is_broken(robots: Any) -> None:
    robot = robots(cameras=2, batch=True)
    robot.show(1, camera=0)  # the other has not been seen yet
    robot.inbox.put(0, 2)
    robot.show(-3, camera=1)
    robot.until(lambda: len(robot.delivered) == 2)
    robot.inbox.put(1, 5)
    robot.show(4, camera=0)
    robot.until(lambda: len(robot.delivered) == 4)
    assert robot.delivered == [(0, 1, 1), (0, 2, 2), (0, 4, 4), (1, 5, 5)]
    assert robot.opened[0].sizes == [2, 2, 2]


def test_a_change_is_refused_while_another_engine_is_opened(robots: Any) -> None:
    robot = robots()
    with robot.worker._swap, pytest.raises(DataError, match="try again in a moment"):
        robot.worker.change(lambda perception: None)
    changed: List[Any] = []
    robot.worker.change(changed.append)
    assert changed == [robot.opened[0]]


def test_stopped_and_started_again_it_goes_on_with_the_same_models(robots: Any) -> None:
    robot = robots()
    robot.show(1)
    robot.worker.stop()
    robot.inbox.put(0, 2)
    robot.worker.start()
    robot.show(3)
    assert robot.delivered == [(0, 1, 1), (0, 3, 3)]
    assert len(robot.opened) == 1


def test_p50_and_p90_are_of_one_set_of_models_under_one_budget(robots: Any) -> None:
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
