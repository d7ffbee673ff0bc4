"""The verbs that make a supernet and say how good it is: train, evaluate, data, import."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_models.errors import DataError

ARCH_HELP = "A0 .. A6, min, max, an id or a name of --front, or a .yaml"
_SPLITS = ("train", "calibration", "validation", "test")


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
    train = verbs.add_parser(
        "train", help="train a supernet, alone or as many processes under torchrun"
    )
    train.add_argument("--space", default="micro", help="name, or path of a .yaml")
    train.add_argument("--recipe", default="digits", help="name, or path of a .yaml")
    data_option(train)
    workers_option(train)
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.set_defaults(call=_train)

    evaluate = verbs.add_parser(
        "evaluate", help="top-1 and top-5 of min, max and random subnets, or of a list"
    )
    evaluate.add_argument("--supernet", type=Path, required=True)
    data_option(evaluate)
    evaluate.add_argument("--split", default="test", choices=_SPLITS)
    which = evaluate.add_mutually_exclusive_group()
    which.add_argument("--random", type=int, default=10, metavar="N")
    which.add_argument(
        "--archs", type=Path, metavar="FILE", help="a front.json, or a JSON or YAML list of archs"
    )
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", type=Path, metavar="accuracy.json")
    evaluate.set_defaults(call=_evaluate)

    data = verbs.add_parser("data", help="write a split of a data set as an image folder")
    data.add_argument("--recipe", default="digits", help="the recipe that names the data set")
    data_option(data)
    data.add_argument("--split", default="test", choices=_SPLITS)
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.set_defaults(call=_data)

    importer = verbs.add_parser("import", help="a public checkpoint -> a supernet of ours")
    importer.add_argument("kind", choices=("attentivenas",), help="AttentiveNAS or AlphaNet")
    importer.add_argument("checkpoint", type=Path)
    importer.add_argument("--classes", type=Path, metavar="names.txt", help="one name a line")
    importer.add_argument("-o", "--out", type=Path, required=True, metavar="supernet.safetensors")
    importer.set_defaults(call=_import)


def data_option(verb: argparse.ArgumentParser) -> None:
    """`--data`, for every verb that looks at images."""
    verb.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of the data set: train/ and val/ for imagenet, the IDX files for fashion",
    )  # fmt: skip


def workers_option(verb: argparse.ArgumentParser) -> None:
    """`--workers`, for every verb that trains."""
    verb.add_argument(
        "--workers", type=int, metavar="N",
        help="processes that decode images, for each process of the run "
        "(default: one a processor for image folders, none for images in memory)",
    )  # fmt: skip


def _train(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint, distributed, loader, loop, run_folder, train
    from ramnas_host.config import load_recipe
    from ramnas_host.datasets import load_dataset
    from ramnas_host.progress import bar
    from ramnas_models.files import make_folder
    from ramnas_models.space import load_space

    recipe, space = load_recipe(args.recipe), load_space(args.space)
    dataset = load_dataset(recipe.dataset, recipe.images, args.data)
    steps = recipe.epochs * loader.steps_per_epoch(dataset.train, recipe)
    out, state = args.out / train.LAST, args.out / run_folder.STATE
    if out.exists():
        found, about = checkpoint.load(out), checkpoint.describe(dataset, recipe)
        if (found.net.space.hash, found.about) != (space.hash, about):
            raise DataError(f"{out} is of another training; write elsewhere, or remove it")
        print(f"trained before: {out}")
        return
    with distributed.started() as ranks:
        make_folder(args.out)  # before the work, not after it
        if ranks.leads and state.exists():
            print(f"going on from {state}", flush=True)
        workers = args.workers
        if workers is None:
            workers = loader.default_workers(dataset.train, ranks.local_world)
        title = f"train {space.name} on {dataset.name}"
        with bar(title, steps, shown=ranks.leads) as update:
            best = ""

            def show(step: loop.Step) -> None:
                nonlocal best
                if step.scores:
                    low, high = (step.scores[f"top1_{end}"] for end in ("min", "max"))
                    best = f", top-1 min {low:.1%} max {high:.1%}"
                losses = " ".join(f"{loss:.2f}" for loss in step.losses)
                update(step.number, f"{step.images_per_s:.0f} images/s, losses {losses}{best}")

            train.train(
                space, dataset, recipe, folder=args.out, ranks=ranks, workers=workers, on_step=show
            )
        if ranks.leads:
            print(f"supernet: {out}\nbest: {args.out / run_folder.BEST}")


def _evaluate(args: argparse.Namespace) -> None:
    import msgspec
    import numpy as np

    from ramnas_host import checkpoint, distributed
    from ramnas_host.datasets import dataset_of
    from ramnas_host.evaluate import true_scores
    from ramnas_host.progress import bar
    from ramnas_models.files import write_file
    from ramnas_models.named import read_archs

    loaded = checkpoint.load(args.supernet)
    space, rng = loaded.net.space, np.random.default_rng(args.seed)
    ends = [space.min(), space.max()]
    archs = read_archs(space, args.archs) if args.archs else [
        *ends, *(space.sample(rng) for _ in range(args.random))
    ]  # fmt: skip
    dataset = dataset_of(loaded.about, args.data)
    with distributed.started() as ranks:
        loaded.net.to(ranks.device)
        with bar(f"evaluate on {args.split}", len(archs), shown=ranks.leads) as update:
            scores = true_scores(
                loaded.net, archs, dataset, args.split, ranks=ranks, on_done=update
            )
        if not ranks.leads:
            return
    top1 = [s.top1 for s in scores]
    mean1, mean5 = (sum(v) / len(v) for v in (top1, [s.top5 for s in scores]))
    result = {
        "split": args.split,
        "archs": [
            {"arch_id": a.id, "macs": loaded.net.plan(a).macs, **msgspec.to_builtins(s)}
            for a, s in zip(archs, scores, strict=True)
        ],
    }
    if args.archs:
        print(f"top-1 on {args.split}: {len(archs)} archs, mean {mean1:.2%}, best {max(top1):.2%}")
    else:
        result |= {"min": top1[0], "max": top1[1], "random": top1[2:]}
        print(
            f"top-1 on {args.split}: min {top1[0]:.2%}, max {top1[1]:.2%}, "
            f"mean of {args.random} random {sum(top1[2:]) / max(1, args.random):.2%}"
        )
    print(f"top-5 on {args.split}: mean of all {mean5:.2%}")
    if args.out:
        write_file(args.out, msgspec.json.format(msgspec.json.encode(result)))
        print(f"accuracies: {args.out}")


def _data(args: argparse.Namespace) -> None:
    from ramnas_host.config import load_recipe
    from ramnas_host.data import write_image_folder
    from ramnas_host.datasets import load_dataset

    recipe = load_recipe(args.recipe)
    dataset = load_dataset(recipe.dataset, recipe.images, args.data)
    count = write_image_folder(dataset, args.split, args.out)
    print(f"{count} images: {args.out}")


def _import(args: argparse.Namespace) -> None:
    from ramnas_host import checkpoint
    from ramnas_models.bundle import Preprocessing
    from ramnas_models.importers import attentivenas
    from ramnas_models.onnx_graph import Normalisation
    from ramnas_models.space import load_space
    from ramnas_models.supernet import Supernet

    tensors, dropped = attentivenas.to_supernet(attentivenas.read_checkpoint(args.checkpoint))
    net = Supernet(load_space("attentivenas"))
    net.load_state_dict(tensors)
    classes = tuple(str(i) for i in range(net.num_classes))
    if args.classes:
        try:
            classes = tuple(args.classes.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {args.classes}: {error}") from error
        if len(classes) != net.num_classes:
            raise DataError(f"{args.classes} has {len(classes)} names, not {net.num_classes}")
    # as the public code evaluates: a 224 crop, which the net itself takes to its resolution
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    about = checkpoint.About(classes, how, attentivenas.LICENCE, attentivenas.SOURCE)
    checkpoint.save(args.out, net, about)
    print(f"{len(tensors)} tensors imported, {len(dropped)} dropped")
    for name in dropped:
        print(f"  dropped {name}")
    print(f"licence of the weights: {attentivenas.LICENCE} ({attentivenas.SOURCE})")
    print(f"supernet: {args.out}")
