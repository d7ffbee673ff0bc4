"""`ramnas import`: a public checkpoint -> a supernet of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_models.errors import DataError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this verb to the command line."""
    importer = verbs.add_parser("import", help="a public checkpoint -> a supernet of ours")
    importer.add_argument("kind", choices=("attentivenas",), help="AttentiveNAS or AlphaNet")
    importer.add_argument("checkpoint", type=Path)
    importer.add_argument("--classes", type=Path, metavar="names.txt", help="one name a line")
    importer.add_argument("-o", "--out", type=Path, required=True, metavar="supernet.safetensors")
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
            raise DataError(f"{args.classes} has {len(classes)} names, not {net.num_classes}")
    # as the public code evaluates: a 224 crop, which the net itself takes to its resolution
    how = Preprocessing(Normalisation(), "bicubic", resize_short=256, crop=224)
    about = About(classes, how, attentivenas.LICENCE, attentivenas.SOURCE)
    checkpoint.save(args.out, net, about)
    print(f"{len(tensors)} tensors imported, {len(dropped)} dropped")
    for name in dropped:
        print(f"  dropped {name}")
    print(f"licence of the weights: {attentivenas.LICENCE} ({attentivenas.SOURCE})")
    print(f"supernet: {args.out}")
