"""`ramnas-edge build`: a bundle in, its engines into the cache, so that no start has to wait."""

from __future__ import annotations

import argparse
import logging
import time
from typing import Iterator

import msgspec

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import BackendError, FileError

log = logging.getLogger(__name__)


class Built(msgspec.Struct, frozen=True):
    """A model whose engine is in the cache and could be opened, and how many seconds it took."""

    name: str
    seconds: float


def add(verbs: Verbs) -> None:
    """Add this verb to the command line."""
    build = add_verb(
        verbs, "build",
        help="build TensorRT's engines of a bundle ahead of time",
        purpose="Builds the engine of every model of a bundle and keeps it in the cache, so that "
        "no later start has to wait for it. With TensorRT that takes some minutes per model.",
        example="ramnas-edge build --bundle DIR --precision fp16",
    )  # fmt: skip
    build.add_argument("--bundle", required=True, metavar="DIR", help="the bundle's folder")
    build.add_argument(
        "--engine", default="tensorrt",
        help="an inference engine that keeps built engines (default: %(default)s)",
    )  # fmt: skip
    build.add_argument(
        "--precision", default="fp32", help="fp32, tf32, fp16 or int8 (default: %(default)s)"
    )
    build.set_defaults(call=_build)


def _build(args: argparse.Namespace) -> None:
    for built in build_engines(args.bundle, engine=args.engine, precision=args.precision):
        print(f"{built.name}: ready after {built.seconds:.1f} s", flush=True)


def build_engines(bundle: str, *, engine: str, precision: str) -> Iterator[Built]:
    """Open every model of `bundle` once, and yield each as soon as its engine is in the cache.

    BackendError if `engine` keeps no built engines or refuses a model, FileError if an engine
    cannot be kept; what was built before stays.
    """
    from ramnas_edge.engines import backends
    from ramnas_edge.vision.pipeline import graph
    from ramnas_models.bundle import open_bundle

    opened = open_bundle(bundle)
    backend = backends.load(engine)
    if not hasattr(backend, "cache"):
        raise BackendError(
            f"engine {engine} keeps no built engines, so there is nothing to build ahead of time; "
            "tensorrt does"
        )
    options = backends.Options(precision=precision)
    models = [model for front in opened.manifest.tasks for model in front.models]
    for number, model in enumerate(models, 1):
        log.info("model %d of %d: %s", number, len(models), model.name)
        start = time.monotonic()
        backend.open(graph(opened, model), options).close()
        if backend.cache.trouble:
            raise FileError(f"the engine was built, but not kept: {backend.cache.trouble}")
        yield Built(model.name, time.monotonic() - start)
