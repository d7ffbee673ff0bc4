"""One subnet, cut out of the supernet, trained further on its own (Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ramnas_host import loader, optimizer, sandwich
from ramnas_host.augment import Augmentation
from ramnas_host.config import Recipe
from ramnas_host.data import Dataset
from ramnas_host.distributed import Ranks
from ramnas_models.supernet import Subnet


def finetune(
    subnet: Subnet,
    dataset: Dataset,
    recipe: Recipe,
    *,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Subnet:
    """Train `subnet` itself on labels by the optimizer, schedule and images of `recipe`.

    Its BatchNorm statistics are void afterwards until recalibrated. Returns it in eval mode.
    """
    subnet.to(ranks.device).train()
    sgd = optimizer.sgd(subnet, recipe)
    how = dataset.train.preprocessing
    augmentation = Augmentation(recipe.augment, how.normalisation)
    per_epoch = loader.steps_per_epoch(dataset.train, recipe)
    steps = recipe.epochs * per_epoch
    drawn = loader.batches(
        dataset.train, recipe, 0, steps, rank=ranks.rank, world=ranks.world, workers=workers
    )
    for step, batch in enumerate(drawn):
        torch.manual_seed(recipe.seed * steps + step)  # of augmentation
        x = augmentation(batch.pixels.to(ranks.device))
        images = sandwich.at_any_resolution(x, how.interpolation)
        logits = subnet(images(subnet.plan.input_hw[0]))
        loss = F.cross_entropy(
            logits, batch.labels.to(ranks.device), label_smoothing=recipe.label_smoothing
        )
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        ranks.average_gradients(subnet.parameters())
        lr = recipe.lr * optimizer.rate(step, steps, recipe.warm_up_epochs * per_epoch)
        optimizer.update(sgd, subnet, recipe, lr)
        on_step(step + 1, float(loss.detach()))
    return subnet.eval()
