"""The verbs that write what a robot runs: bundle, export."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_host.verbs_train import ARCH_HELP, data_option
from ramnas_models.errors import DataError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
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

    export = verbs.add_parser("export", help="a ready bundle of one arch of a supernet")
    export.add_argument("--weights", type=Path, required=True, metavar="supernet.safetensors")
    export.add_argument("--arch", required=True, help=ARCH_HELP)
    export.add_argument("--front", type=Path, help="front.json in which to look up --arch")
    export.add_argument(
        "--calibration", type=Path, required=True, metavar="DIR", help="training images"
    )
    export.add_argument("--calibration-images", type=int, default=4096, metavar="N")
    export.add_argument("--test", type=Path, metavar="DIR", help="labelled images, for top-1")
    export.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(call=_export)


def _bundle(args: argparse.Namespace) -> None:
    if args.finetuned:
        _bundle_finetuned(args)
        return
    if not args.supernet:
        raise DataError("--front needs --supernet, whose weights go into the bundle")
    from ramnas_host import bundling, checkpoint, front
    from ramnas_host.datasets import dataset_of
    from ramnas_host.plots import plot_front

    verified, loaded = front.load(args.front), checkpoint.load(args.supernet)
    chosen = (
        bundling.named(verified, args.arch) if args.arch
        else bundling.choose(verified, most=args.models)
    )  # fmt: skip
    bundling.check_space(loaded, verified)
    calibration = dataset_of(loaded.about, args.data).calibration
    bundling.write(args.out, bundling.entries(verified, chosen), loaded, calibration)
    print(f"bundle of {len(chosen)} models: {args.out}")
    if args.plot:
        plot_front(verified, [c.arch_id for c in chosen], args.plot)
        print(f"plot: {args.plot}")


def _bundle_finetuned(args: argparse.Namespace) -> None:
    from ramnas_host import task_bundle

    written = task_bundle.write(args.out, args.finetuned)
    for front in written.manifest.tasks:
        print(f"{front.task}: {len(front.models)} model(s), fast to slow by MACs")
    print(f"bundle: {args.out}; on the board: ramnas-edge calibrate --bundle {args.out}")


def _export(args: argparse.Namespace) -> None:
    from ramnas_host import bundling, checkpoint
    from ramnas_host.data import load_folder
    from ramnas_host.evaluate import calibrated, score
    from ramnas_host.front import arch_of
    from ramnas_models.bundle import Accuracy

    loaded = checkpoint.load(args.weights)
    arch = arch_of(loaded.net.space, args.arch, args.front)
    how, classes = loaded.about.preprocessing, loaded.about.classes
    calibration = load_folder(args.calibration, classes, how, args.calibration_images)
    accuracy = None
    if args.test:
        test = load_folder(args.test, classes, how, most=10**9)
        value = score(calibrated(loaded.net, arch, calibration), test).top1
        accuracy = Accuracy("top1", value, "test")
        print(f"top-1 on {len(test)} images of {args.test}: {value:.2%}")
    bundling.write(args.out, [bundling.Entry(arch, accuracy)], loaded, calibration)
    print(f"bundle of {arch.id}, recalibrated on {len(calibration)} images: {args.out}")
    print(f"licence of the weights: {loaded.about.licence}")
