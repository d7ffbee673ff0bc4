"""The published weights of EfficientNet-Lite, of a package or a file -> supernet and its facts."""

from __future__ import annotations

from pathlib import Path

from ramnas_host.data.about import About
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_models import imagenet
from ramnas_models.importers import efficientnet_lite
from ramnas_models.supernet import Supernet


def published_lite(model: str, file: Path | None = None) -> Checkpoint:
    """The supernet whose max net is `model` (lite0, lite1 or lite2), from its package or `file`.

    DataError if the package is not installed, or if the file holds something else.
    """
    space, tensors = efficientnet_lite.read(model, file or efficientnet_lite.installed(model))
    net = Supernet(space)
    net.load_state_dict(tensors)
    net.published_statistics = True
    about = About(
        imagenet.names(), efficientnet_lite.PREPROCESSING, efficientnet_lite.LICENCE,
        efficientnet_lite.source_of(model, file), published_statistics=True,
    )  # fmt: skip
    return Checkpoint(net, about)
