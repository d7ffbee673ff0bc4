"""What to measure in one run: archs of a space, cut into blocks with the anchors that link them."""

from __future__ import annotations

import uuid
import zlib
from typing import Callable, Collection, List, Optional, Sequence, Tuple

import msgspec
import numpy as np

from ramnas_edge.measuring.record import MIN_VISITS, Block, Target, record_key
from ramnas_models.errors import SpaceError
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space

BLOCK = 12  # archs whose sessions are open at the same time
SHARED = 4  # one in so many of a class's archs is measured by all classes


class Request(msgspec.Struct, frozen=True):
    """Measure these archs, each once on every class of board that comes.

    With `samples` a class measures so many: first `archs`, which all classes share so that they can
    be compared, then others of its own, drawn from the space by `seed` and the class's name.
    """

    run: str
    space: Space
    target: Target
    archs: Sequence[Arch]
    rounds: int = MIN_VISITS
    seed: int = 0
    samples: int = 0

    def archs_of(self, device_class: str) -> List[Arch]:
        """What boards of that class measure, in this order: shared ones first, each shuffled."""
        shared = _shuffled(self.archs, self.seed)
        if self.samples <= len(shared):
            return shared
        rng = np.random.default_rng([self.seed, zlib.crc32(device_class.encode())])
        known = set(shared)
        drawn = sample_by_macs(self.space, rng, self.samples)
        own = [arch for arch in drawn if arch not in known][: self.samples - len(shared)]
        return [*shared, *_shuffled(own, self.seed)]

    def missing(self, device_class: str, recorded: Collection[Tuple[str, ...]]) -> List[Arch]:
        """The archs whose key is not among those `recorded` on boards of `device_class`."""
        return [
            arch
            for arch in self.archs_of(device_class)
            if record_key(self.run, self.target, arch, device_class) not in recorded
        ]

    def blocks(self, archs: Sequence[Arch]) -> List[Block]:
        """Shuffled, so that cheap and costly networks meet in every block."""
        order, anchors = _shuffled(archs, self.seed), self.anchors()
        return [self.block(order[i : i + BLOCK], anchors, i) for i in range(0, len(order), BLOCK)]

    def block(self, archs: Sequence[Arch], anchors: Tuple[Arch, ...], number: int) -> Block:
        """One block of this request; `number` varies the order of its rounds."""
        return Block(
            id=uuid.uuid4().hex[:12],  # of this try alone: its rounds have a drift of their own
            run=self.run,
            target=self.target,
            archs=tuple(archs),
            anchors=anchors,
            rounds=self.rounds,
            seed=self.seed + number,
        )

    def anchors(self) -> Tuple[Arch, ...]:
        """Two networks that every round of every block visits, at 1/3 and 2/3 of the log MACs."""
        ladder = sample_by_macs(self.space, np.random.default_rng(0), min(10, self.space.size()))
        ladder.sort(key=lambda arch: plan(self.space, arch).macs)
        return ladder[len(ladder) // 3], ladder[2 * len(ladder) // 3]


def sampled(
    run: str, space: Space, target: Target, samples: int, *, rounds: int, seed: int,
    choose: Optional[Callable[[int], List[Arch]]] = None,
) -> Request:  # fmt: skip
    """Have every class measure `samples` archs spread in log MACs, a quarter of them shared: min,
    max and a common set. SpaceError if the space has not so many.

    `choose` gives the shared ones, that many, in place of a spread in log MACs.
    """
    if not 2 <= samples <= space.size():
        raise SpaceError(
            f"cannot draw {samples} different archs from space {space.name}: "
            f"at least 2 (min and max), at most its size, {space.size()}"
        )
    count = max(2, samples // SHARED)
    shared = choose(count) if choose else sample_by_macs(space, np.random.default_rng(seed), count)
    return Request(run, space, target, shared, rounds, seed, samples)


def _shuffled(archs: Sequence[Arch], seed: int) -> List[Arch]:
    return [archs[j] for j in np.random.default_rng(seed).permutation(len(archs))]
