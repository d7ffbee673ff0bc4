"""`ramnas finetune`: a subnet and labelled images -> a detector, segmenter or classifier."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import (
    ARCH_HELP,
    REPORT_NOTE,
    device_option,
    supernet_option,
    workers_option,
)

_RECIPES = {"detection": "coco", "segmentation": "cityscapes", "classification": "inherited"}
_TRANSFER = "transfer"


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
        "--task", required=True, choices=tuple(_RECIPES), help="what the network learns"
    )
    finetune.add_argument("--arch", required=True, help=ARCH_HELP)
    finetune.add_argument(
        "--front", type=Path, metavar="front.json", help="where to look up --arch"
    )
    supernet_option(finetune)
    finetune.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder in the format of COCO for detection, of Cityscapes for segmentation; for "
        "classification, train/<class>/ and val/<class>/ (default: the data set of the supernet)",
    )  # fmt: skip
    defaults = ", ".join(f"{recipe} for {task}" for task, recipe in _RECIPES.items())
    finetune.add_argument(
        "--recipe",
        help=f"name or .yaml of the recipe (default: {defaults}, or {_TRANSFER} if the supernet "
        "was trained on other images than those in --data)",
    )
    finetune.add_argument(
        "--from-scratch", action="store_true",
        help="start from random weights instead of the supernet's",
    )  # fmt: skip
    device_option(finetune)
    workers_option(finetune)
    finetune.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder of the run, for ramnas bundle --finetuned",
    )  # fmt: skip
    finetune.set_defaults(call=_finetune)


def _finetune(args: argparse.Namespace) -> None:
    from ramnas_host.cli.progress import bar
    from ramnas_host.config import load_finetuning
    from ramnas_host.data import loader
    from ramnas_host.data.datasets import trained_on
    from ramnas_host.finetuning import finetune
    from ramnas_host.finetuning.prepare import FINETUNED, prepare
    from ramnas_host.search.front import arch_of
    from ramnas_host.training import checkpoint, distributed, loop, run_folder
    from ramnas_models.errors import DataError
    from ramnas_models.files import make_folder

    supernet = checkpoint.load(args.supernet)
    name = args.recipe or _RECIPES[args.task]
    if not args.recipe and args.task == "classification" and args.data:
        name = name if trained_on(supernet.about, args.data) else _TRANSFER
    recipe = load_finetuning(name)
    if recipe.task != args.task:
        raise DataError(f"the recipe is for {recipe.task}, not for {args.task}")
    arch = arch_of(supernet.net.space, args.arch, args.front, supernet.about.source)
    run = prepare(supernet, arch, recipe, args.data, from_scratch=args.from_scratch)
    out, state = args.out / FINETUNED, args.out / run_folder.STATE
    if out.exists():
        run.check_same(out)
        print(f"already fine-tuned: {out}")
        return
    with distributed.started(args.device) as ranks:
        make_folder(args.out)
        if ranks.leads and state.exists():
            print(f"going on from {state}", flush=True)
        workers = args.workers
        if workers is None:
            workers = loader.default_workers(run.task.train, ranks.local_world)
        with bar(f"{args.task} with {arch.id}", run.steps, shown=ranks.leads) as update:
            best = ""

            def show(step: loop.Step) -> None:
                nonlocal best
                if step.scores:
                    best = f"; {finetune.scores_text(step.scores)}"
                update(
                    step.number,
                    f"{step.images_per_s:.0f} images/s, loss {step.losses[0]:.2f}{best}",
                )

            accuracies = run.train(args.out, ranks, workers, show)
        if ranks.leads:
            for accuracy in accuracies:
                print(accuracy)
            print(f"the report split was read once, at the end: {REPORT_NOTE}")
            print(f"fine-tuned {args.task}: {out}")
