"""A space -> different archs spread evenly over its range of MACs, for measuring and evaluating."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List

from ramnas_models.errors import SpaceError
from ramnas_models.plan import plan

if TYPE_CHECKING:
    import numpy as np

    from ramnas_models.space import Arch, Space


def sample_by_macs(space: Space, rng: np.random.Generator, n: int) -> List[Arch]:
    """Draw `n` different archs, spread evenly over ten bins of equal width in log MACs.

    The first two are min() and max(). Uniform sampling almost never reaches the cheap bins: 0.08 %
    of uniform table1 archs cost 300 MMACs or less. So each draw shifts all of its choices by one
    random amount towards the small or the large end.

    SpaceError unless `n` lies between 2 and the size of the space.
    """
    if not 2 <= n <= space.size():
        raise SpaceError(
            f"cannot draw {n} different archs from space {space.name}: "
            f"take at least 2 (min and max) and at most its size, {space.size()}"
        )
    archs = [space.min(), space.max()]
    low, high = (math.log(plan(space, arch).macs) for arch in archs)
    room = [n // 10 + (i < n % 10) for i in range(10)]
    room[0] -= 1
    room[9] -= 1
    seen = set(archs)
    tries = 0
    while len(archs) < n:
        tries += 1
        lean = math.exp(rng.uniform(-2.5, 2.5))
        arch = space.sample_leaning(rng, lean)
        macs = math.log(plan(space, arch).macs)
        bin_of = min(9, int(10 * (macs - low) / max(high - low, 1e-9)))
        # some bins of a small space may be empty, so after many tries any new arch is good enough
        if arch not in seen and (room[bin_of] > 0 or tries > 200 * n):
            room[bin_of] -= 1
            seen.add(arch)
            archs.append(arch)
    return archs
