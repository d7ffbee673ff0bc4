"""What both command lines share: errors become one line and exit code 2."""

from __future__ import annotations

import logging
import sys
from typing import Callable

from ramnas_models.errors import RamnasError


def guarded(call: Callable[[], None]) -> int:
    """Run a verb: 0, 2 after a RamnasError (printed as one line), 130 after Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        call()
    except RamnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
