"""Makes a supernet for a training that starts with the weights of another one."""

from __future__ import annotations

import logging
from dataclasses import fields

import msgspec
import torch

from ramnas_host.data.about import About, weights_and_data
from ramnas_host.training import tensors
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_models.errors import DataError
from ramnas_models.plan import Conv, part_of, plan
from ramnas_models.space import Space
from ramnas_models.supernet import Supernet

log = logging.getLogger(__name__)

_CLASSIFIER = "classifier."


def digest(init: Checkpoint) -> str:
    """A short text that other weights, classes or another preprocessing would change."""
    subject = msgspec.json.encode((init.about.classes, init.about.preprocessing))
    return tensors.digest(subject, init.net.state_dict())[:16]


def continued(about: About, init: Checkpoint) -> About:
    """`about`, which describes a training from random weights, for one that starts with `init`."""
    return msgspec.structs.replace(
        about, licence=weights_and_data(init.about.licence, about.licence),
        source=weights_and_data(init.about.source, about.source), init=digest(init),
    )  # fmt: skip


def supernet(space: Space, classes: tuple[str, ...], init: Checkpoint | None) -> Supernet:
    """A supernet of `space`, with the tensors of `init` or, if it is None, with random ones.

    The classifier of `init` is taken only if it is for the same `classes`. Random tensors come from
    torch's global generator. DataError if a tensor has another shape in `space`.
    """
    net = Supernet(space, len(classes))
    if init is not None:
        check_space(space, init)
        taken = init.net.state_dict()
        if classes != init.about.classes:
            taken = {k: tensor for k, tensor in taken.items() if not k.startswith(_CLASSIFIER)}
        net.load_state_dict(taken, strict=False)
    return net


def check_space(space: Space, init: Checkpoint) -> None:
    """DataError if the tensors of `space`, but for the classifier's, are not shaped as in `init`.

    Resolutions, and which smaller networks there are, may be others.
    """
    with torch.device("meta"):  # only shapes, no memory
        own = _shapes(Supernet(space, 1))
    theirs = _shapes(init.net)
    for key in [*theirs, *(key for key in own if key not in theirs)]:
        if own.get(key) != theirs.get(key):
            raise DataError(
                f"space {space.name} cannot take these weights: its tensor {key} is "
                f"{_shape(own.get(key))}, and that of the weights (space {init.net.space.name}) is "
                f"{_shape(theirs.get(key))}. Its max net must have the layers of theirs"
            )


def warn_of_other_layers(space: Space, init: Checkpoint) -> None:
    """Log it if the max net of `space` computes something else with the same tensors.

    Another activation, for example, has no tensors that would tell. `check_space` has passed.
    """
    theirs = _layers(init.net.space)
    for key, layer in _layers(space).items():
        before = theirs.get(key, layer)
        for field in fields(layer):
            now, then = (getattr(which, field.name) for which in (layer, before))
            if now != then and field.name != "in_hw":
                log.warning(
                    "space %s has %s %s in layer %s, where the weights were trained with %s: they "
                    "will not compute what they did", space.name, field.name, now, key, then,
                )  # fmt: skip
                return


def _shapes(net: Supernet) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors but for the classifier's."""
    tensors = net.state_dict().items()
    return {key: tuple(t.shape) for key, t in tensors if not key.startswith(_CLASSIFIER)}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape))


def _layers(space: Space) -> dict[str, Conv]:
    """The convolutions of the max net."""
    layers = plan(space, space.max()).layers()
    return {layer.key: layer for layer in layers if isinstance(layer, Conv)}


def frozen(space: Space, part: str) -> list[str]:
    """`part` and the parts before it, from the stem on; DataError if there is no such part."""
    parts = ["stem", *(f"stage{number}" for number in range(1, len(space.stages) + 1))]
    if part not in parts:
        raise DataError(
            f"cannot freeze '{part}': the parts of space {space.name} are {', '.join(parts)}"
        )
    return parts[: parts.index(part) + 1]


def freeze(net: Supernet, part: str) -> None:
    """Make the parameters from the stem up to `part` constants: no graph is kept for them.

    BatchNorm still normalises by the batch there, because the networks of a supernet share no
    statistics.
    """
    parts = frozen(net.space, part)
    for key, parameter in net.named_parameters():
        if part_of(key) in parts:
            parameter.requires_grad_(False)
