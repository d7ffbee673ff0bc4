"""Runs the node with an extra engine: the fastest one, until it loses its device after some frames.

It runs real sessions of onnxruntime. Three things are made up: the device is lost after
FRAMES_UNTIL_LOSS frames (4 unless that variable is set; the first one is the image that a model is
checked with when it is opened), empty images take no time, and a dark image takes until the file
HOLD_UNTIL exists.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ramnas_edge.engines import backends
from ramnas_models.errors import BackendError

NAME = "onnxruntime-flaky"
FRAMES = int(os.environ.get("FRAMES_UNTIL_LOSS", "4"))


class Flaky:
    """A session of the CPU engine that counts its runs on images that are not empty."""

    def __init__(self, session: Any) -> None:
        self._session, self._empty, self._runs = session, None, 0
        self.inputs, self.outputs = session.inputs, session.outputs
        self.running = backends.Running(NAME, "1.0", ("FlakyExecutionProvider",), "fp32")
        self.close = session.close

    def infer(self, feeds: Mapping[str, Any]) -> Any:
        if not any(feed.any() for feed in feeds.values()):  # engine `auto` compares the engines
            self._empty = self._empty or self._session.infer(feeds)
            return self._empty
        if all(feed.max() < 2 for feed in feeds.values()):
            while not Path(os.environ["HOLD_UNTIL"]).exists():
                time.sleep(0.01)
        self._runs += 1
        if self._runs > FRAMES:
            raise BackendError(f"engine {NAME} failed: device lost")
        return self._session.infer(feeds)


class Backend:
    version, thread_bound = "1.0", False

    def open(self, model: bytes, options: backends.Options) -> Flaky:
        return Flaky(backends.load("onnxruntime-cpu").open(model, options))


def load(engine: str, name: str) -> Backend:
    return Backend()


if __name__ == "__main__":
    backends.ENGINES[NAME] = ("tests.ros2.real.flaky_engine", NAME)
    from ramnas_ros.perception_node import main

    sys.exit(main())
