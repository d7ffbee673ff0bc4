"""Leases, splitting, quarantine: pure, with a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

from ramnas_edge.fleet import wire
from ramnas_edge.measuring.record import Block, Target
from ramnas_edge.measuring.request import BLOCK, Request, sampled
from ramnas_host.fleet.dispatch import DEATHS, Dispatch, Queue
from ramnas_models.errors import SpaceError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 60)
REQUEST = Request("run", SPACE, Target(num_classes=10), ARCHS)


def opened(boards: int = 1, request: Request = REQUEST) -> tuple[Dispatch, Queue]:
    dispatch = Dispatch(request)
    queue = dispatch.open("class", ())
    queue.boards = boards
    return dispatch, queue


def given(dispatch: Dispatch, queue: Queue, board: bytes = b"a", now: float = 0.0) -> Block:
    block = dispatch.give(board, queue, now)
    assert block is not None
    return block


def record(dispatch: Dispatch, queue: Queue, block: Block, now: float = 10.0) -> None:
    for arch in block.archs:
        dispatch.recorded(queue, arch.id, now)


def ids(block: Block) -> list[str]:
    return [arch.id for arch in block.archs]


def test_every_arch_is_given_once_and_then_all_is_done() -> None:
    dispatch, queue = opened()
    seen: list[str] = []
    while not dispatch.done(0.0):
        block = given(dispatch, queue)
        seen += ids(block)
        record(dispatch, queue, block)
    assert sorted(seen) == sorted(arch.id for arch in ARCHS)
    assert dispatch.give(b"a", queue, 0.0) is None


def test_what_is_recorded_is_not_given() -> None:
    dispatch = Dispatch(REQUEST)
    queue = dispatch.open("class", {arch.id for arch in ARCHS[:50]})
    assert set(ids(given(dispatch, queue))) == {arch.id for arch in ARCHS[50:]}


def test_a_board_holds_two_blocks_at_most_and_the_last_ones_are_for_idle_boards() -> None:
    dispatch, queue = opened(boards=2)  # 5 blocks
    for _ in range(wire.WINDOW):
        given(dispatch, queue, b"a")
    assert dispatch.give(b"a", queue, 0.0) is None
    given(dispatch, queue, b"b")
    assert dispatch.give(b"b", queue, 0.0) is None  # two are left for two boards
    assert dispatch.give(b"c", queue, 0.0) is not None


def test_a_lease_lasts_three_times_the_predicted_time_and_longer_while_it_gets_on() -> None:
    dispatch, queue = opened()
    record(dispatch, queue, given(dispatch, queue), now=BLOCK * 2.0)  # 2 s an arch
    block = given(dispatch, queue, now=100.0)
    (lease,) = queue.leases.values()
    assert lease.deadline_s == pytest.approx(100 + 3 * 2 * BLOCK + 180)
    assert not dispatch.expired(queue, lease.deadline_s)
    assert dispatch.progressed(queue, block.id, 0.25, now=340.0) == pytest.approx(BLOCK / 4)
    assert lease.deadline_s == pytest.approx(340 + 3 * 720 + 180)
    ((late, quarantined),) = dispatch.expired(queue, lease.deadline_s + 1)
    assert (late.job, quarantined) == (block.id, [])
    again = ids(given(dispatch, queue, b"b")) + ids(given(dispatch, queue, b"c"))
    assert set(again) == set(ids(block))


def test_a_block_on_which_boards_die_is_halved_until_one_arch_is_alone() -> None:
    dispatch, queue = opened()
    killer = given(dispatch, queue).archs[3].id
    dispatch.died(b"a", queue)
    deaths, quarantined = 1, []
    while not quarantined:
        block = given(dispatch, queue)
        if killer in ids(block):
            quarantined = dispatch.died(b"a", queue)
            deaths += 1
        else:
            record(dispatch, queue, block)
    assert quarantined == [killer]
    assert list(queue.quarantined) == [killer]
    # 12, 6, 3, then 1 or 2, 1
    assert DEATHS + 3 <= deaths <= DEATHS + 4
    while (block := dispatch.give(b"a", queue, 0.0)) is not None:
        assert killer not in ids(block)
        record(dispatch, queue, block)
    assert dispatch.done(0.0)
    assert len(queue.missing) == 1


def test_a_late_record_lifts_a_quarantine() -> None:
    dispatch, queue = opened(request=Request("run", SPACE, REQUEST.target, ARCHS[:1]))
    for _ in range(DEATHS):
        given(dispatch, queue)
        dispatch.died(b"a", queue)
    assert dispatch.done(0.0)
    dispatch.recorded(queue, ARCHS[0].id, 1.0)
    assert not queue.missing
    assert not queue.quarantined


def test_only_the_block_at_work_is_blamed_and_a_goodbye_blames_none() -> None:
    dispatch, queue = opened()
    first, second = given(dispatch, queue), given(dispatch, queue)
    dispatch.died(b"a", queue)
    assert [len(piece) for piece in queue.pieces] == [6, 6, 12]
    assert set(queue.pieces[2]) == set(ids(second))
    assert {i for p in list(queue.pieces)[:2] for i in p} == set(ids(first))
    block = given(dispatch, queue)
    dispatch.left(b"a", queue)
    assert len(queue.pieces[-1]) == len(block.archs)
    assert not queue.deaths


def test_a_board_that_comes_back_after_a_restart_of_the_host_goes_on() -> None:
    dispatch, queue = opened()
    held = wire.Holding("job", tuple(arch.id for arch in ARCHS[5:9]))
    assert dispatch.adopt(b"a", queue, held, 0.0)
    assert dispatch.adopt(b"a", queue, held, 1.0)  # it greets again
    assert not dispatch.adopt(b"b", queue, held, 1.0)
    others = [given(dispatch, queue, bytes([i])) for i in range(5)]
    assert not {i for block in others for i in ids(block)} & set(held.archs)
    for arch_id in held.archs:
        dispatch.recorded(queue, arch_id, 5.0)
    assert not dispatch.of_board(b"a")
    assert not dispatch.adopt(b"a", queue, held, 6.0)


def test_what_a_board_comes_back_with_is_not_given_to_another() -> None:
    dispatch, queue = opened()
    block = given(dispatch, queue)
    dispatch.died(b"a", queue)  # it was only silent
    held = wire.Holding(block.id, tuple(ids(block)))
    assert dispatch.adopt(b"a", queue, held, 0.0)
    assert not set(ids(given(dispatch, queue, b"b"))) & set(ids(block))
    dispatch.died(b"a", queue)
    dispatch.died(b"b", queue)
    assert len({i for piece in queue.pieces for i in piece}) == 2 * BLOCK


def test_a_lost_job_is_sent_again_and_an_unknown_one_is_asked_about() -> None:
    dispatch, queue = opened()
    block = given(dispatch, queue)
    assert dispatch.lost(b"a", [block.id], 100.0) == ([], [])
    assert dispatch.lost(b"a", [], 1.0) == ([], [])  # it may be on its way
    ((again,), strange) = dispatch.lost(b"a", ["other"], 100.0)
    assert (again.id, strange) == (block.id, ["other"])
    assert dispatch.lost(b"a", [], 101.0) == ([], [])


def test_an_ended_class_gives_nothing() -> None:
    dispatch, queue = opened()
    block = given(dispatch, queue)
    (lease,) = dispatch.end(queue)
    assert list(lease.left) == ids(block)
    assert dispatch.give(b"b", queue, 0.0) is None
    assert dispatch.done(0.0)


def test_a_class_that_came_and_went_without_a_record_is_waited_for_a_minute() -> None:
    dispatch, queue = opened()
    for block in iter(lambda: dispatch.give(b"a", queue, 0.0), None):
        record(dispatch, queue, block)
    ghost = dispatch.open("ghost", ())
    ghost.gone_s = 100.0
    assert not dispatch.done(130.0)
    assert dispatch.done(161.0)
    assert dispatch.forget_empty() == "ghost"
    assert list(dispatch.queues) == ["class"]
    assert not dispatch.forget_empty()


def test_classes_share_archs_and_have_others_of_their_own() -> None:
    request = sampled("run", SPACE, REQUEST.target, 60, rounds=8, seed=0)
    one, other = request.archs_of("one"), request.archs_of("other")
    assert len({a.id for a in one}) == len({a.id for a in other}) == 60
    assert one == request.archs_of("one")  # also after a restart
    shared = set(one) & set(other)
    assert {SPACE.min(), SPACE.max()} <= set(request.archs) <= shared
    assert set(one[:15]) == set(other[:15]) == set(request.archs)
    assert len(shared) < 30
    with pytest.raises(SpaceError, match="at most its size"):
        sampled("run", SPACE, REQUEST.target, 10**18, rounds=8, seed=0)
