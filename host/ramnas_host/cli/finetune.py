"""`ramnas finetune`: a subnet and labelled images -> a detector, segmenter or classifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import (
    ARCH_HELP,
    REPORT_NOTE,
    TASK_RECIPES,
    TRANSFER,
    device_option,
    overrides_of,
    progress_option,
    recipe_options,
    supernet_option,
    warn_of_warm_up,
    workers_option,
)
from ramnas_host.config import Override
from ramnas_models.accuracy import Accuracy
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_host.data.about import About

ByClass = dict[str, tuple[Accuracy, ...]]
_MOST_CLASSES = 30  # that are printed with their accuracies


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    finetune = add_verb(
        verbs, "finetune",
        help="train one network for detection, segmentation or classification",
        purpose="Trains one network of a supernet for a task on your labelled images, in one "
        "process or in several under torchrun. The same command goes on where a stopped run left "
        "off.",
        example="ramnas finetune --task detection --arch min --supernet supernet.safetensors "
        "--data runs/scenes/coco --out runs/detector",
    )  # fmt: skip
    finetune.add_argument(
        "--task", required=True, choices=tuple(TASK_RECIPES), help="what the network learns"
    )
    finetune.add_argument("--arch", required=True, help=ARCH_HELP)
    finetune.add_argument(
        "--front", type=Path, metavar="front.json", help="where to look up --arch"
    )
    supernet_option(finetune, required=False)
    finetune.add_argument(
        "--space", metavar="NAME",
        help="with --from-scratch: name or .yaml of the space of --arch, in place of --supernet",
    )  # fmt: skip
    finetune.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder in the format of COCO for detection, of Cityscapes for segmentation; for "
        "classification, train/<class>/ and val/<class>/ (default: the data set of the supernet)",
    )  # fmt: skip
    defaults = ", ".join(f"{recipe} for {task}" for task, recipe in TASK_RECIPES.items())
    finetune.add_argument(
        "--recipe",
        help=f"name or .yaml of the recipe (default: {defaults}, or {TRANSFER} if the supernet "
        "was trained on other images than those in --data)",
    )
    recipe_options(finetune)
    finetune.add_argument(
        "--input-size", type=int, nargs="+", metavar=("HEIGHT", "WIDTH"),
        help="size that images are resized to, instead of the recipe's input_hw; one number for a "
        "square",
    )  # fmt: skip
    finetune.add_argument(
        "--from-scratch", action="store_true",
        help="start from random weights instead of the supernet's",
    )  # fmt: skip
    device_option(finetune)
    workers_option(finetune)
    progress_option(finetune)
    finetune.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder of the run, for ramnas bundle --finetuned",
    )  # fmt: skip
    finetune.set_defaults(call=_finetune)


def _default_recipe(args: argparse.Namespace, about: About | None) -> str:
    """The recipe of the task; another one for class folders that did not train the supernet."""
    from ramnas_host.data.datasets import trained_on

    if args.task != "classification" or not args.data:
        return TASK_RECIPES[args.task]
    return TASK_RECIPES[args.task] if about and trained_on(about, args.data) else TRANSFER


def _finetune(args: argparse.Namespace) -> None:
    from ramnas_host.cli.progress import bar, facts_of
    from ramnas_host.config import load_finetuning
    from ramnas_host.data import loader
    from ramnas_host.finetuning import finetune
    from ramnas_host.finetuning.prepare import BY_CLASS, FINETUNED, prepare
    from ramnas_host.search.front import arch_of
    from ramnas_host.training import checkpoint, distributed, loop, run_folder
    from ramnas_models.files import make_folder
    from ramnas_models.space import load_space

    _check_source(args)
    source = checkpoint.load(args.supernet) if args.supernet else None
    name = args.recipe or _default_recipe(args, source.about if source else None)
    recipe = load_finetuning(name, _overrides(args))
    if recipe.task != args.task:
        raise DataError(f"the recipe is for {recipe.task}, not for {args.task}")
    if source:
        arch = arch_of(source.net.space, args.arch, args.front, source.about.source)
        run = prepare(source, arch, recipe, args.data, from_scratch=args.from_scratch)
    else:
        space = load_space(args.space)
        arch = arch_of(space, args.arch, args.front)
        run = prepare(space, arch, recipe, args.data)
    out, state = args.out / FINETUNED, args.out / run_folder.STATE
    if out.exists():
        run.check_same(out)
        print(f"already fine-tuned: {out}")
        return
    with distributed.started(args.device) as ranks:
        make_folder(args.out)
        if ranks.leads:
            warn_of_warm_up(recipe)
        if ranks.leads and state.exists():
            print(f"going on from {state}", flush=True)
        workers = args.workers
        if workers is None:
            workers = loader.default_workers(run.task.train, ranks.local_world)
        with bar(
            f"{args.task} with {arch.id}", run.steps, shown=ranks.leads,
            json_lines=args.progress == "json", epochs=recipe.epochs,
        ) as update:  # fmt: skip
            scores: dict[str, float] = {}

            def show(step: loop.Step) -> None:
                nonlocal scores
                scores = step.scores or scores
                words = [f"{step.images_per_s:.0f} images/s", f"loss {step.losses[0]:.2f}"]
                if scores:
                    words.append(finetune.scores_text(scores))
                update(step.number, ", ".join(words), facts_of(step, scores))

            accuracies = run.train(args.out, ranks, workers, show)
        if ranks.leads:
            by_class = (args.out / BY_CLASS).read_bytes()
            for line in by_class_lines(msgspec.json.decode(by_class, type=ByClass)):
                print(line)
            for accuracy in accuracies:
                print(accuracy)
            print(f"the report split was read once, at the end: {REPORT_NOTE}")
            print(f"fine-tuned {args.task}: {out}")


def _overrides(args: argparse.Namespace) -> list[Override]:
    found = overrides_of(args)
    if args.input_size is not None:
        if args.task == "classification":
            raise DataError(
                "--input-size is for detection and segmentation: a classifier takes images at the "
                f"resolution of its --arch, here {args.arch}"
            )
        size = tuple(args.input_size)
        if len(size) > 2:
            raise DataError(
                f"--input-size {' '.join(map(str, size))}: give a height and a width, or one number"
            )
        found.append(Override("input_hw", size * (3 - len(size)), "--input-size"))
    return found


def _check_source(args: argparse.Namespace) -> None:
    """DataError unless one of --supernet and --space says what to cut the arch out of."""
    if args.supernet and args.space:
        raise DataError("give --supernet or --space, not both: a supernet has its space")
    if args.space and not args.from_scratch:
        raise DataError(
            f"--space {args.space} has no weights: give --supernet, or --from-scratch for random "
            "weights"
        )
    if not args.supernet and not args.space:
        either = (
            " or --space NAME" if args.from_scratch else ", or --from-scratch with --space NAME"
        )
        raise DataError(
            f"there is nothing to cut --arch {args.arch} out of: give --supernet{either}"
        )


def by_class_lines(by_class: ByClass) -> list[str]:
    """A table of the accuracies of single classes in %, the lowest first.

    Classes that no picture has are missing. Of many classes only the worst are listed, and the last
    line names the file that has all of them.
    """
    if not by_class:
        return []
    from ramnas_host.data.findings import one_line
    from ramnas_host.finetuning.prepare import BY_CLASS

    rows = sorted(by_class.items(), key=lambda row: (row[1][0].value, row[0]))
    rows = [(one_line(name), accuracies) for name, accuracies in rows]
    first = rows[0][1]
    width = max(len(name) for name, _ in (("class", ()), *rows))
    heads = "".join(f"{accuracy.metric:>10}" for accuracy in first)
    lines = [f"by class in %, {first[0].split} split:", f"  {'class':{width}}{heads}{'n':>8}"]
    for name, accuracies in rows[:_MOST_CLASSES]:
        values = "".join(f"{100 * accuracy.value:10.1f}" for accuracy in accuracies)
        lines.append(f"  {name:{width}}{values}{accuracies[0].n or 0:8}")
    if len(rows) > _MOST_CLASSES:
        lines.append(f"  {len(rows) - _MOST_CLASSES} more in {BY_CLASS}")
    return lines
