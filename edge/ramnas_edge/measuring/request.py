"""A Request: the archs of a space that one run measures, cut into blocks that anchors link."""

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

BLOCK = 12  # archs in a block: their sessions are open at the same time
SHARED = 4  # one in SHARED of the archs that a class measures is measured by all classes


class Request(msgspec.Struct, frozen=True):
    """The archs to measure in one run, each once on every device class that takes part.

    Without `samples` these are `archs`. With it each class measures `samples` archs: first `archs`,
    which all classes share so that they can be compared, then others of its own, which are drawn
    from the space with `seed` and the name of the class.
    """

    run: str
    space: Space
    target: Target
    archs: Sequence[Arch]
    rounds: int = MIN_VISITS
    seed: int = 0
    samples: int = 0

    def archs_of(self, device_class: str) -> List[Arch]:
        """The archs that boards of `device_class` measure: the shared ones, then the class's own.

        Both parts are shuffled.
        """
        shared = _shuffled(self.archs, self.seed)
        if self.samples <= len(shared):
            return shared
        rng = np.random.default_rng([self.seed, zlib.crc32(device_class.encode())])
        known = set(shared)
        drawn = sample_by_macs(self.space, rng, self.samples)
        own = [arch for arch in drawn if arch not in known][: self.samples - len(shared)]
        return [*shared, *_shuffled(own, self.seed)]

    def missing(self, device_class: str, recorded: Collection[Tuple[str, ...]]) -> List[Arch]:
        """The archs of `device_class` that have no record yet: their key is not in `recorded`."""
        return [
            arch
            for arch in self.archs_of(device_class)
            if record_key(self.run, self.target, arch, device_class) not in recorded
        ]

    def blocks(self, archs: Sequence[Arch]) -> List[Block]:
        """Cut `archs` into blocks, shuffled first: each block then has small and large networks."""
        order, anchors = _shuffled(archs, self.seed), self.anchors()
        return [self.block(order[i : i + BLOCK], anchors, i) for i in range(0, len(order), BLOCK)]

    def block(self, archs: Sequence[Arch], anchors: Tuple[Arch, ...], number: int) -> Block:
        """One block of this request; a different `number` gives its rounds another order."""
        return Block(
            id=uuid.uuid4().hex[:12],  # measured again, these archs are another block
            run=self.run,
            target=self.target,
            archs=tuple(archs),
            anchors=anchors,
            rounds=self.rounds,
            seed=self.seed + number,
        )

    def anchors(self) -> Tuple[Arch, ...]:
        """The two networks that every round of every block visits.

        They stand at 1/3 and 2/3 of a ladder of ten archs that are spread evenly in log MACs.
        """
        ladder = sample_by_macs(self.space, np.random.default_rng(0), min(10, self.space.size()))
        ladder.sort(key=lambda arch: plan(self.space, arch).macs)
        return ladder[len(ladder) // 3], ladder[2 * len(ladder) // 3]


def sampled(
    run: str, space: Space, target: Target, samples: int, *, rounds: int, seed: int,
    choose: Optional[Callable[[int], List[Arch]]] = None,
) -> Request:  # fmt: skip
    """A Request of `samples` archs for every device class, a quarter of them shared by all classes.

    The archs are spread in log MACs, and the shared ones include min and max. `choose(count)` may
    select the shared ones in another way. SpaceError unless `samples` lies between 2 and the size
    of the space.
    """
    if not 2 <= samples <= space.size():
        raise SpaceError(
            f"cannot draw {samples} different archs from space {space.name}: "
            f"take at least 2 (min and max) and at most its size, {space.size()}"
        )
    count = max(2, samples // SHARED)
    shared = choose(count) if choose else sample_by_macs(space, np.random.default_rng(seed), count)
    return Request(run, space, target, shared, rounds, seed, samples)


def _shuffled(archs: Sequence[Arch], seed: int) -> List[Arch]:
    return [archs[j] for j in np.random.default_rng(seed).permutation(len(archs))]
