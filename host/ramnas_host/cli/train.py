"""`ramnas train`: a space, a recipe and a data set -> a trained supernet."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import msgspec

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import (
    data_option,
    device_option,
    overrides_of,
    progress_option,
    recipe_options,
    warn_of_warm_up,
    workers_option,
)
from ramnas_host.data.about import describe
from ramnas_models.errors import DataError

log = logging.getLogger(__name__)

_MUCH_WAITING = 0.1  # of the time: worth a word, as more --workers may help


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    train = add_verb(
        verbs, "train",
        help="train a supernet",
        purpose="Trains one supernet that contains every network of a search space, in one process "
        "or in several under torchrun. The same command goes on where a stopped run left off.",
        example="ramnas train --init weights.safetensors --data DIR --out runs/train",
    )  # fmt: skip
    train.add_argument(
        "--space",
        help="name or .yaml of the search space (default: micro, or with --init that of the "
        "weights)",
    )
    train.add_argument(
        "--recipe",
        help="name or .yaml of the recipe: data set, schedule, optimizer (default: digits, or with "
        "--init pretrained, which is for any labelled folder)",
    )
    train.add_argument(
        "--init", type=Path, metavar="weights.safetensors",
        help="start with these weights, which ramnas import or ramnas train wrote, instead of "
        "random ones; the classifier is new unless the classes are the same",
    )  # fmt: skip
    recipe_options(train)
    train.add_argument(
        "--freeze", metavar="PART",
        help="keep the weights from the stem up to this part as they are: stem, stage1, stage2 ... "
        "(default: the recipe's freeze, which is none in those that ship)",
    )  # fmt: skip
    data_option(train)
    device_option(train)
    workers_option(train)
    progress_option(train)
    train.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder of the run: the weights, the metrics and the state to go on from",
    )  # fmt: skip
    train.set_defaults(call=_train)


def _train(args: argparse.Namespace) -> None:
    from ramnas_host.cli.progress import bar, facts_of
    from ramnas_host.config import Override, load_recipe
    from ramnas_host.data import loader
    from ramnas_host.data.datasets import load_dataset, recipe_of
    from ramnas_host.data.findings import log_findings
    from ramnas_host.training import checkpoint, distributed, loop, pretrained, run_folder, train
    from ramnas_models.accuracy import share
    from ramnas_models.files import make_folder
    from ramnas_models.space import load_space

    overrides = overrides_of(args)
    if args.freeze is not None:
        overrides.append(Override("freeze", args.freeze, "--freeze"))
    recipe = load_recipe(args.recipe or ("pretrained" if args.init else "digits"), overrides)
    init = checkpoint.load(args.init) if args.init else None
    space = init.net.space if init and not args.space else load_space(args.space or "micro")
    if init:
        pretrained.check_space(space, init)
    if recipe.freeze is not None:
        pretrained.frozen(space, recipe.freeze)
    recipe = recipe.for_space(space)
    preprocessing = init.about.preprocessing if init else None
    dataset = load_dataset(recipe.dataset, recipe.images, args.data, preprocessing)
    steps = recipe.epochs * loader.steps_per_epoch(dataset.train, recipe)
    out, state = args.out / train.LAST, args.out / run_folder.STATE
    if out.exists():
        found = checkpoint.load(out)
        stored = recipe_of(found.about)  # a recipe of an earlier version has fewer keys
        about = msgspec.structs.replace(
            found.about, recipe=describe(dataset, stored).recipe,
            listing=found.about.listing or dataset.listing,
        )  # fmt: skip
        if (found.net.space.hash, about) != (space.hash, train.about_of(dataset, recipe, init)):
            raise DataError(
                f"{out} was trained with another space, recipe or data set, or with another "
                "--init: choose another --out, or remove that folder"
            )
        print(f"already trained: {out}")
        return
    with distributed.started(args.device) as ranks:
        make_folder(args.out)  # so that a bad --out fails now, not after the training
        if ranks.leads:
            log_findings(dataset.findings)
            warn_of_warm_up(recipe)
            if init:
                pretrained.warn_of_other_layers(space, init)
            elif recipe.freeze is not None:
                log.warning(
                    "without --init the weights up to %s stay random, because they are frozen",
                    recipe.freeze,
                )
        if ranks.leads and state.exists():
            print(f"going on from {state}", flush=True)
        workers = args.workers
        if workers is None:
            workers = loader.default_workers(dataset.train, ranks.local_world)
        title = f"train {space.name} on {dataset.name}"
        with bar(
            title,
            steps,
            shown=ranks.leads,
            json_lines=args.progress == "json",
            epochs=recipe.epochs,
        ) as update:
            scores: dict[str, float] = {}
            waiting = 0.0  # a moving average, as single steps differ much

            def show(step: loop.Step) -> None:
                nonlocal scores, waiting
                scores = step.scores or scores
                waiting += (step.wait_share - waiting) / 20
                losses = " ".join(f"{loss:.2f}" for loss in step.losses)
                words = [f"{step.images_per_s:.0f} images/s", f"losses {losses}"]
                if waiting > _MUCH_WAITING:
                    words.append(f"{waiting:.0%} of the time waiting for images")
                if scores:
                    words.append(train.scores_text(scores))
                update(step.number, ", ".join(words), facts_of(step, scores))

            train.train(
                space, dataset, recipe, init=init, folder=args.out, ranks=ranks, workers=workers,
                on_step=show,
            )  # fmt: skip
        if ranks.leads:
            for end in ("min", "max"):
                top1, n = scores[f"top1_{end}"], int(scores[train.N])
                print(f"last weights, {end}: {share('top1', top1, 'selection', n)}")
            print(f"supernet: {out}\nbest: {args.out / run_folder.BEST}")
