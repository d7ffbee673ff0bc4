"""`ramnas evaluate`: a supernet and archs -> the accuracy of each arch's subnet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import (
    REPORT_NOTE,
    SPLITS,
    at_least,
    data_option,
    device_option,
    supernet_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_host.training.truth import Truth
    from ramnas_models.space import Arch


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
    device_option(evaluate)
    evaluate.add_argument(
        "--split", default="report", choices=SPLITS,
        help="images to measure on: report for figures that are published, selection to choose by "
        "(default: report)",
    )  # fmt: skip
    which = evaluate.add_mutually_exclusive_group()
    which.add_argument(
        "--random", type=at_least(0), default=10, metavar="N",
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
        "--out", type=Path, metavar="accuracy.json", help="also write every accuracy to this file; "
        "accuracy.accuracies.jsonl beside it keeps each as soon as it is known, so that the same "
        "command goes on after a stop; delete it to evaluate again",
    )  # fmt: skip
    evaluate.set_defaults(call=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    import numpy as np

    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.truth import Truth, beside
    from ramnas_models.named import read_archs

    loaded, rng = checkpoint.load(args.supernet), np.random.default_rng(args.seed)
    net = loaded.net
    archs = read_archs(net.space, args.archs) if args.archs else [
        net.space.min(), net.space.max(), *(net.space.sample(rng) for _ in range(args.random))
    ]  # fmt: skip
    dataset = dataset_of(loaded.about, args.data)
    with distributed.started(args.device) as ranks:
        truth = Truth(net, dataset, ranks=ranks, path=beside(args.out) if args.out else None)
        truth.lead(lambda: _report(args, truth, archs, [net.plan(arch).macs for arch in archs]))


def _report(
    args: argparse.Namespace, truth: Truth, archs: Sequence[Arch], macs: Sequence[int]
) -> None:
    """Evaluate, print what came of it, and write it to --out."""
    import msgspec

    from ramnas_host.cli.progress import bar
    from ramnas_models.accuracy import Accuracy, share
    from ramnas_models.files import write_file

    with bar(f"evaluate on {args.split}", len(archs)) as update:
        scores = truth(archs, args.split, update)
    n = scores[0].n

    def mean(values: Sequence[float], metric: str = "top1") -> Accuracy:
        """The interval is as for one arch, because all archs are judged on the same images."""
        return share(metric, sum(values) / len(values), args.split, n)

    top1 = [s.top1 for s in scores]
    named = {"mean of all": mean(top1)}
    if args.split != "report":  # the best one on that split would be a choice by it
        named["best"] = mean([max(top1)])
    if not args.archs:
        named = {"min": mean(top1[:1]), "max": mean(top1[1:2])}
        if args.random:
            named[f"mean of {args.random} random"] = mean(top1[2:])
    for name, accuracy in named.items():
        print(f"{name}: {accuracy}")
    print(f"mean of all: {mean([s.top5 for s in scores], 'top5')}")
    if args.split == "report":
        print(f"the report split is for figures that are published: {REPORT_NOTE}")
    if args.out:
        result: dict[str, object] = {
            "split": args.split,
            "n": n,
            "accuracies": named,
            "archs": [
                {
                    "arch_id": arch.id, "macs": cost, "top1": one.top1, "top5": one.top5,
                    "n": one.n, "interval": share("top1", one.top1, args.split, one.n).interval,
                }
                for arch, cost, one in zip(archs, macs, scores, strict=True)
            ],
        }  # fmt: skip
        if not args.archs:
            result |= {"min": top1[0], "max": top1[1], "random": top1[2:]}
        write_file(args.out, msgspec.json.format(msgspec.json.encode(result)))
        print(f"accuracies: {args.out}")
