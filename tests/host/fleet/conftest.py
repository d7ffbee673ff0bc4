"""In these tests hosts do not wait for a tick, nor give up a board because the machine is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ramnas_edge.fleet import wire
from ramnas_host.fleet import host, router


@pytest.fixture(scope="session", autouse=True)
def quick_and_patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "TICK_S", 0.05)
        patch.setattr(wire, "SILENCE_S", 120.0)
        patch.setattr(router, "FAREWELL_S", 60.0)  # it ends when every board has answered
        yield
