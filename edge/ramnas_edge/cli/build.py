"""`ramnas-edge build`: a bundle -> its engines in the cache, so that no start has to wait."""

from __future__ import annotations

import argparse
import logging
import time
from typing import Iterator

import msgspec

from ramnas_models.errors import BackendError

log = logging.getLogger(__name__)


class Built(msgspec.Struct, frozen=True):
    """A model whose engine is in the cache and has been opened; seconds that it took."""

    arch_id: str
    seconds: float


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("build", help="build every engine of a bundle ahead, and end")
    verb.add_argument("--bundle", required=True, metavar="DIR")
    verb.add_argument("--engine", default="tensorrt")
    verb.add_argument("--precision", default="fp32", help="fp32, tf32, fp16 or int8")
    verb.set_defaults(call=_build)


def _build(args: argparse.Namespace) -> None:
    for built in build(args.bundle, engine=args.engine, precision=args.precision):
        print(f"{built.arch_id}: ready after {built.seconds:.1f} s", flush=True)


def build(bundle: str, *, engine: str, precision: str) -> Iterator[Built]:
    """Open every model of `bundle` once, one after the other; each is told as soon as it is ready.

    BackendError if `engine` keeps no engines or refuses a model; what was built before stays.
    """
    from ramnas_edge.engines import backends
    from ramnas_edge.vision.pipeline import graph
    from ramnas_models.bundle import open_bundle

    opened = open_bundle(bundle)
    backend = backends.load(engine)
    if not hasattr(backend, "cache"):
        raise BackendError(
            f"engine {engine} keeps nothing that could be built ahead; tensorrt does"
        )
    options = backends.Options(precision=precision)
    models = [model for front in opened.manifest.tasks for model in front.models]
    for number, model in enumerate(models, 1):
        log.info("model %d of %d: %s", number, len(models), model.arch_id)
        start = time.monotonic()
        backend.open(graph(opened, model), options).close()
        yield Built(model.arch_id, time.monotonic() - start)
