"""Leases, splitting and quarantine, without sockets and with a clock of the test's own."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from ramnas_edge.board.device import Device
from ramnas_edge.fleet import wire
from ramnas_edge.measuring import profiler
from ramnas_edge.measuring.record import Block, Target, record_key
from ramnas_edge.measuring.request import BLOCK, Request, sampled
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet import boards
from ramnas_host.fleet.boards import Board, Roster
from ramnas_host.fleet.dispatch import DEATHS, LONGEST_S, Queue
from ramnas_host.fleet.peer_log import PeerLog
from ramnas_models.errors import FleetError, SpaceError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 60)
REQUEST = Request("run", SPACE, Target(num_classes=10), ARCHS)


def opened(request: Request = REQUEST, here: int = 1) -> tuple[Queue, Board, Board]:
    """A queue and two boards of its class; the queue believes that `here` boards are here."""
    queue = Queue(request, "class", ())
    queue.boards = here
    return queue, Board(b"a", queue), Board(b"b", queue)


def given(queue: Queue, board: Board, now: float = 0.0) -> Block:
    block = queue.give(board, now)
    assert block is not None
    return block


def record(queue: Queue, block: Block, now: float = 10.0) -> None:
    for arch in block.archs:
        queue.record(arch.id, now)


def ids(block: Block) -> list[str]:
    return [arch.id for arch in block.archs]


def test_every_arch_is_given_once_and_then_all_is_done() -> None:
    queue, a, _ = opened()
    seen: list[str] = []
    while not queue.done:
        block = given(queue, a)
        seen += ids(block)
        record(queue, block)
    assert sorted(seen) == sorted(arch.id for arch in ARCHS)
    assert queue.give(a, 0.0) is None


def test_what_is_recorded_is_not_given() -> None:
    keys = {record_key("run", REQUEST.target, arch, "class") for arch in ARCHS[:50]}
    queue = Queue(REQUEST, "class", keys)
    assert set(ids(given(queue, Board(b"a", queue)))) == {arch.id for arch in ARCHS[50:]}


def test_a_record_of_another_target_in_the_same_run_does_not_count() -> None:
    other = msgspec.structs.replace(REQUEST.target, precision="fp16")
    queue = Queue(REQUEST, "class", {record_key("run", other, arch, "class") for arch in ARCHS})
    assert len(queue.missing) == len(ARCHS)


def test_a_board_has_two_blocks_at_most_and_the_last_blocks_go_to_idle_boards() -> None:
    queue, a, b = opened(here=2)  # 5 blocks
    for _ in range(wire.WINDOW):
        given(queue, a)
    assert queue.give(a, 0.0) is None
    given(queue, b)
    assert queue.give(b, 0.0) is None  # two are left for two boards
    assert queue.give(Board(b"c", queue), 0.0) is not None


def test_a_lease_lasts_three_times_the_predicted_time_and_longer_with_progress() -> None:
    queue, a, b = opened()
    record(queue, given(queue, a), now=BLOCK * 2.0)  # 2 s an arch
    block = given(queue, a, now=100.0)
    (lease,) = queue.leases
    assert lease.deadline_s == pytest.approx(100 + 3 * 2 * BLOCK + 180)
    assert not queue.expired(lease.deadline_s)
    assert queue.progressed(a, block.id, 0.25, now=340.0) == pytest.approx(BLOCK / 4)
    assert lease.deadline_s == pytest.approx(340 + 3 * 720 + 180)
    (late,) = queue.expired(lease.deadline_s + 1)
    assert late.block.id == block.id
    assert not queue.quarantined
    again = ids(given(queue, b)) + ids(given(queue, Board(b"c", queue)))
    assert set(again) == set(ids(block))


def test_the_time_of_a_second_block_begins_when_the_first_is_done() -> None:
    queue, a, _ = opened()
    first, second = given(queue, a), given(queue, a)
    record(queue, first, now=1200.0)
    (lease,) = queue.leases
    assert (lease.block.id, lease.start_s) == (second.id, 1200.0)
    assert lease.deadline_s == 1200 + 3 * 1200 + 180


def test_a_second_block_is_not_late_while_a_slow_first_one_goes_on() -> None:
    queue, a, _ = opened()
    first, _ = given(queue, a), given(queue, a)
    queue.progressed(a, first.id, 0.5, now=2300.0)
    assert all(lease.deadline_s == 2300 + 3 * 2300 + 180 for lease in queue.leases)
    assert not queue.expired(9000.0)


def test_whatever_a_board_claims_it_loses_a_block_that_it_never_records() -> None:
    queue, a, b = opened()
    block = given(queue, a)
    claims = [1e-300, 5e-324, 1.0, -1.0, 0.0, math.nan, math.inf, -math.inf, 1e300, 0.5]
    now = 0.0
    while queue.leases:
        for claim in claims * 1000:
            queue.progressed(a, block.id, claim, now)
            queue.progressed(b, block.id, claim, now)
        now += 600.0
        assert now < LONGEST_S + 1200
        queue.expired(now)
    held = wire.Holding(block.id, tuple(ids(block)))
    assert not queue.adopt(a, held, now)  # nor does it get the block back by another Hello
    assert not queue.adopt(a, msgspec.structs.replace(held, job=""), now)
    assert set(ids(given(queue, b, now))) < set(ids(block))


def test_a_board_that_waits_for_another_process_keeps_its_block_but_not_for_ever() -> None:
    queue, a, _ = opened()
    block, second = given(queue, a), given(queue, a)
    for now in range(0, 9000, 600):
        assert not queue.expired(now)
        queue.postpone(a, now)
    record(queue, block, now=9600.0)  # measured in 20 minutes, after 2 hours of waiting
    (lease,) = queue.leases
    assert (lease.block.id, lease.start_s) == (second.id, 9600.0)
    queue.postpone(a, LONGEST_S - 1)
    assert queue.expired(LONGEST_S + 1) == [lease]


def test_only_the_holder_moves_a_deadline() -> None:
    queue, a, b = opened()
    block = given(queue, a)
    (lease,) = queue.leases
    before = lease.deadline_s
    assert queue.progressed(b, block.id, 1e-9, now=2000.0) == 0.0
    assert lease.deadline_s == before
    queue.progressed(a, block.id, 1e-9, now=2000.0)
    assert lease.deadline_s == LONGEST_S


_STEPS = st.one_of(
    st.tuples(st.just("claim"), st.floats() | st.sampled_from([1e-12, 1e-3, 0.1, 1.0])),
    st.tuples(st.just("wait"), st.sampled_from([60.0, 600.0, 2000.0, 8000.0])),
    st.tuples(
        st.sampled_from(["ask", "hello", "silence", "restart", "one record", "postpone"]),
        st.just(0.0),
    ),
)


@settings(deadline=None, max_examples=80)
@generated(st.lists(_STEPS, max_size=60))
def test_no_sequence_of_messages_moves_a_deadline_beyond_the_bound(
    steps: list[tuple[str, float]],
) -> None:
    """The bound is LONGEST_S after an arch was given, however often its board comes back."""
    queue, board, _ = opened()
    now, since_s, held = 0.0, dict[str, float](), dict[str, wire.Holding]()
    for what, value in steps:
        if what == "ask" and (block := queue.give(board, now)):
            held[block.id] = wire.Holding(block.id, tuple(ids(block)))
            since_s.update(dict.fromkeys(ids(block), now))
        elif what == "claim":
            for job in list(held):
                queue.progressed(board, job, value, now)
        elif what == "wait":
            now += value
        elif what in ("silence", "restart"):
            queue.release(board, died=what == "restart")
        elif what == "hello":
            for holding in held.values():
                queue.adopt(board, holding, now)
        elif what == "postpone":
            queue.postpone(board, now)
        elif what == "one record" and queue.leases:
            queue.record(queue.leases[0].unrecorded[0], now)
        queue.expired(now)
        assert len(board.leases) <= wire.WINDOW
        for lease in queue.leases:
            assert now <= lease.deadline_s
            assert all(lease.deadline_s <= since_s[i] + LONGEST_S for i in lease.unrecorded)
    queue.expired(now + LONGEST_S + 1)
    assert not queue.leases


def test_a_hello_cannot_claim_more_than_two_blocks_of_a_dozen_archs() -> None:
    queue, a, _ = opened()
    all_ids = tuple(arch.id for arch in ARCHS)
    assert queue.adopt(a, wire.Holding("one", all_ids), 0.0)
    assert queue.adopt(a, wire.Holding("two", all_ids[12:]), 0.0)
    assert not queue.adopt(a, wire.Holding("three", all_ids[24:]), 0.0)
    assert [len(lease.unrecorded) for lease in queue.leases] == [BLOCK, BLOCK]


def test_a_block_on_which_boards_die_is_halved_until_one_arch_is_alone() -> None:
    queue, a, _ = opened()
    killer = given(queue, a).archs[3].id
    queue.release(a, died=True)
    deaths = 1
    while not queue.quarantined:
        block = given(queue, a)
        if killer in ids(block):
            queue.release(a, died=True)
            deaths += 1
        else:
            record(queue, block)
    assert queue.quarantined == [killer]
    # pieces of 12, 6, 3, then 1, or 2 and 1
    assert DEATHS + 3 <= deaths <= DEATHS + 4
    while (block := queue.give(a, 0.0)) is not None:
        assert killer not in ids(block)
        record(queue, block)
    assert queue.done
    assert queue.missing == {killer}


def test_a_late_record_lifts_a_quarantine() -> None:
    queue, a, _ = opened(Request("run", SPACE, REQUEST.target, ARCHS[:1]))
    for _ in range(DEATHS):
        given(queue, a)
        queue.release(a, died=True)
    assert queue.done
    queue.record(ARCHS[0].id, 1.0)
    assert not queue.missing
    assert not queue.quarantined


def test_a_death_halves_only_the_block_at_work_and_a_goodbye_none() -> None:
    queue, a, _ = opened()
    first, second = given(queue, a), given(queue, a)
    queue.release(a, died=True)
    left, right, whole = list(queue.waiting)[:3]
    assert (left + right, whole) == (ids(first), ids(second))
    assert len(left) == len(right) == 6
    block = given(queue, a)
    queue.release(a, died=False)
    assert queue.waiting[0] == ids(block)
    assert not queue.deaths


def test_a_board_goes_on_with_its_block_after_a_restart_of_the_host() -> None:
    queue, a, b = opened()
    held = wire.Holding("job", tuple(arch.id for arch in ARCHS[5:9]))
    assert queue.adopt(a, held, 0.0)
    assert queue.adopt(a, held, 1.0)  # it says Hello again
    assert not queue.adopt(b, held, 1.0)
    others = [given(queue, Board(bytes([i]), queue)) for i in range(5)]
    assert not {i for block in others for i in ids(block)} & set(held.archs)
    for arch_id in held.archs:
        queue.record(arch_id, 5.0)
    assert not a.leases
    assert not queue.adopt(a, held, 6.0)


def test_a_board_that_names_an_arch_twice_has_it_once() -> None:
    queue, a, _ = opened()
    assert queue.adopt(a, wire.Holding("job", (ARCHS[0].id,) * 3), 0.0)
    queue.record(ARCHS[0].id, 1.0)
    assert not queue.leases


def test_a_block_that_a_board_comes_back_with_is_not_given_to_another() -> None:
    queue, a, b = opened()
    block = given(queue, a)
    queue.release(a, died=True)  # it was only silent
    held = wire.Holding(block.id, tuple(ids(block)))
    assert queue.adopt(a, held, 0.0)
    assert not set(ids(given(queue, b))) & set(ids(block))
    queue.release(a, died=True)
    queue.release(b, died=True)
    assert {i for piece in queue.waiting for i in piece} == queue.missing


def test_a_lost_block_is_sent_again_and_an_unknown_one_is_reported() -> None:
    queue, a, _ = opened()
    block = given(queue, a)
    assert queue.compare(a, [block.id], 100.0) == ([], [])
    assert queue.compare(a, [], 1.0) == ([], [])  # it may be on its way
    ((again,), unknown) = queue.compare(a, ["other"], 100.0)
    assert (again.id, unknown) == (block.id, ["other"])
    assert queue.compare(a, [], 101.0) == ([], [])


def test_an_ended_class_gives_nothing() -> None:
    queue, a, b = opened()
    block = given(queue, a)
    (lease,) = queue.end()
    assert lease.unrecorded == ids(block)
    assert queue.give(b, 0.0) is None
    assert queue.done


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    return Roster(REQUEST, Store(tmp_path / "s.sqlite"), PeerLog(), 0.0)


def hello(module: str, session: str = "s") -> wire.Hello:
    engines = (("onnxruntime-cpu", "1.2.3"),)
    return wire.Hello(wire.PROTOCOL, Device(module, 4, 8, "Linux"), engines, session=session)


def test_the_host_waits_a_minute_for_a_class_that_left_without_a_record(
    roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = roster.admit(b"a", hello("board"), "", 0.0)
    while (block := board.queue.give(board, 0.0)) is not None:
        record(board.queue, block)
    ghost = roster.admit(b"ghost", hello("ghost"), "", 100.0)
    assert not roster.done(1000.0)
    roster.remove(ghost, "so long", 1000.0, died=False)
    assert not roster.done(1030.0)
    assert roster.done(1061.0)
    monkeypatch.setattr(boards, "MAX_CLASSES", 2)
    third = roster.admit(b"third", hello("third"), "", 1062.0)  # the ghost's class makes room
    assert list(roster.queues.values()) == [board.queue, third.queue]
    with pytest.raises(FleetError, match="this host has 2 device classes already"):
        roster.admit(b"fourth", hello("fourth"), "", 1063.0)


def test_a_restarted_host_waits_a_minute_for_classes_that_are_not_measured_to_the_end(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "s.sqlite")
    before = Roster(REQUEST, store, PeerLog(), 0.0)
    half = before.admit(b"half", hello("half"), "", 0.0)
    block = given(half.queue, half)
    store.add(profiler.failed(block, block.archs[0], SPACE, half.queue.name, "of the test"))

    again = Roster(REQUEST, store, PeerLog(), 1000.0)
    assert [queue.recorded for queue in again.queues.values()] == [1]
    assert not again.done(1061.0)  # without any board it waits as long as it takes
    board = again.admit(b"a", hello("board"), "", 1000.0)
    while (block := board.queue.give(board, 1000.0)) is not None:
        record(board.queue, block)
    assert not again.done(1059.0)
    assert again.done(1061.0)
    again.admit(b"half", hello("half"), "", 1062.0)
    assert not again.done(2000.0)


def test_a_board_that_was_started_again_had_died_and_one_that_changed_its_class_had_not(
    roster: Roster,
) -> None:
    board = roster.admit(b"a", hello("board"), "", 0.0)
    first = given(board.queue, board)
    assert roster.admit(b"a", hello("board", session="next"), "", 1.0) is board
    assert [len(piece) for piece in list(board.queue.waiting)[:2]] == [6, 6]
    given(board.queue, board)
    before = board.queue
    roster.admit(b"a", hello("another mode", session="next"), "", 2.0)
    assert (before.boards, board.queue.boards) == (0, 1)
    assert before.waiting[0] == ids(first)[:6]
    assert not board.leases


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
