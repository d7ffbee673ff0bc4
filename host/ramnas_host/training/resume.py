"""Saves an unfinished training to a file: weights, their average, momentum, loss scale, next step.

Everything else that a step uses (order of images, crops, archs, augmentation, dropout) comes from
random generators that are seeded with the recipe's seed and the number of the step. So no state of
a generator or of the data has to be saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from ramnas_host.config import Recipe, Schedule
from ramnas_host.training import optimizer, tensors
from ramnas_host.training.average import MovingAverage
from ramnas_models.errors import DataError


@dataclass(frozen=True)
class State:
    """What a step changes: weights and momentum.

    In fp16 it also changes the scale of the loss, and with `ema` the moving average of the weights.
    """

    net: nn.Module
    sgd: torch.optim.SGD
    scaler: torch.amp.GradScaler | None = None
    average: MovingAverage | None = None


def new_state(net: nn.Module, recipe: Schedule) -> State:
    """The state before the first step of training `net`, which is on its device already."""
    device = next(net.parameters()).device.type
    scaler = torch.amp.GradScaler(device) if recipe.precision == "fp16" else None
    average = MovingAverage(net, recipe.ema) if recipe.ema is not None else None
    return State(net, optimizer.sgd(net, recipe), scaler, average)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is: the next step, and the score of the best weights so far."""

    next_step: int = 0
    best: float = 0.0


def identity(subject: str, recipe: Schedule) -> str:
    """A text that must be the same when a training is saved and when it goes on.

    `subject` says which network is trained on which data. All of the recipe counts except for how
    often to save and evaluate, how many broken images to accept, and whether to compile.
    """
    same = msgspec.structs.replace(recipe, save_every=0, evaluate_every=0, max_broken=0)
    if isinstance(same, Recipe):
        same = msgspec.structs.replace(same, compile=False)
    return f"{subject} {msgspec.json.encode(same).decode()}"


def save(path: Path, state: State, progress: TrainingProgress, training: str) -> None:
    """Write the state, whole or not at all. `training` is the `identity` of the training."""
    saved = {f"net.{key}": value for key, value in state.net.state_dict().items()}
    for key, parameter in state.net.named_parameters():
        momentum = state.sgd.state[parameter].get("momentum_buffer")
        if momentum is not None:  # a tensor that no step has used yet has none
            saved[f"momentum.{key}"] = momentum
    if state.average is not None:
        names = (key for key, _ in state.net.named_parameters())
        saved |= {f"ema.{k}": w for k, w in zip(names, state.average.weights, strict=True)}
    metadata = {"next_step": str(progress.next_step), "best": repr(progress.best), "what": training}
    if state.scaler is not None:
        metadata["scaler"] = msgspec.json.encode(state.scaler.state_dict()).decode()
    tensors.write(path, saved, metadata)


def load(path: Path, state: State, training: str) -> TrainingProgress:
    """Restore `state` from a file that `save` wrote, and return how far the training was.

    DataError if the file belongs to a training whose `identity` is not `training`.
    """
    try:
        saved, metadata = tensors.read(path)
        progress = TrainingProgress(int(metadata["next_step"]), float(metadata["best"]))
    except (OSError, KeyError, ValueError, tensors.UnreadableError) as error:
        raise DataError(
            f"{path} is not a saved training of ramnas: {error}; delete it to start over"
        ) from error
    if metadata.get("what") != training:
        raise DataError(
            f"{path} was saved by a training with another space, recipe, data set or version: "
            "delete it to start over, or choose another --out"
        )
    state.net.load_state_dict({k[4:]: v for k, v in saved.items() if k.startswith("net.")})
    for key, parameter in state.net.named_parameters():
        momentum = saved.get(f"momentum.{key}")
        if momentum is not None:
            # a copy in the parameter's memory layout, so that sums are the same to the last bit
            own = torch.empty_like(parameter).copy_(momentum)
            state.sgd.state[parameter]["momentum_buffer"] = own
    if state.average is not None:
        names = (key for key, _ in state.net.named_parameters())
        for key, own in zip(names, state.average.weights, strict=True):
            own.copy_(saved[f"ema.{key}"])
    if state.scaler is not None:
        state.scaler.load_state_dict(msgspec.json.decode(metadata["scaler"]))
    return progress
