"""How a calibration stands: what is measured, which boards are here, what was refused."""

from __future__ import annotations

import msgspec


class ClassStatus(msgspec.Struct, frozen=True):
    """One device class: `done` of `total` archs have a record, `leased` are with boards.

    `quarantined` are ids of archs that boards died on; `ended`: its surrogate is good enough.
    """

    name: str
    done: int
    total: int
    boards: int  # here now
    leased: int = 0
    quarantined: list[str] = []
    ended: bool = False


class BoardStatus(msgspec.Struct, frozen=True):
    """One board; `state` is measuring, waiting, paused, silent or gone.

    `inside` counts the archs of its block that are measured so far. None: it has no such sensor.
    """

    name: str
    device_class: str
    state: str
    done: int
    inside: float = 0.0
    rate_per_min: float = 0.0
    temperature_c: float | None = None
    power_mode: str | None = None
    last_error: str = ""


class Status(msgspec.Struct, frozen=True):
    """All of it; `left_s` is None while nobody can tell, `refused` counts messages and peers."""

    run: str
    done: int
    total: int
    rate_per_min: float = 0.0
    left_s: float | None = None
    refused: dict[str, int] = {}
    classes: list[ClassStatus] = []
    boards: list[BoardStatus] = []
