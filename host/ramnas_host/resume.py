"""A training stopped half-way, as a file: weights, momentum and the step that comes next.

Everything else that a step uses (order of images, archs, augmentation) is drawn from the seed and
the number of the step, so there is no other state to keep.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ramnas_models.errors import DataError
from ramnas_models.files import write_file


def save(path: Path, net: nn.Module, optimizer: torch.optim.SGD, next_step: int, what: str) -> None:
    """Write the state, whole or not at all; `what` says which training it is of."""
    tensors = {f"net.{key}": value.contiguous() for key, value in net.state_dict().items()}
    for key, parameter in net.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:  # none yet for a tensor that no step has used
            tensors[f"momentum.{key}"] = momentum.contiguous()
    metadata = {"next_step": str(next_step), "what": what}
    write_file(path, safetensors.torch.save(tensors, metadata))


def load(path: Path, net: nn.Module, optimizer: torch.optim.SGD, what: str) -> int:
    """Put the state back; the next step. DataError if the file is of another training."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        next_step = int(metadata["next_step"])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DataError(f"{path} is no training of ramnas: {error}; delete it") from error
    if metadata.get("what") != what:
        raise DataError(
            f"{path} is of a training with another space, recipe or version; "
            "delete it to start over, or write elsewhere"
        )
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    for key, parameter in net.named_parameters():
        momentum = tensors.get(f"momentum.{key}")
        if momentum is not None:
            # in the layout of its parameter, so that the sums come out the same to the last bit
            kept = torch.empty_like(parameter).copy_(momentum)
            optimizer.state[parameter]["momentum_buffer"] = kept
    return next_step
