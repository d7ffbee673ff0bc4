"""What every test with real ROS 2 needs: a domain of its own, on this machine alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ros2.real.station import Station


def pytest_configure(config: pytest.Config) -> None:
    # rclpy's own parser (lark 0.12) imports modules that Python 3.11 and later call deprecated
    config.addinivalue_line("filterwarnings", "ignore:module 'sre_:DeprecationWarning")


@pytest.fixture(scope="session", autouse=True)
def own_domain() -> Iterator[None]:
    """Two test runs on one machine do not hear each other; child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        # 0 to 101 leave the ephemeral ports of Linux alone
        patch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors and two segmenters, random weights."""
    from tests.models.bundles import heads, written

    path = tmp_path_factory.mktemp("bundles") / "both"
    written(path, heads("detection"), heads("segmentation"))
    return path


@pytest.fixture(scope="module")
def station(own_domain: None) -> Iterator[Station]:
    yield from _opened()


@pytest.fixture
def fresh_station(own_domain: None) -> Iterator[Station]:
    """One that has heard nothing yet."""
    yield from _opened()


def _opened() -> Iterator[Station]:
    from tests.ros2.real.station import Station

    made = Station()
    try:
        yield made
    finally:
        made.close()
