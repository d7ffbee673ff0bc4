"""`ramnas evaluate`: a supernet and archs -> the accuracy of each arch's subnet."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import SPLITS, data_option, supernet_option


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    evaluate = add_verb(
        verbs, "evaluate",
        help="measure the accuracy of networks of a supernet",
        purpose="Measures top-1 and top-5 of networks of a supernet: of the smallest, the largest "
        "and some random ones, or of those in a file.",
        example="ramnas evaluate --supernet runs/train/supernet.safetensors --random 10",
    )  # fmt: skip
    supernet_option(evaluate)
    data_option(evaluate)
    evaluate.add_argument(
        "--split", default="report", choices=SPLITS, help="images to measure on (default: report)"
    )
    which = evaluate.add_mutually_exclusive_group()
    which.add_argument(
        "--random", type=int, default=10, metavar="N",
        help="number of random archs besides the smallest and the largest (default: 10)",
    )  # fmt: skip
    which.add_argument(
        "--archs", type=Path, metavar="FILE",
        help="evaluate these archs instead: a front.json, or a JSON or YAML list of archs",
    )  # fmt: skip
    evaluate.add_argument(
        "--seed", type=int, default=0, help="seed of the random archs (default: 0)"
    )
    evaluate.add_argument(
        "--out", type=Path, metavar="accuracy.json", help="also write every accuracy to this file"
    )
    evaluate.set_defaults(call=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    import msgspec
    import numpy as np

    from ramnas_host.cli.progress import bar
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.evaluate import true_scores
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
