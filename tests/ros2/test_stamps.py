from __future__ import annotations

import numpy as np
import pytest

from ramnas_ros.stamps import ENOUGH, Gaps

PERIOD_NS = 33_333_333


def counted(stamps: np.ndarray) -> Gaps:
    gaps = Gaps()
    for stamp in stamps.tolist():
        gaps.add(int(stamp))
    return gaps


def stream(frames: int, jitter: float = 0.0, seed: int = 0) -> np.ndarray:
    """Stamps in ns of a camera at 30 Hz, with uniform jitter in frame periods."""
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, frames)
    return 10**18 + ((np.arange(frames) + noise) * PERIOD_NS).astype(np.int64)


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.2])
def test_an_even_stream_loses_nothing(jitter: float) -> None:
    gaps = counted(stream(500, jitter))
    assert (gaps.lost, gaps.lost_share) == (0, 0.0)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.43])
def test_frames_that_did_not_arrive_are_counted(share: float) -> None:
    stamps = stream(1000, jitter=0.1)
    arrived = np.random.default_rng(1).random(1000) >= share
    arrived[: ENOUGH + 1] = True  # from these the usual interval is learnt
    arrived[-1] = True
    gaps = counted(stamps[arrived])
    assert gaps.lost == (~arrived).sum()
    recent = (~arrived)[-150:].mean()
    assert gaps.lost_share == pytest.approx(recent, abs=0.1)


def test_a_pause_or_a_jump_back_in_time_is_not_a_loss() -> None:
    first = stream(100)
    for shift_ns in (60 * 10**9, -60 * 10**9):
        assert counted(np.concatenate([first, first + shift_ns])).lost == 0


def test_the_share_is_unknown_until_enough_frames_have_come() -> None:
    assert counted(stream(ENOUGH)[::3]).lost_share is None


def test_frames_during_a_pause_are_not_lost() -> None:
    stamps = stream(200)
    gaps = counted(stamps[:100])
    gaps.pause()
    for stamp in stamps[110:].tolist():
        gaps.add(stamp)
    assert gaps.lost == 0


def test_a_new_rate_is_learnt() -> None:
    slow = 10**18 + np.arange(300) * 3 * PERIOD_NS
    gaps = counted(np.concatenate([slow[:1] - stream(100)[::-1] + stream(100)[0], slow[1:]]))
    assert gaps.lost_share == 0.0
