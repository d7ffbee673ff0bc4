"""One of the processes that torchrun starts for test_distributed.py; all checks share the start.

Arguments: a JSON file with the Jobs, and the folder for the results.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import msgspec
import torch

from ramnas_host.cli.main import main as ramnas
from ramnas_host.config import Recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import distributed, train
from ramnas_models.errors import DataError, RamnasError
from ramnas_models.space import load_space


class Jobs(msgspec.Struct):
    """What both processes do, one after the other."""

    trainings: dict[str, Recipe]  # supernets, by name, in float64
    commands: list[list[str]]  # of `ramnas`, which must succeed
    refused: list[str]  # a command that must end as wrong input does; then one process fails


def main(file: Path, out: Path) -> None:
    """Write each rank's weights of every training, then run the commands."""
    jobs = msgspec.json.decode(file.read_bytes(), type=Jobs)
    torch.set_num_threads(1)
    with distributed.started("cpu") as ranks:
        torch.set_default_dtype(torch.float64)
        for name, recipe in jobs.trainings.items():
            dataset = load_dataset(recipe.dataset, recipe.images)
            net = train.train(load_space("micro"), dataset, recipe, ranks=ranks)
            torch.save(net.state_dict(), out / f"{name}-rank{ranks.rank}.pt")
        torch.set_default_dtype(torch.float32)
        # the verbs take part in this group: a process cannot leave it and join another
        distributed.started = lambda device="auto": contextlib.nullcontext(ranks)
        for argv, expected in (*((argv, 0) for argv in jobs.commands), (jobs.refused, 2)):
            code = ramnas(argv)
            if code != expected:
                sys.exit(f"ramnas {argv[0]} ended with {code}")  # and torchrun ends the other
            ranks.wait()  # one process writes the files that the next command reads
        if not ranks.leads:
            raise DataError("this rank is lost")
        ranks.gather("the other rank never answers")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RamnasError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        # All that is looked at is known by now. A lost rank that has used all of the above was seen
        # to abort while its interpreter ended ("terminate called without an active exception").
        os._exit(0)
