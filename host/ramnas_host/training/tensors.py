"""Named tensors, and words about them, as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ramnas_models.files import write_file

UnreadableError = safetensors.SafetensorError  # besides OSError


def write(path: Path, tensors: Mapping[str, Tensor], words: dict[str, str]) -> None:
    """Whole or not at all."""
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    write_file(path, safetensors.torch.save(contiguous, words))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words; OSError or UnreadableError."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}
