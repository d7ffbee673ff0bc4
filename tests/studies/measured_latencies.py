"""The public set of latencies, or a store of records -> encodings and milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.record import OK
from ramnas_edge.measuring.store import Store
from ramnas_host.search.objectives import records_in_runs
from ramnas_models.errors import DataError
from ramnas_models.space import Space, load_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

MIN_TEST = 200


@dataclass(frozen=True, eq=False)
class Measured:
    """Encodings [n, slots] of a space, and ms [n, devices].

    `test` holds the indices of the archs kept for judging. If it is empty, every arch that was not
    drawn to learn from is used for judging. `input_hw` is the input size of all networks, if it is
    not each arch's own resolution.
    """

    space: Space
    rows: Rows
    devices: tuple[str, ...]
    ms: Floats
    test: Indices
    input_hw: tuple[int, int] | None = None

    def split(self, n: int, seed: int) -> tuple[Indices, Indices]:
        """Indices of `n` archs to learn from, drawn uniformly, and of those to judge on."""
        pool = np.setdiff1d(np.arange(len(self.rows)), self.test)
        drawn = np.random.default_rng(seed).permutation(pool)
        return drawn[:n], self.test if len(self.test) else drawn[n:]

    def sizes(self, asked: list[int]) -> list[int]:
        """Those of the sizes `asked` that leave enough archs to judge on."""
        most = len(self.rows) - (len(self.test) or MIN_TEST)
        return [n for n in asked if n <= most]


def read_npz(path: Path) -> Measured:
    """Read the public Once-for-All set.

    Its arrays are kernels `ks`, expansions `e`, depths `d`, resolutions `r`, and latencies.
    DataError if the file is not readable.
    """
    space = load_space("ofa_mbv3")
    try:
        data = np.load(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable .npz of latencies: {error}") from error
    n, stages = data["d"].shape
    used = np.arange(data["ks"].shape[1] // stages) < data["d"][:, :, None]
    rows = np.repeat(space.encode(space.min())[None], n, axis=0)
    own = len(space.stages)  # the first is the fixed block, which the set leaves out
    rows[:, 0] = data["r"]
    rows[:, own + 4 : 2 * own + 3] = data["d"]
    start = 2 * own + 3
    for values in (data["ks"], data["e"]):
        end = start + 1 + values.shape[1]
        rows[:, start + 1 : end] = np.where(used.reshape(n, -1), values, 0)
        start = end
    devices = tuple(str(name) for name in data["devices"])
    return Measured(space, rows, devices, data["lat_ms"].astype(float), np.arange(0))


def read_store(path: Path, run: str, test_run: str | None, space: Space) -> Measured:
    """The valid records of a run and, if named, of a `test_run` to judge on.

    They are drift-corrected together. DataError if fewer than 210 archs are on every board, or if
    the runs measured different targets.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; ramnas calibrate makes it")
    store = Store(path)
    records = [
        r for r in records_in_runs(store, [run, *filter(None, [test_run])]) if r.validity == OK
    ]
    store.close()
    if any(r.space_hash != space.hash for r in records):
        raise DataError(f"{path}: run {run} holds records of another space than {space.name}")
    targets = {r.target for r in records}
    if len(targets) > 1:
        raise DataError(
            f"{path}: the records of {run} have {len(targets)} targets; name runs of one target"
        )
    devices = tuple(sorted({r.device_class for r in records}))
    values = [corrected_ms(r for r in records if r.device_class == one) for one in devices]
    shared = {r.arch_id: r for r in records if all(r.arch_id in found for found in values)}
    if len(shared) < MIN_TEST + 10:
        raise DataError(
            f"{path}: every board has {len(shared)} archs, and {MIN_TEST + 10} are needed"
        )
    ms = np.array([[found[arch_id] for found in values] for arch_id in shared])
    test = [i for i, r in enumerate(shared.values()) if test_run and r.run == test_run]
    rows = space.encode_all([r.arch for r in shared.values()])
    input_hw = records[0].target.input_hw
    return Measured(space, rows, devices, ms, np.array(test, dtype=np.intp), input_hw)
