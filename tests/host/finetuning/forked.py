"""What the tests of fine-tuning run in processes of their own.

The processes are forked from a server that has imported torch and ramnas once. So each of them
starts in milliseconds rather than seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from ramnas_host.cli import main
from ramnas_host.config import Finetuning
from ramnas_host.finetuning.prepare import prepare
from ramnas_host.training import checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.loop import Step
from ramnas_models.space import Arch


def start(target: object, *args: object) -> ForkServerProcess:
    """Call `target(*args)` in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def ramnas(argv: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
    """Run one verb of `ramnas` on one thread; what it prints goes to the file `output`."""
    os.environ.update(environment)
    torch.set_num_threads(1)  # as torchrun does
    with output.open("w") as file, contextlib.redirect_stdout(file):
        raise SystemExit(main.main(list(argv)))


def train_until_killed(
    supernet: Path, arch: Arch, recipe: Finetuning, data: Path, out: Path, step: int, delay_s: float
) -> None:
    """Fine-tune, and get killed (kill -9) `delay_s` seconds after `step` or at the step before the
    last one, whichever comes first."""
    run = prepare(checkpoint.load(supernet), arch, recipe, data)

    def kill_in_time(done: Step) -> None:
        if done.number == step:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if done.number == run.steps - 1:
            time.sleep(600)

    run.train(out, Ranks(), 0, kill_in_time)
