"""`ramnas bundle`: a verified front, or fine-tuned networks -> the bundle that a robot runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_host.cli.options import data_option
from ramnas_models.errors import DataError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    bundle = verbs.add_parser(
        "bundle", help="write the bundle of a verified front, or of fine-tuned networks"
    )
    of = bundle.add_mutually_exclusive_group(required=True)
    of.add_argument("--front", type=Path, metavar="verified.json")
    of.add_argument(
        "--finetuned", type=Path, nargs="+", metavar="DIR", help="folders of ramnas finetune"
    )
    bundle.add_argument("--supernet", type=Path, help="of --front")
    data_option(bundle)
    bundle.add_argument("--models", type=int, default=8, help="at most so many")
    bundle.add_argument(
        "--arch", nargs="+", metavar="A0", help="these of --front, by name or id, and no others"
    )
    bundle.add_argument("--plot", type=Path, metavar="pareto.png")
    bundle.add_argument("--out", type=Path, required=True, metavar="DIR")
    bundle.set_defaults(call=_bundle)


def _bundle(args: argparse.Namespace) -> None:
    if args.finetuned:
        _bundle_finetuned(args)
        return
    if not args.supernet:
        raise DataError("--front needs --supernet, whose weights go into the bundle")
    from ramnas_host.data.datasets import dataset_of
    from ramnas_host.report.plots import plot_front
    from ramnas_host.search import front, front_bundle
    from ramnas_host.training import checkpoint

    verified, loaded = front.load(args.front), checkpoint.load(args.supernet)
    chosen = (
        front_bundle.named(verified, args.arch) if args.arch
        else front_bundle.choose(verified, most=args.models)
    )  # fmt: skip
    front_bundle.check_space(loaded, verified)
    calibration = dataset_of(loaded.about, args.data).calibration
    front_bundle.write(args.out, front_bundle.entries(verified, chosen), loaded, calibration)
    print(f"bundle of {len(chosen)} models: {args.out}")
    if args.plot:
        plot_front(verified, [c.arch_id for c in chosen], args.plot)
        print(f"plot: {args.plot}")


def _bundle_finetuned(args: argparse.Namespace) -> None:
    from ramnas_host.search import finetuned_bundle

    written = finetuned_bundle.write(args.out, args.finetuned)
    for front in written.manifest.tasks:
        print(f"{front.task}: {len(front.models)} model(s), fast to slow by MACs")
    print(f"bundle: {args.out}; on the board: ramnas-edge calibrate --bundle {args.out}")
