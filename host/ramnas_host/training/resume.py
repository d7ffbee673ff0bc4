"""A training stopped half-way, as a file: weights, momentum, loss scale and the step that is next.

Everything else that a step uses (order of images, crops, archs, augmentation, dropout) is drawn
from generators seeded anew with the seed and the number of the step, so there is no state of a
generator, of the arch sampler or of the data to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from ramnas_host.config import Recipe, Schedule
from ramnas_host.training import tensors
from ramnas_models.errors import DataError


@dataclass(frozen=True)
class State:
    """What a step changes. `scaler` is there in fp16."""

    net: nn.Module
    sgd: torch.optim.SGD
    scaler: torch.amp.GradScaler | None = None


@dataclass(frozen=True)
class Place:
    """How far a training is: the next step, and how good the best weights so far are."""

    next_step: int = 0
    best: float = 0.0


def identity(what: str, recipe: Schedule) -> str:
    """What must be the same for a training to go on: `what` it trains on what, and its recipe.

    How often it saves or looks may change.
    """
    same = msgspec.structs.replace(recipe, save_every=0, evaluate_every=0, max_broken=0)
    if isinstance(same, Recipe):
        same = msgspec.structs.replace(same, compile=False)
    return f"{what} {msgspec.json.encode(same).decode()}"


def save(path: Path, state: State, place: Place, what: str) -> None:
    """Write the state, whole or not at all; `what` is the `identity` of the training."""
    kept = {f"net.{key}": value for key, value in state.net.state_dict().items()}
    for key, parameter in state.net.named_parameters():
        momentum = state.sgd.state[parameter].get("momentum_buffer")
        if momentum is not None:  # none yet for a tensor that no step has used
            kept[f"momentum.{key}"] = momentum
    metadata = {"next_step": str(place.next_step), "best": repr(place.best), "what": what}
    if state.scaler is not None:
        metadata["scaler"] = msgspec.json.encode(state.scaler.state_dict()).decode()
    tensors.write(path, kept, metadata)


def load(path: Path, state: State, what: str) -> Place:
    """Put the state back; where it stood. DataError if the file is of another training."""
    try:
        kept, metadata = tensors.read(path)
        place = Place(int(metadata["next_step"]), float(metadata["best"]))
    except (OSError, KeyError, ValueError, tensors.UnreadableError) as error:
        raise DataError(f"{path} is no training of ramnas: {error}; delete it") from error
    if metadata.get("what") != what:
        raise DataError(
            f"{path} is of a training with another space, recipe, data or version; "
            "delete it to start over, or write elsewhere"
        )
    state.net.load_state_dict({k[4:]: v for k, v in kept.items() if k.startswith("net.")})
    for key, parameter in state.net.named_parameters():
        momentum = kept.get(f"momentum.{key}")
        if momentum is not None:
            # in the layout of its parameter, so that the sums come out the same to the last bit
            own = torch.empty_like(parameter).copy_(momentum)
            state.sgd.state[parameter]["momentum_buffer"] = own
    if state.scaler is not None:
        state.scaler.load_state_dict(msgspec.json.decode(metadata["scaler"]))
    return place
