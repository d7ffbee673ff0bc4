"""Fixtures of the tests with real ROS 2: a domain of their own, a bundle, a station."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ros2.real.station import Station


def pytest_configure(config: pytest.Config) -> None:
    # the parser that rclpy uses (lark 0.12) imports modules that are deprecated since Python 3.11
    config.addinivalue_line("filterwarnings", "ignore:module 'sre_:DeprecationWarning")


@pytest.fixture(scope="session", autouse=True)
def own_domain() -> Iterator[None]:
    """Set a domain, so that two test runs on one machine do not hear each other.

    Child processes inherit it.
    """
    with pytest.MonkeyPatch.context() as patch:
        # domains 0 to 101 do not use the ephemeral ports of Linux
        patch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two detectors and two segmenters with random weights."""
    from tests.models.bundles import heads, written

    path = tmp_path_factory.mktemp("bundles") / "both"
    written(path, heads("detection"), heads("segmentation"))
    return path


@pytest.fixture(scope="module")
def station(own_domain: None) -> Iterator[Station]:
    yield from _open_station()


@pytest.fixture
def fresh_station(own_domain: None) -> Iterator[Station]:
    """A station that has received nothing yet."""
    yield from _open_station()


def _open_station() -> Iterator[Station]:
    from tests.ros2.real.station import Station

    made = Station()
    try:
        yield made
    finally:
        made.close()
