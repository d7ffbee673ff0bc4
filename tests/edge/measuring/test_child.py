"""The process that measures: what is said where it cannot be started."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

import pytest

from ramnas_edge.measuring import child
from ramnas_models.errors import BackendError
from ramnas_models.space import load_space


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
@pytest.mark.parametrize("step", ["Pipe", "Popen"])
def test_a_limit_of_processes_memory_or_files_is_one_line(
    step: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(child if step == "Pipe" else subprocess, step, refused)
    with pytest.raises(BackendError, match=os.strerror(number)):
        child.Child(load_space("micro"))
