"""What the library logs -> the log of the node, by duck typing: no rclpy."""

from __future__ import annotations

import logging
from typing import Any


def to_ros(logger: Any) -> None:
    """From INFO on, whichever module it is of, to a logger of rclpy."""
    root = logging.getLogger()
    root.addHandler(_ToRos(logger))
    root.setLevel(logging.INFO)


class _ToRos(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # rclpy wants the calls of each severity to stand on a line of their own
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
