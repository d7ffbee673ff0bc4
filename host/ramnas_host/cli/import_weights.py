"""`ramnas import`: a public checkpoint -> a supernet."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import DataError


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    importer = add_verb(
        verbs, "import",
        help="turn a public checkpoint into a supernet",
        purpose="Turns a public checkpoint into a supernet that the other verbs take, so that you "
        "need not train one. The licence of the weights goes with it.",
        example="ramnas import alphanet alphanet_pretrained.pth.tar -o supernet.safetensors",
    )  # fmt: skip
    importer.add_argument(
        "kind", choices=("attentivenas", "alphanet"),
        help="whose checkpoint it is; the files have the same form, but the networks that were "
        "published with them differ (A5, A5_1)",
    )  # fmt: skip
    importer.add_argument("checkpoint", type=Path, help="the downloaded .pth.tar")
    importer.add_argument(
        "--classes", type=Path, metavar="names.txt",
        help="names of the classes, one per line (default: their numbers)",
    )  # fmt: skip
    importer.add_argument(
        "-o", "--out", type=Path, required=True, metavar="supernet.safetensors",
        help="the supernet to write",
    )  # fmt: skip
    importer.add_argument(
        "-v", "--verbose", action="store_true", help="also list the tensors that are left out"
    )
    importer.set_defaults(call=_import)


def _import(args: argparse.Namespace) -> None:
    from ramnas_host.data.about import About
    from ramnas_host.training import checkpoint
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
            raise DataError(
                f"{args.classes} has {len(classes)} names, but the checkpoint has "
                f"{net.num_classes} classes"
            )
    source = attentivenas.SOURCES[args.kind]
    # as the public code evaluates: a crop of 224, which the net itself resizes to its resolution
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    about = About(classes, how, attentivenas.LICENCE, source)
    checkpoint.save(args.out, net, about)
    listed = "" if args.verbose or not dropped else " (-v lists them)"
    print(f"{len(tensors)} tensors imported, {len(dropped)} that no network uses left out{listed}")
    for name in dropped if args.verbose else []:
        print(f"  left out {name}")
    print(f"licence of the weights: {attentivenas.LICENCE} ({source})")
    print(f"supernet: {args.out}")
