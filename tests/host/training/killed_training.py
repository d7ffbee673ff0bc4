"""A training that ends itself with SIGKILL in the middle of a step.

Arguments: the recipe, the folder, the number of the last whole step, the number of threads.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import torch

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import train
from ramnas_models.space import load_space


def main(recipe_file: str, folder: Path, last: int, threads: int) -> None:
    torch.set_num_threads(threads)  # the last bits of a sum depend on it
    recipe = load_recipe(recipe_file)
    dataset = load_dataset(recipe.dataset, recipe.images)

    def kill_soon(step: train.Step) -> None:
        if step.number == last:
            seconds = random.uniform(0, 0.3)
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if step.number == step.total - 1:
            threading.Event().wait()  # or a fast machine would be done before the kill

    train.train(load_space("micro"), dataset, recipe, folder=folder, on_step=kill_soon)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
