"""A surrogate as a file: its records and settings, from which it is fitted again when loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from ramnas_host.surrogates import surrogate
from ramnas_host.surrogates.surrogate import Surrogate
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.files import write_file
from ramnas_models.space import Space

FORMAT = 1


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`rows` are encodings of `space`, `y` their targets; `priors` those of other boards."""

    format: int
    space: Space
    family: str
    encoding: str
    log: bool
    input_hw: tuple[int, int] | None
    rows: list[list[int]]
    y: list[float]
    priors: list[Saved] = []


def save(fitted: Surrogate, path: Path) -> None:
    """Write it as JSON: data, never code."""
    write_file(path, msgspec.json.format(msgspec.json.encode(_saved(fitted)), indent=0))


def load(path: Path) -> Surrogate:
    """Read and fit it; DataError if the file is none or does not hold together."""
    try:
        return _fitted(msgspec.json.decode(path.read_bytes(), type=Saved))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path} is no surrogate of ramnas: {error}") from error


def _saved(fitted: Surrogate) -> Saved:
    priors = [_saved(prior) for prior in fitted.priors]
    return Saved(
        FORMAT, fitted.space, fitted.family, fitted.encoding, fitted.log, fitted.input_hw,
        fitted.rows.tolist(), fitted.y.tolist(), priors,
    )  # fmt: skip


def _fitted(saved: Saved) -> Surrogate:
    if saved.format != FORMAT:
        raise DataError(f"format {saved.format}, this ramnas reads {FORMAT}")
    if saved.family not in surrogate.FAMILIES:
        raise DataError(f"unknown family '{saved.family}'")
    if len(saved.rows) != len(saved.y):
        raise DataError(f"{len(saved.rows)} archs and {len(saved.y)} targets")
    try:
        rows = saved.space.encode_all([saved.space.decode(row) for row in saved.rows])
    except SpaceError as error:
        raise DataError(str(error)) from error
    return surrogate.fit(
        saved.space, rows, np.array(saved.y), saved.family, log=saved.log,
        encoding=saved.encoding, input_hw=saved.input_hw,
        priors=[_fitted(prior) for prior in saved.priors],
    )  # fmt: skip
