"""What one process of the tests of distributed training does; torchrun starts it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch

from ramnas_host.config import Recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.training import distributed, train
from ramnas_models.space import load_space


def main(recipe_file: Path, out: Path) -> None:
    """Train in float64; every rank writes its weights."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    recipe = msgspec.json.decode(recipe_file.read_bytes(), type=Recipe)
    dataset = load_dataset(recipe.dataset, recipe.images)
    with distributed.started() as ranks:
        net = train.train(load_space("micro"), dataset, recipe, ranks=ranks)
        torch.save(net.state_dict(), out / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
