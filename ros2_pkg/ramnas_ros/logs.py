"""Log records of the library -> the log of the node, by duck typing, without rclpy."""

from __future__ import annotations

import logging
from typing import Any


def to_ros(logger: Any) -> None:
    """Send every log record of level INFO and above, from any module, to a logger of rclpy."""
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
        # rclpy demands that one line of code logs only one severity
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
