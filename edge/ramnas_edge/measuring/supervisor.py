"""Has jobs measured in a child process, replaces one that dies or hangs, repeats doubtful archs.

A record is doubtful if its visits scatter, or if the board was throttled or changed its power mode
meanwhile. The arch is measured once more in a fresh process, after the throttle has ended, and that
second record is kept whatever it says.

It holds the lock of the board while a job is measured, and waits while another process has it.

A child that says nothing for much longer than its next message should take is taken to hang, in an
engine or a driver, and is killed. The limits are wide, because killing a healthy child costs more.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import Callable, Deque, List, Optional, Sequence, Union

import msgspec

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Conditions, Sample, Telemetry, conditions, disturbance
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.board_lock import BoardLock, holder
from ramnas_edge.measuring.child import Child
from ramnas_edge.measuring.energy import energy
from ramnas_edge.measuring.record import INCONCLUSIVE, LatencyRecord
from ramnas_models.errors import BackendError
from ramnas_models.space import Space

log = logging.getLogger(__name__)
COOL_S = 120.0  # the longest wait for the end of a throttle before a second try
CALM_S = 2.0  # how long the board must have been calm before a second try
IDLE_S = 3.0  # rest before the first job, if there is a power sensor
FIRST_SAMPLES_S = 1.0  # until then it is not known whether there is a power sensor
REFERENCE = 200  # samples of the calm board that later ones are compared with
SUSTAINED_S = 3.0  # how long one arch runs without a pause to read its power
START_S = 300.0  # a child is ready for its first job by then
OPEN_S = 60.0  # predicted for opening one network
BUILD_S = 900.0  # the same with TensorRT, which builds an engine: minutes on a small board
# A child may say nothing for FACTOR times the longest pause between two messages of its job so far,
# and for GRACE_S more. The first pause includes the opening of all networks.
FACTOR, GRACE_S = 3.0, 120.0
STALL_S = 5.0  # `step` is called more often, so in a longer pause this process was stopped too
News = Union[messages.Visited, messages.Measured]


class Supervisor:
    """Takes jobs by `submit` and returns visits and records from `step`, until it is `idle`.

    The caller waits until `fileno()` is readable, but at most half a second, and calls `step`
    again, because `step` also reads the sensors.
    """

    def __init__(
        self,
        space: Space,
        device: Device,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._space, self._device, self._telemetry = space, device, telemetry
        self._clock = clock
        self._child = Child(space)
        self._child_is_ready = False
        self._lock = BoardLock()
        self.waits_for = ""  # in words, while another process has the lock of this board
        self._said = ""  # whom it waited for when that was logged
        self._warned_of_quota = False
        self._current: Optional[messages.Job] = None  # the job that the child works on
        self._waiting: Deque[messages.Job] = deque()
        self._doubtful: List[str] = []  # archs of the current job, by `Block.names`
        self._undisturbed: List[Sample] = []  # the board while it measures and all is well
        self._idle: Optional[List[Sample]] = None  # the board at rest, before the first job
        self._started_s = self._cool_until_s = self._stepped_s = clock()
        self._silent_s = 0.0  # since the last message of the child
        self._longest_s: Optional[float] = None  # the longest silence of the current job so far

    @property
    def idle(self) -> bool:
        """Whether every job that was submitted is done or dropped."""
        return self._current is None and not self._waiting

    def fileno(self) -> int:
        """Readable when the child has sent something. It changes when the child is replaced."""
        return self._child.fileno()

    def submit(self, job: messages.Job) -> None:
        self._waiting.append(job)

    def drop(self, job_id: str) -> None:
        """Forget a job, whether it waits or is being measured: no more records of it will come."""

        def belongs(job: messages.Job) -> bool:  # it is the job, or a second try of a part of it
            return job.block.id == job_id or job.block.id.startswith(f"{job_id}-")

        self._waiting = deque(job for job in self._waiting if not belongs(job))
        if self._current and belongs(self._current):
            self._doubtful = []
            self._replace_child()

    def step(self) -> List[News]:
        """Read the sensors, start a job if one can start, and return the new visits and records.

        BackendError if a child dies or hangs before it was ready for a job.
        """
        self._telemetry.poll()
        before_s, self._stepped_s = self._stepped_s, self._clock()
        self._silent_s += min(self._stepped_s - before_s, STALL_S)
        news: List[News] = []
        while self._child.has_sent():
            try:
                message = self._child.receive()
            except EOFError:
                news += self._handle_death(f"died: {self._child.close()}")
                break
            self._longest_s, self._silent_s = max(self._longest_s or 0.0, self._silent_s), 0.0
            if isinstance(message, messages.Measured):
                news += self._judge(message.record)
            elif isinstance(message, messages.Visited):
                news.append(message)
            elif isinstance(message, messages.Ready):
                self._finish_job()
        if self._silent_s > self._patience_s():
            how = self._child.close(patience_s=0.0)
            news += self._handle_death(f"said nothing for {self._silent_s:.0f} s: {how}")
        if self._child_is_ready and self._waiting:
            if self._has_board() and self._may_start(self._waiting[0]):
                self._start(self._waiting.popleft())
        elif self.idle:
            self._release_board()
        return news

    def close(self) -> None:
        self._child.close()
        self._lock.release()

    # -- starting ----------------------------------------------------------------------------------

    def _has_board(self) -> bool:
        """Take the lock of the board; False while another process has it, which is said once."""
        if self._lock.take():
            if self.waits_for:
                self.waits_for = ""
                if self._idle is None:  # until now the other process was at work
                    self._started_s = self._clock()
            return True
        other = "" if self.waits_for else holder()
        if other:  # none if the lock has just been given back
            self.waits_for = f"waiting for {other}, which measures on this board"
            if self.waits_for != self._said:  # the two may take turns for hours
                self._said = self.waits_for
                log.info("%s", self.waits_for)
        return False

    def _release_board(self) -> None:
        self._lock.release()
        self.waits_for = ""

    def _may_start(self, job: messages.Job) -> bool:
        """True once the board's power at rest is known and, for a second try, the board is cool."""
        now = self._clock()
        if self._idle is None:
            resting = self._telemetry.between(self._started_s, now)
            powered = any(sample.power_mw for sample in resting)
            if now - self._started_s < (IDLE_S if powered else FIRST_SAMPLES_S):
                return False
            self._idle = resting
        if not job.again or now > self._cool_until_s or not self._undisturbed:
            return True
        lately = self._telemetry.between(now - CALM_S, now)
        # no samples may mean that the sensors are late, not that the board is cool
        if not lately or disturbance(lately, self._undisturbed, _unit(job)):
            return False
        # at rest the clock is low anyway and does not show a throttle, but the temperature does
        return _hottest_c(lately[-1:]) <= _hottest_c(self._undisturbed) + 1.0

    def _start(self, job: messages.Job) -> None:
        if any(sample.power_mw for sample in self._idle or ()):
            block = msgspec.structs.replace(job.block, sustained_s=SUSTAINED_S)
            job = msgspec.structs.replace(job, block=block)
        self._current, self._child_is_ready = job, False
        self._silent_s, self._longest_s = 0.0, None
        self._child.send(job)

    def _replace_child(self) -> None:
        self._child.close()
        self._start_child()

    def _start_child(self) -> None:
        self._child, self._child_is_ready, self._current = Child(self._space), False, None
        self._silent_s = 0.0

    def _patience_s(self) -> float:
        """How long the child may say nothing now, by what is known of its next message."""
        if self._current is None:
            return math.inf if self._child_is_ready else START_S
        block = self._current.block
        if self._longest_s is None:  # it opens all networks before it visits the first
            each_s = BUILD_S if block.target.engine.endswith("tensorrt") else OPEN_S
            predicted_s = each_s * (len(block.archs) + len(block.anchors))
        else:
            predicted_s = FACTOR * self._longest_s
        return predicted_s + block.sustained_s * len(block.archs) + GRACE_S

    # -- what comes back ---------------------------------------------------------------------------

    def _judge(self, record: LatencyRecord) -> List[News]:
        """Add the state of the board and the energy to a record.

        Returns nothing if the record is doubtful for the first time: its arch is then measured
        again.
        """
        assert self._current is not None
        record = msgspec.structs.replace(record, device=self._device)
        if record.visits:
            record = self._with_conditions(record)
        if record.validity == INCONCLUSIVE and not self._current.again:
            log.info("arch %s is measured again: %s", record.name, record.reason)
            self._doubtful.append(record.name)
            return []
        return [messages.Measured(record)]

    def _with_conditions(self, record: LatencyRecord) -> LatencyRecord:
        assert self._current is not None
        start_s, end_s = record.visits[0].start_s, record.visits[-1].end_s
        samples = self._telemetry.between(start_s, end_s)
        # before the first block there is nothing to compare with, so its first quarter serves
        before = self._undisturbed or self._telemetry.between(
            start_s, start_s + (end_s - start_s) / 4
        )
        trouble = disturbance(samples, before, _unit(self._current))
        state = conditions(samples, self._telemetry.source)
        trouble = trouble or self._stopped_by_quota(state, self._current.block.target.threads)
        if trouble and not self._undisturbed:
            self._undisturbed = list(before)
        if trouble:  # it is the likely cause of any scatter, so it is named first
            reason = "; ".join(filter(None, [trouble, record.reason]))
            record = msgspec.structs.replace(record, validity=INCONCLUSIVE, reason=reason)
        elif len(self._undisturbed) < REFERENCE:
            last_s = self._undisturbed[-1].time_s if self._undisturbed else start_s
            self._undisturbed += [s for s in samples if s.time_s > last_s]
        used = None
        if record.sustained is not None:
            start_s, seconds = record.sustained.start_s, record.sustained.seconds
            loaded = self._telemetry.between(start_s, start_s + seconds)
            used = energy(loaded, self._idle or (), seconds=seconds, runs=record.sustained.runs)
        return msgspec.structs.replace(record, conditions=state, energy=used)

    def _stopped_by_quota(self, state: Optional[Conditions], threads: int) -> str:
        """One sentence if the CPU quota spoils a measurement; empty if all was well.

        A quota that leaves a core for the rest of this process does not stop the threads that are
        timed, unless something else in the container works too. Where it is smaller, being stopped
        is what a user of this device class gets as well, and that is said once.
        """
        quota = self._device.cpu_quota
        if quota is None or state is None or not state.quota or not state.quota.throttled:
            return ""
        found = (
            f"the CPU quota of {quota:.3g} cores stopped this process in {state.quota.throttled} "
            f"of {state.quota.periods} periods"
        )
        if quota >= threads + 1:
            return f"throttled: {found}, because something else in this container works too"
        if not self._warned_of_quota:
            self._warned_of_quota = True
            log.warning("%s: the p90 is that of this quota, which the device class names", found)
        return ""

    def _finish_job(self) -> None:
        self._child_is_ready = True
        done, self._current = self._current, None
        if done and not self._doubtful:
            self._release_board()  # others may have their turn between two jobs
        if done and self._doubtful:
            self._try_again(done, self._doubtful)
            self._doubtful = []
            self._replace_child()

    def _try_again(self, job: messages.Job, names: Sequence[str]) -> None:
        self._cool_until_s = self._clock() + COOL_S
        # its rounds have a drift of their own
        block = job.block.only(names, block_id=f"{job.block.id}-{names[0]}")
        self._waiting.appendleft(msgspec.structs.replace(job, block=block, again=True))

    def _handle_death(self, how: str) -> List[News]:
        """Start a fresh child in place of the closed one, and try its block's archs one by one.

        `how` the child died, or hung, completes "the measuring process ...". If the block was a
        single arch, that arch has failed.
        """
        reason = f"the measuring process {how}"
        log.warning("%s", reason)
        job, self._doubtful = self._current, []
        if job is None and not self._child_is_ready:
            raise BackendError(f"{reason}, as soon as it was started")
        self._start_child()
        if job is None:  # it died between two jobs
            return []
        block = job.block
        if len(block.archs) > 1:
            for name in block.names[::-1]:
                self._try_again(job, [name])
            return []
        (arch,), model = block.archs, block.models[0] if block.models else ""
        record = profiler.failed(block, arch, self._space, job.device_class, reason, model)
        return [messages.Measured(msgspec.structs.replace(record, device=self._device))]


def _unit(job: messages.Job) -> str:
    """The processor whose clock decides how fast the engine of `job` is: `cpu` or `gpu`."""
    return "gpu" if job.block.target.engine.endswith(("cuda", "tensorrt")) else "cpu"


def _hottest_c(samples: Sequence[Sample]) -> float:
    return max((max(s.temperature_c.values()) for s in samples if s.temperature_c), default=0.0)
