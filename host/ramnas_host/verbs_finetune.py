"""The verbs that make a detector or a segmenter of a subnet: scenes, finetune."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_host.verbs_train import ARCH_HELP, data_option, workers_option

_RECIPES = {"detection": "coco", "segmentation": "cityscapes", "classification": "inherited"}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
    scenes = verbs.add_parser(
        "scenes", help="compose detection and segmentation scenes from real images"
    )
    scenes.add_argument("--items", default="digits", choices=("digits", "fashion"))
    data_option(scenes)
    scenes.add_argument("--train", type=int, default=8000, metavar="N")
    scenes.add_argument("--val", type=int, default=100, metavar="N")
    scenes.add_argument("--test", type=int, default=500, metavar="N")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument("--out", type=Path, required=True, metavar="DIR")
    scenes.set_defaults(call=_scenes)

    finetune = verbs.add_parser(
        "finetune", help="train one subnet for a task, alone or as many processes under torchrun"
    )
    finetune.add_argument("--task", required=True, choices=tuple(_RECIPES))
    finetune.add_argument("--arch", required=True, help=ARCH_HELP)
    finetune.add_argument("--front", type=Path, help="front.json in which to look up --arch")
    finetune.add_argument("--supernet", type=Path, required=True, metavar="supernet.safetensors")
    finetune.add_argument(
        "--data", type=Path, metavar="DIR",
        help="a folder in the format of COCO or Cityscapes; for classification the supernet's own",
    )  # fmt: skip
    finetune.add_argument("--recipe", help=f"name, or path of a .yaml (default: {_RECIPES})")
    finetune.add_argument(
        "--from-scratch", action="store_true", help="random weights in place of the supernet's"
    )
    workers_option(finetune)
    finetune.add_argument("--out", type=Path, required=True, metavar="DIR")
    finetune.set_defaults(call=_finetune)


def _scenes(args: argparse.Namespace) -> None:
    from ramnas_host.config import load_recipe
    from ramnas_host.datasets import load_dataset
    from ramnas_host.progress import bar
    from ramnas_host.scenes import write_scenes
    from ramnas_models.errors import DataError

    counts = {"train": args.train, "val": args.val, "test": args.test}
    for part, count in counts.items():
        if count < 1:
            raise DataError(f"--{part} {count}: at least one scene is needed")
    dataset = load_dataset(args.items, load_recipe(args.items).images, args.data)
    with bar(f"scenes of {args.items}", sum(counts.values())) as update:
        write_scenes(dataset, args.out, counts, args.seed, on_done=update)
    print(f"for detection: {args.out / 'coco'}\nfor segmentation: {args.out / 'cityscapes'}")


def _finetune(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint, distributed, loader, loop, run_folder
    from ramnas_host.config import load_finetuning
    from ramnas_host.finetune_run import FINETUNED, prepare
    from ramnas_host.front import arch_of
    from ramnas_host.progress import bar
    from ramnas_models.errors import DataError
    from ramnas_models.files import make_folder

    recipe = load_finetuning(args.recipe or _RECIPES[args.task])
    if recipe.task != args.task:
        raise DataError(f"the recipe is of task {recipe.task}, not {args.task}")
    supernet = checkpoint.load(args.supernet)
    arch = arch_of(supernet.net.space, args.arch, args.front)
    run = prepare(supernet, arch, recipe, args.data, from_scratch=args.from_scratch)
    out, state = args.out / FINETUNED, args.out / run_folder.STATE
    if out.exists():
        run.check_same(out)
        print(f"fine-tuned before: {out}")
        return
    with distributed.started() as ranks:
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
                    best = "".join(f", {name} {value:.1%}" for name, value in step.scores.items())
                update(
                    step.number,
                    f"{step.images_per_s:.0f} images/s, loss {step.losses[0]:.2f}{best}",
                )

            accuracies = run.train(args.out, ranks, workers, show)
        if ranks.leads:
            for accuracy in accuracies:
                print(f"{accuracy.metric} on {accuracy.split}: {accuracy.value:.2%}")
            print(f"fine-tuned {args.task}: {out}")
