"""Time of augmenting a training batch: as the paper does it, with AutoAugment, with RandAugment.

kornia's own containers draw the operations once per batch. Training draws them for each image, and
gives the images with the same operation to kornia together.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import msgspec
import torch
from kornia.augmentation.auto import AutoAugment, RandAugment
from torch import Tensor

from ramnas_host.config import load_recipe
from ramnas_host.data.augment import Augmentation
from ramnas_models.onnx_graph import Normalisation

REPEATS = 20
BATCHES = ((64, 48), (56, 224))  # images, side: `digits`; one GPU's share of `imagenet`


def ours(**changes: object) -> Callable[[Tensor], Tensor]:
    """What training does to a batch, uint8 [n, h, w, 3], by the recipe `imagenet` but for these."""
    augment = msgspec.structs.replace(load_recipe("imagenet").augment, **changes)
    return Augmentation(augment, Normalisation())


def cpu_ms(function: Callable[[Tensor], Tensor], pixels: Tensor) -> float:
    """CPU time of a call, the median of REPEATS: calls differ in the operations that they draw."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function(pixels)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def distinct(function: Callable[[Tensor], Tensor]) -> int:
    """How many different images `function` makes of 64 equal ones."""
    image = torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8)
    return len({out.numpy().tobytes() for out in function(image.repeat(64, 1, 1, 1))})


def main() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    off = {"flip": 0.0, "brightness": 0.0, "noise": 0.0, "mask": 0.0}
    auto, rand = AutoAugment("imagenet"), RandAugment(n=2, m=9)
    rows: dict[str, Callable[[Tensor], Tensor]] = {
        "nothing but normalisation": ours(policy="none", **off),
        "flip, brightness, noise, mask": ours(policy="none"),
        "AutoAugment": ours(policy="autoaugment", **off),
        "AutoAugment, kornia's own: once per batch": lambda x: auto(x.permute(0, 3, 1, 2) / 255),
        "RandAugment": ours(policy="randaugment", **off),
        "RandAugment, kornia's own: once per batch": lambda x: rand(x.permute(0, 3, 1, 2) / 255),
        "all of `imagenet`: AutoAugment and the first four": ours(),
    }
    sizes = " | ".join(f"{n} images of {side}x{side}, ms" for n, side in BATCHES)
    print(f"| | {sizes} | different results of 64 equal images |\n|---|---|---|---|")
    for name, function in rows.items():
        batches = [torch.randint(0, 256, (n, s, s, 3), dtype=torch.uint8) for n, s in BATCHES]
        cells = " | ".join(f"{cpu_ms(function, batch):.0f}" for batch in batches)
        print(f"| {name} | {cells} | {distinct(function)} |", flush=True)


if __name__ == "__main__":
    main()
