"""`ramnas bundle`: a verified front, or fine-tuned networks -> the bundle that a robot runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import at_least, data_option, device_option
from ramnas_models.errors import DataError


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    bundle = add_verb(
        verbs, "bundle",
        help="write the models of a front, or fine-tuned networks, as a bundle",
        purpose="Writes the bundle that ramnas-edge run serves on a board: several models of a "
        "verified front, or networks that ramnas finetune trained.",
        example="ramnas bundle --front verified.json --supernet supernet.safetensors --out bundle",
    )  # fmt: skip
    source = bundle.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--front", type=Path, metavar="verified.json", help="the front that ramnas verify wrote"
    )
    source.add_argument(
        "--finetuned", type=Path, nargs="+", metavar="DIR",
        help="one or more folders that ramnas finetune wrote, of any tasks, spaces and input sizes",
    )  # fmt: skip
    bundle.add_argument(
        "--supernet", type=Path, metavar="supernet.safetensors",
        help="the supernet whose weights the models of --front get",
    )  # fmt: skip
    data_option(bundle)
    device_option(bundle)
    bundle.add_argument(
        "--models", type=at_least(1), default=8, metavar="N",
        help="the largest number of models taken from --front (default: 8)",
    )  # fmt: skip
    bundle.add_argument(
        "--arch", nargs="+", metavar="A0",
        help="take exactly these candidates of --front, by name or id",
    )  # fmt: skip
    bundle.add_argument(
        "--plot", type=Path, metavar="pareto.png", help="also write a plot of --front"
    )
    bundle.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the bundle to write"
    )
    bundle.set_defaults(call=_bundle)


def _bundle(args: argparse.Namespace) -> None:
    if args.finetuned:
        if args.data:
            raise DataError(
                f"the networks of --finetuned need no images: leave --data {args.data} out"
            )
        _bundle_finetuned(args)
        return
    if not args.supernet:
        raise DataError("--front needs --supernet too, because its weights go into the bundle")
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.report.plots import plot_front
    from ramnas_host.search import front, front_bundle
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.evaluate import recalibrated_subnets
    from ramnas_models.bundle import check_out

    check_out(args.out)
    verified, loaded = front.load(args.front), checkpoint.load(args.supernet)
    chosen = (
        front_bundle.pick(verified, args.arch) if args.arch
        else front_bundle.choose(verified, most=args.models)
    )  # fmt: skip
    front_bundle.check_space(loaded, verified)
    entries = front_bundle.entries(verified, chosen)
    calibration = dataset_of(loaded.about, args.data).calibration
    with distributed.started(args.device) as ranks:
        net = loaded.net.to(ranks.device)
        archs = [entry.arch for entry in entries]
        subnets = recalibrated_subnets(net, archs, calibration, ranks=ranks)
        if not ranks.leads:
            return
        front_bundle.write(args.out, entries, loaded, subnets)
    print(f"bundle of {len(chosen)} models: {args.out}")
    if args.plot:
        plot_front(verified, [c.arch_id for c in chosen], args.plot)
        print(f"plot: {args.plot}")


def _bundle_finetuned(args: argparse.Namespace) -> None:
    from ramnas_host.search import finetuned_bundle

    written = finetuned_bundle.write(args.out, args.finetuned)
    for front in written.manifest.tasks:
        print(f"{front.task}: {len(front.models)} model(s), from few MACs to many")
    print(f"bundle: {args.out}; measure it on the board: ramnas-edge calibrate --bundle {args.out}")
