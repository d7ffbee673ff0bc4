"""`ramnas export`: one arch of a supernet -> a bundle with one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import ARCH_HELP, REPORT_NOTE, at_least, device_option
from ramnas_models.errors import DataError


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    export = add_verb(
        verbs, "export",
        help="write one arch of a supernet as a bundle",
        purpose="Writes one arch of a supernet as a bundle with one model, without any search. The "
        "statistics of its BatchNorm layers are computed from your training images, unless they "
        "came with its weights.",
        example="ramnas export --weights supernet.safetensors --arch A3 "
        "--calibration imagenet/train -o bundle",
    )  # fmt: skip
    export.add_argument(
        "--weights", type=Path, required=True, metavar="supernet.safetensors",
        help="the supernet that ramnas train or ramnas import wrote",
    )  # fmt: skip
    export.add_argument("--arch", required=True, help=ARCH_HELP)
    export.add_argument("--front", type=Path, metavar="front.json", help="where to look up --arch")
    export.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="training images, in one folder per class, for the BatchNorm statistics; only a "
        "network that was published with its own, such as lite0, needs none",
    )  # fmt: skip
    export.add_argument(
        "--calibration-images", type=at_least(1), default=4096, metavar="N",
        help="the largest number of these images to use (default: 4096)",
    )  # fmt: skip
    export.add_argument(
        "--test", type=Path, metavar="DIR",
        help="labelled images, in one folder per class, on which top-1 is measured; nothing may "
        "have been chosen by them",
    )  # fmt: skip
    device_option(export)
    export.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the bundle to write"
    )
    export.set_defaults(call=_export)


def _export(args: argparse.Namespace) -> None:
    from ramnas_host.data.labelled_folder import load_folder
    from ramnas_host.search import front_bundle
    from ramnas_host.search.front import arch_of
    from ramnas_host.training import checkpoint, distributed
    from ramnas_host.training.evaluate import keeps_statistics, recalibrated_subnet, score
    from ramnas_models.accuracy import Accuracy, share
    from ramnas_models.bundle import check_out

    check_out(args.out)
    loaded = checkpoint.load(args.weights)
    arch = arch_of(loaded.net.space, args.arch, args.front, loaded.about.source)
    how, classes = loaded.about.preprocessing, loaded.about.classes
    keeps = keeps_statistics(loaded.net, arch)
    if not keeps and not args.calibration:
        raise DataError(
            f"arch {arch.id} has no BatchNorm statistics of its own: give --calibration DIR with "
            "training images"
        )
    calibration = (
        None if keeps else load_folder(args.calibration, classes, how, args.calibration_images)
    )
    test = load_folder(args.test, classes, how, most=10**9) if args.test else None
    if test and (unlabelled := int((test.labels < 0).sum())):
        raise DataError(
            f"{unlabelled} of the images in {args.test} are in no folder of a class, so they have "
            "no label: top-1 cannot be measured on them; move them away"
        )
    with distributed.started(args.device) as ranks:
        if not ranks.leads:
            return  # there is one arch, so there is nothing to share
        net = loaded.net.to(ranks.device)
        if calibration is None:
            subnet = net.extract(arch)
        else:
            subnet = recalibrated_subnet(net, arch, calibration)
        accuracies: tuple[Accuracy, ...] = ()
        if test:
            scores = score(subnet, test)
            accuracies = (share("top1", scores.top1, "report", scores.n),)
            print(f"{accuracies[0]} of {args.test}: {REPORT_NOTE}")
        front_bundle.write(args.out, [front_bundle.Entry(arch, accuracies)], loaded, [subnet])
    statistics = "with the BatchNorm statistics that came with the weights"
    if calibration is not None:
        statistics = f"recalibrated on {len(calibration)} images"
    elif args.calibration:
        statistics += f" and not those of {args.calibration}"
    print(f"bundle of {arch.id}, {statistics}: {args.out}")
    print(f"licence of the weights: {loaded.about.licence}")
