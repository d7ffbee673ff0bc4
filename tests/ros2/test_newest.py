from __future__ import annotations

import threading
import time
from typing import Any, List

from ramnas_ros.newest import LIVE_S, Newest


def opened(cameras: int, **options: Any) -> Newest:
    newest = Newest(cameras, **options)
    newest.open()
    return newest


def test_the_newest_is_taken_and_older_ones_are_counted() -> None:
    newest = opened(1)
    for item in "abc":
        newest.put(0, item)
    assert newest.take() == [(0, "c")]
    assert (newest.received, newest.replaced) == ([3], [2])


def test_cameras_take_turns_whatever_comes_faster() -> None:
    newest = opened(3)
    order = []
    for _ in range(4):
        for camera in (0, 0, 1, 2):
            newest.put(camera, "x")
        order.append(newest.take()[0][0])
    assert order == [0, 1, 2, 0]
    newest.put(1, "x")
    assert newest.take() == [(1, "x")]


def test_together_one_of_each_makes_a_batch_in_the_order_of_the_cameras() -> None:
    newest = opened(2, together=True)
    newest.put(1, "b")
    newest.take()  # 0 has never been seen: it is not waited for
    newest.put(0, "a")
    taken: List[Any] = []
    taker = threading.Thread(target=lambda: taken.append(newest.take()))
    taker.start()
    newest.put(1, "b")
    taker.join(30)
    assert taken == [[(0, "a"), (1, "b")]]


def test_a_camera_that_fell_silent_does_not_hold_up_the_others_for_ever() -> None:
    now = [100.0]
    newest = opened(2, together=True, clock=lambda: now[0])
    newest.put(0, "a")
    newest.put(1, "b")
    assert len(newest.take()) == 2
    now[0] += LIVE_S
    newest.put(1, "c")
    assert newest.take() == [(1, "c")]


def test_closing_ends_a_take_and_lets_go_of_what_waits() -> None:
    newest = opened(1)
    taken: List[Any] = []
    taker = threading.Thread(target=lambda: taken.append(newest.take()))
    taker.start()
    newest.close()
    taker.join(30)
    assert taken == [[]]
    newest.put(0, "late")
    newest.open()
    newest.put(0, "next")
    assert newest.take() == [(0, "next")]
    assert newest.received == [1]


def test_between_two_threads_nothing_old_comes_after_something_new() -> None:
    newest = opened(1)
    taken: List[int] = []

    def take() -> None:
        while True:
            found = newest.take()
            if not found:
                return
            taken.append(found[0][1])

    taker = threading.Thread(target=take)
    taker.start()
    for item in range(20_000):
        newest.put(0, item)
    deadline = time.monotonic() + 60
    while (not taken or taken[-1] != 19_999) and time.monotonic() < deadline:
        time.sleep(0.001)
    newest.close()
    taker.join(30)
    assert taken == sorted(set(taken))
    assert taken[-1] == 19_999
    assert len(taken) + newest.replaced[0] == newest.received[0] == 20_000
