"""Train the supernet: sandwich rule, subnets mutual distillation, DKD (START HERE for training).

It runs in one process or, under torchrun, in several.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from ramnas_host.config import Recipe
from ramnas_host.data import loader
from ramnas_host.data.about import About, describe
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import Dataset
from ramnas_host.data.loader import Batch
from ramnas_host.training import checkpoint, loop, pretrained, resume, sandwich
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import true_scores
from ramnas_host.training.loop import Step
from ramnas_host.training.run_folder import FolderContents, RunFolder
from ramnas_models.accuracy import wilson
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import DropRates, Supernet

LAST = "supernet.safetensors"
N = "selection_n"  # the column with the number of images that the scores come from


def train(
    space: Space,
    dataset: Dataset,
    recipe: Recipe,
    *,
    init: Checkpoint | None = None,
    folder: Path | None = None,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Supernet:
    """Train a supernet of `space`. DataError if a loss stops being finite.

    The results are saved to `folder` (see `run_folder.py`). If it already has a state, training
    goes on from there and ends in the same weights, to the last bit on a CPU. Without `folder`
    nothing is saved or evaluated. `workers`: the number of extra processes that decode images.
    `init`: the weights to start with, whose preprocessing `dataset` must have; None for random
    ones.
    """
    recipe = recipe.for_space(space)
    torch.manual_seed(recipe.seed)  # the same initial weights on every rank
    net = pretrained.supernet(space, dataset.classes, init).to(ranks.device).train()
    if recipe.freeze is not None:
        pretrained.freeze(net, recipe.freeze)
    if recipe.sync_batchnorm and ranks.world > 1:
        net.synchronise_batchnorm()
    forward = _compiled(net) if recipe.compile else net
    state = resume.new_state(net, recipe)
    preprocessing = dataset.train.preprocessing
    augmentation = Augmentation(recipe.augment, preprocessing.normalisation)
    per_epoch = loader.steps_per_epoch(dataset.train, recipe)

    def archs(step: int) -> list[Arch]:
        return sandwich.draw(space, net, np.random.default_rng((recipe.seed, step)))

    def gradients(step: int, batch: Batch) -> Tensor:
        x = augmentation(batch.pixels.to(ranks.device, non_blocking=True))
        images = sandwich.at_any_resolution(x, preprocessing.interpolation)
        labels = batch.labels.to(ranks.device, non_blocking=True)
        return sandwich.step(forward, archs(step), images, labels, recipe, state.scaler)

    def batches_from(first: int) -> Iterator[Batch]:
        return loader.batches(
            dataset.train, recipe, first, recipe.epochs * per_epoch, rank=ranks.rank,
            world=ranks.world, workers=workers, pin=ranks.device.type == "cuda",
        )  # fmt: skip

    def networks(step: int) -> str:
        return f"{', '.join(sandwich.ROLES)} (archs {', '.join(arch.id for arch in archs(step))})"

    contents = _contents(net, dataset, recipe, init, ranks)
    run_folder = RunFolder(folder, state, contents, ranks) if folder else None
    loop.run(
        state, recipe, gradients, batches_from, per_epoch, folder=run_folder, ranks=ranks,
        networks=networks, on_step=on_step,
    )  # fmt: skip
    return net


def about_of(dataset: Dataset, recipe: Recipe, init: Checkpoint | None) -> About:
    """The facts about weights that are trained on `dataset` by `recipe`, starting with `init`."""
    about = describe(dataset, recipe)
    return pretrained.continued(about, init) if init else about


def _contents(
    net: Supernet, dataset: Dataset, recipe: Recipe, init: Checkpoint | None, ranks: Ranks
) -> FolderContents:
    """What a supernet's training saves.

    The best weights are those with the highest mean of the top-1 of min and max. The random subnets
    do not count: they lie between the two, and how many there are must not change what is best.
    """
    space, about = net.space, about_of(dataset, recipe, init)
    parts = ("train", "calibration", "selection", "report")
    groups = evaluated(space, recipe)
    names = (N, *(f"{top}_{name}" for name in groups for top in ("top1", "top5")))

    def evaluate() -> dict[str, float]:
        archs = [arch for group in groups.values() for arch in group]
        found = dict(zip(archs, true_scores(net, archs, dataset, "selection", ranks=ranks)))
        scores: dict[str, float] = {N: found[archs[0]].n}
        for name, group in groups.items():
            scores[f"top1_{name}"] = statistics.fmean(found[arch].top1 for arch in group)
            scores[f"top5_{name}"] = statistics.fmean(found[arch].top5 for arch in group)
        return scores

    return FolderContents(
        recipe=recipe,
        per_epoch=loader.steps_per_epoch(dataset.train, recipe),
        identity=resume.identity(
            f"{space.hash} {len(dataset.train)} {dataset.listing} {about.init}".strip(), recipe
        ),
        last=LAST,
        columns=(*(f"loss_{role}" for role in sandwich.ROLES), *names),
        resolved={
            "space": msgspec.to_builtins(space),
            "images": {part: len(dataset.split(part)) for part in parts},
            "init": about.init or None,
        },
        evaluate=evaluate,
        goodness=lambda scores: (scores["top1_min"] + scores["top1_max"]) / 2,
        save=lambda path: checkpoint.save(path, net, about),
    )


def evaluated(space: Space, recipe: Recipe) -> dict[str, list[Arch]]:
    """The archs that are scored on the way, by the names of their columns in the metrics.

    A column is the mean over its archs: min, max and, if the recipe asks for them, random subnets.
    """
    rng = np.random.default_rng((recipe.seed, 0, 2))  # the same ones in every evaluation
    random = [space.sample(rng) for _ in range(recipe.random_subnets)]
    return {"min": [space.min()], "max": [space.max()], **({"random": random} if random else {})}


def scores_text(scores: Mapping[str, float]) -> str:
    """The scores of a step for people: `selection split, n 500: top-1 min 95.2 % (93.0 to 96.8)`.

    The brackets have the 95 % interval. A mean over several archs has that of one of them, because
    all are scored on the same images.
    """
    n, found = int(scores[N]), []
    for name in ("min", "max", "random"):
        if f"top1_{name}" in scores:
            value = scores[f"top1_{name}"]
            low, high = (100 * end for end in wilson(value, n))
            found.append(f"{name} {100 * value:.1f} % ({low:.1f} to {high:.1f})")
    return f"selection split, n {n}: top-1 {', '.join(found)}"


def _compiled(net: Supernet) -> sandwich.Forward:
    """A forward pass with the max and the min net compiled, as every step runs both.

    The random subnets are not compiled: it takes minutes, and each of them is seldom drawn again.
    """
    fixed = {
        # dynamic=False: the shapes never change, and symbolic ones are harder to compile
        arch: torch.compile(
            lambda x, drop, plan=net.plan(arch): net.run(x, plan, drop), dynamic=False
        )
        for arch in (net.space.max(), net.space.min())
    }

    def forward(x: Tensor, arch: Arch, drop: DropRates | None = None) -> Tensor:
        logits: Tensor = fixed[arch](x, drop) if arch in fixed else net(x, arch, drop)
        return logits

    return forward
