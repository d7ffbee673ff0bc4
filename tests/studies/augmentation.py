"""Time of kornia's AutoAugment and RandAugment on a training batch, beside the four operations
that training uses today.

kornia draws the operations once per batch. Applied group by group, with operations drawn for every
image, the same layers give each image operations of its own.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from kornia.augmentation.auto import AutoAugment, RandAugment
from kornia.augmentation.auto.rand_augment.rand_augment import default_policy
from torch import Tensor, nn

from ramnas_host.config import load_recipe
from ramnas_host.data.augment import Augmentation
from ramnas_models.onnx_graph import Normalisation

REPEATS = 20
BATCHES = ((64, 48), (56, 224))  # images, side: `digits`; one GPU's share of `imagenet`


def per_image(layers: Sequence[nn.Module], rounds: int, x: Tensor) -> Tensor:
    """Apply `rounds` layers to x [n, 3, h, w], drawn anew for each image and round."""
    for _ in range(rounds):
        drawn = torch.randint(len(layers), (len(x),), device=x.device)
        out = torch.empty_like(x)
        for which in drawn.unique().tolist():
            out[drawn == which] = layers[which](x[drawn == which])
        x = out
    return x


def cpu_ms(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """CPU time of a call, the median of REPEATS: calls differ in the operations that they draw."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function(x)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def distinct(function: Callable[[Tensor], Tensor]) -> int:
    """How many different images `function` makes of 64 equal ones."""
    image = torch.rand(1, 3, 48, 48)
    return len({out.numpy().tobytes() for out in function(image.repeat(64, 1, 1, 1))})


def main() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    four = Augmentation(load_recipe("imagenet").augment, Normalisation())._layers
    auto = AutoAugment("imagenet")
    rand = RandAugment(n=2, m=9)
    policies = list(auto.children())
    operations = [RandAugment(n=1, m=9, policy=[entry]) for entry in default_policy]
    rows: dict[str, Callable[[Tensor], Tensor]] = {
        "the four operations": four,
        "AutoAugment, one policy per batch": auto,
        "AutoAugment, one policy per image": lambda x: per_image(policies, 1, x),
        "RandAugment (n=2, m=9), per batch": rand,
        "RandAugment (n=2, m=9), per image": lambda x: per_image(operations, 2, x),
    }
    sizes = " | ".join(f"{n} images of {side}x{side}, ms" for n, side in BATCHES)
    print(f"| | {sizes} | different results of 64 equal images |\n|---|---|---|---|")
    for name, function in rows.items():
        times = [cpu_ms(function, torch.rand(n, 3, side, side)) for n, side in BATCHES]
        cells = " | ".join(f"{ms:.0f}" for ms in times)
        print(f"| {name} | {cells} | {distinct(function)} |", flush=True)


if __name__ == "__main__":
    main()
