"""Named tensors: their file with text metadata (safetensors), and a digest of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ramnas_models.files import write_file

UnreadableError = safetensors.SafetensorError  # the file is not valid safetensors


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the file, whole or not at all."""
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    write_file(path, safetensors.torch.save(contiguous, metadata))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file; OSError or UnreadableError if it cannot be read."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def digest(subject: bytes, tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits that another `subject`, name, type, shape or value would change."""
    found = hashlib.sha256(subject)
    for key, value in sorted(tensors.items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)}\0".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
