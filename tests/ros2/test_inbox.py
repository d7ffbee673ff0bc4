from __future__ import annotations

import threading
import time
from typing import Any, List

from ramnas_ros.inbox import LIVE_S, Inbox


def opened(cameras: int, **options: Any) -> Inbox:
    inbox = Inbox(cameras, **options)
    inbox.open()
    return inbox


def test_take_returns_the_newest_item_and_counts_the_replaced_ones() -> None:
    inbox = opened(1)
    for item in "abc":
        inbox.put(0, item)
    assert inbox.take() == [(0, "c")]
    assert (inbox.received, inbox.replaced) == ([3], [2])


def test_cameras_take_turns_however_fast_each_sends() -> None:
    inbox = opened(3)
    order = []
    for _ in range(4):
        for camera in (0, 0, 1, 2):
            inbox.put(camera, "x")
        order.append(inbox.take()[0][0])
    assert order == [0, 1, 2, 0]
    inbox.put(1, "x")
    assert inbox.take() == [(1, "x")]


def test_a_batch_holds_one_item_of_each_camera_in_camera_order() -> None:
    inbox = opened(2, together=True, clock=lambda: 0.0)  # so that no camera falls silent
    inbox.put(1, "b")
    inbox.take()  # camera 0 has sent nothing yet, so take does not wait for it
    inbox.put(0, "a")
    taken: List[Any] = []
    taker = threading.Thread(target=lambda: taken.append(inbox.take()))
    taker.start()
    inbox.put(1, "b")
    taker.join(60)
    assert taken == [[(0, "a"), (1, "b")]]


def test_a_batch_does_not_wait_longer_for_a_camera_that_fell_silent() -> None:
    now = [100.0]
    inbox = opened(2, together=True, clock=lambda: now[0])
    inbox.put(0, "a")
    inbox.put(1, "b")
    assert len(inbox.take()) == 2
    now[0] += LIVE_S
    inbox.put(1, "c")
    assert inbox.take() == [(1, "c")]


def test_close_ends_a_take_and_discards_waiting_items() -> None:
    inbox = opened(1)
    taken: List[Any] = []
    taker = threading.Thread(target=lambda: taken.append(inbox.take()))
    taker.start()
    inbox.close()
    taker.join(60)
    assert taken == [[]]
    inbox.put(0, "late")
    inbox.open()
    inbox.put(0, "next")
    assert inbox.take() == [(0, "next")]
    assert inbox.received == [1]


def test_between_two_threads_no_item_comes_after_a_newer_one() -> None:
    inbox = opened(1)
    taken: List[int] = []

    def take() -> None:
        while True:
            found = inbox.take()
            if not found:
                return
            taken.append(found[0][1])

    taker = threading.Thread(target=take)
    taker.start()
    for item in range(20_000):
        inbox.put(0, item)
    deadline = time.monotonic() + 60
    while (not taken or taken[-1] != 19_999) and time.monotonic() < deadline:
        time.sleep(0.001)
    inbox.close()
    taker.join(60)
    assert taken == sorted(set(taken))
    assert taken[-1] == 19_999
    assert len(taken) + inbox.replaced[0] == inbox.received[0] == 20_000
