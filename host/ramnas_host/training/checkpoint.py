"""Saves a supernet as a safetensors file whose metadata has everything that is needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ramnas_host.data.about import About
from ramnas_host.training import tensors
from ramnas_models.errors import DataError
from ramnas_models.space import read_space
from ramnas_models.supernet import Supernet


@dataclass(frozen=True)
class Checkpoint:
    """A supernet and the facts about its weights."""

    net: Supernet
    about: About


def save(path: Path, net: Supernet, about: About) -> None:
    """Write the supernet to `path`, whole or not at all."""
    metadata = {
        "space": msgspec.json.encode(net.space).decode(),
        "about": msgspec.json.encode(about).decode(),
        "licence": about.licence,  # other readers of safetensors look for these two
        "source": about.source,
    }
    tensors.write(path, {key: value.cpu() for key, value in net.state_dict().items()}, metadata)


def load(path: Path) -> Checkpoint:
    """Read a supernet that `save` wrote; DataError if the file is not one."""
    try:
        weights, metadata = tensors.read(path)
        space = read_space(msgspec.json.decode(metadata["space"]), f"{path} (space)")
        about = msgspec.json.decode(metadata["about"], type=About)
        net = Supernet(space, len(about.classes))
        net.load_state_dict(weights)
        net.published_statistics = about.published_statistics
    except (
        OSError, KeyError, RuntimeError, tensors.UnreadableError, msgspec.DecodeError,
    ) as error:  # fmt: skip
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path} is not a supernet of ramnas: {reason}; give a file that ramnas import or "
            "ramnas train wrote"
        ) from error
    return Checkpoint(net, about)
