"""Have jobs measured in a child process that may be lost; doubtful archs a second time.

Doubtful is a record whose visits scatter, or that the board disturbed: a throttle, another power
mode. It is measured once more, in a fresh process and after the throttle, and then kept as it is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Deque, List, Optional, Sequence, Union

import msgspec

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Sample, Telemetry, conditions, disturbance
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.child import Child
from ramnas_edge.measuring.energy import energy
from ramnas_edge.measuring.record import INCONCLUSIVE, LatencyRecord
from ramnas_models.errors import BackendError
from ramnas_models.space import Arch, Space

log = logging.getLogger(__name__)
COOL_S = 120.0  # how long to wait for the end of a throttle before measuring again
IDLE_S = 3.0  # of rest before the first job, where there is a power sensor
FIRST_SAMPLES_S = 1.0  # until it is known whether there is one
REFERENCE = 200  # samples, to compare later ones with
SUSTAINED_S = 3.0  # of one arch without pause, for its energy
News = Union[messages.Visited, messages.Measured]


class Measuring:
    """Jobs in by `submit`, visits and records out of `step`; `idle` when all is done.

    The caller waits until `fileno()` is readable, or half a second, and calls `step` again: that
    also reads the sensors.
    """

    def __init__(self, space: Space, device: Device, telemetry: Telemetry) -> None:
        self._space, self._device, self._telemetry = space, device, telemetry
        self._child = Child(space)
        self._child_is_ready = False
        self._current: Optional[messages.Job] = None  # with the child now
        self._waiting: Deque[messages.Job] = deque()
        self._doubtful: List[Arch] = []  # of the current job
        self._undisturbed: List[Sample] = []  # how the board is while it measures and all is well
        self._idle: Optional[List[Sample]] = None  # before the first job
        self._started_s = self._not_after_s = time.monotonic()

    @property
    def idle(self) -> bool:
        return self._current is None and not self._waiting

    def fileno(self) -> int:
        return self._child.fileno()

    def submit(self, job: messages.Job) -> None:
        self._waiting.append(job)

    def drop(self, job_id: str) -> None:
        """Forget a job, measured or not; of what is measured of it by now nothing will come."""

        def of_it(job: messages.Job) -> bool:  # or a second try of a part
            return job.block.id == job_id or job.block.id.startswith(f"{job_id}-")

        self._waiting = deque(job for job in self._waiting if not of_it(job))
        if self._current and of_it(self._current):
            self._doubtful = []
            self._fresh_child()

    def step(self) -> List[News]:
        """What has happened since; BackendError if the child dies before it has any job."""
        self._telemetry.poll()
        news: List[News] = []
        while self._child.has_sent():
            try:
                message = self._child.receive()
            except EOFError:
                news += self._died()
                break
            if isinstance(message, messages.Measured):
                news += self._judge(message.record)
            elif isinstance(message, messages.Visited):
                news.append(message)
            elif isinstance(message, messages.Ready):
                self._finished()
        if self._child_is_ready and self._waiting and self._may_start(self._waiting[0]):
            self._start(self._waiting.popleft())
        return news

    def close(self) -> None:
        self._child.close()

    # -- starting ----------------------------------------------------------------------------------

    def _may_start(self, job: messages.Job) -> bool:
        """Not before it is known what the board draws at rest; a second try not while it is hot."""
        now = time.monotonic()
        if self._idle is None:
            resting = self._telemetry.between(self._started_s, now)
            powered = any(sample.power_mw for sample in resting)
            if now - self._started_s < (IDLE_S if powered else FIRST_SAMPLES_S):
                return False
            self._idle = resting
        if not job.again or now > self._not_after_s or not self._undisturbed:
            return True
        lately = self._telemetry.between(now - 2.0, now)
        # sensors that are late with their samples do not say that the board is cool
        if not lately or disturbance(lately, self._undisturbed, _unit(job)):
            return False
        # at rest the clock says nothing, but the heat does
        return _hottest_c(lately[-1:]) <= _hottest_c(self._undisturbed) + 1.0

    def _start(self, job: messages.Job) -> None:
        if any(sample.power_mw for sample in self._idle or ()):
            block = msgspec.structs.replace(job.block, sustained_s=SUSTAINED_S)
            job = msgspec.structs.replace(job, block=block)
        self._current, self._child_is_ready = job, False
        self._child.send(job)

    def _fresh_child(self) -> None:
        self._child.close()
        self._child, self._child_is_ready, self._current = Child(self._space), False, None

    # -- what comes back ---------------------------------------------------------------------------

    def _judge(self, record: LatencyRecord) -> List[News]:
        """The record with the board's state and energy; empty if it is to be measured again."""
        assert self._current is not None
        record = msgspec.structs.replace(record, device=self._device)
        if record.visits:
            record = self._with_conditions(record)
        if record.validity == INCONCLUSIVE and not self._current.again:
            log.info("%s again: %s", record.arch_id, record.reason)
            self._doubtful.append(record.arch)
            return []
        return [messages.Measured(record)]

    def _with_conditions(self, record: LatencyRecord) -> LatencyRecord:
        assert self._current is not None
        start_s, end_s = record.visits[0].start_s, record.visits[-1].end_s
        samples = self._telemetry.between(start_s, end_s)
        # of the first block nothing is known before it: its first quarter stands for that
        before = self._undisturbed or self._telemetry.between(
            start_s, start_s + (end_s - start_s) / 4
        )
        trouble = disturbance(samples, before, _unit(self._current))
        if trouble and not self._undisturbed:
            self._undisturbed = list(before)
        if trouble:  # the likely cause of scatter, if there is any: it comes first
            reason = "; ".join(filter(None, [trouble, record.reason]))
            record = msgspec.structs.replace(record, validity=INCONCLUSIVE, reason=reason)
        elif len(self._undisturbed) < REFERENCE:
            known_s = self._undisturbed[-1].time_s if self._undisturbed else start_s
            self._undisturbed += [s for s in samples if s.time_s > known_s]
        used = None
        if record.sustained is not None:
            start_s, seconds = record.sustained.start_s, record.sustained.seconds
            loaded = self._telemetry.between(start_s, start_s + seconds)
            used = energy(loaded, self._idle or (), seconds=seconds, runs=record.sustained.runs)
        state = conditions(samples, self._telemetry.source)
        return msgspec.structs.replace(record, conditions=state, energy=used)

    def _finished(self) -> None:
        self._child_is_ready = True
        done, self._current = self._current, None
        if done and self._doubtful:
            self._again(done, self._doubtful)
            self._doubtful = []
            self._fresh_child()

    def _again(self, job: messages.Job, archs: Sequence[Arch]) -> None:
        self._not_after_s = time.monotonic() + COOL_S
        again = f"{job.block.id}-{archs[0].id}"  # its rounds are not those of the first try
        block = msgspec.structs.replace(job.block, id=again, archs=tuple(archs))
        self._waiting.appendleft(msgspec.structs.replace(job, block=block, again=True))

    def _died(self) -> List[News]:
        """Measure the block's archs one by one; the one that kills its child alone has failed."""
        how, job, self._doubtful = self._child.close(), self._current, []
        log.warning("the measuring process died: %s", how)
        if job is None and not self._child_is_ready:
            raise BackendError(f"the measuring process dies at its start: {how}")
        self._fresh_child()
        if job is None:  # it was killed at rest
            return []
        archs = job.block.archs
        if len(archs) > 1:
            for arch in archs[::-1]:
                self._again(job, [arch])
            return []
        reason = f"the engine's process died: {how}"
        record = profiler.failed(job.block, archs[0], self._space, job.device_class, reason)
        return [messages.Measured(msgspec.structs.replace(record, device=self._device))]


def _unit(job: messages.Job) -> str:
    """The processor whose clock the engine depends on."""
    return "gpu" if job.block.target.engine.endswith(("cuda", "tensorrt")) else "cpu"


def _hottest_c(samples: Sequence[Sample]) -> float:
    return max((max(s.temperature_c.values()) for s in samples if s.temperature_c), default=0.0)
