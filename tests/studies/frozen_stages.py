"""What a training step of EfficientNet-Lite0's supernet costs with its first stages frozen.

    python -m tests.studies.frozen_stages

Prints a table of docs/training.md: steps of 32 images at 96, 80 and 64 pixels, on one thread. The
weights are random, which changes neither the memory nor the time.
"""

from __future__ import annotations

import statistics
import time

import msgspec
import numpy as np
import torch

from ramnas_host.config import load_recipe
from ramnas_host.training import optimizer, pretrained, sandwich
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.saved_memory import saved_memory

SPACE = msgspec.structs.replace(load_space("lite"), resolutions=(64, 80, 96))
PARTS = (None, "stem", "stage2", "stage3", "stage5")
CLASSES, IMAGES, STEPS = 20, 32, 5


def main() -> None:
    torch.set_num_threads(1)
    recipe = load_recipe("pretrained")
    pixels = torch.rand(IMAGES, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(IMAGES) % CLASSES
    heads = (
        "`--freeze`", "kept for the backward pass at most, MiB",
        f"CPU time of a step, s (median of {STEPS})", "trained parameters, millions",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|")
    for part in PARTS:
        net = Supernet(SPACE, CLASSES).train()
        if part:
            pretrained.freeze(net, part)
        sgd = optimizer.sgd(net, recipe)

        def step(number: int, net: Supernet = net, sgd: torch.optim.SGD = sgd) -> float:
            start = time.process_time()
            sgd.zero_grad()
            archs = sandwich.draw(SPACE, net, np.random.default_rng(number))
            images = sandwich.at_any_resolution(pixels, "bicubic")
            sandwich.step(net, archs, images, labels, recipe)
            optimizer.update(sgd, net, recipe, lr=0.01)
            return time.process_time() - start

        with saved_memory() as memory:
            step(0)
        seconds = statistics.median(step(number) for number in range(STEPS))
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        name = f"`{part}`" if part else "none"
        print(
            f"| {name} | {memory.most / 2**20:.0f} | {seconds:.2f} | {trained / 1e6:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
