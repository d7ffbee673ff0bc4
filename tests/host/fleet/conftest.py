"""Hosts of these tests look at their boards 20 times a second, so that no test waits for a tick."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ramnas_host.fleet import host


@pytest.fixture(scope="session", autouse=True)
def frequent_ticks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "TICK_S", 0.05)
        yield
