"""How precisely, and with which kernels, training computes on a GPU of NVIDIA."""

from __future__ import annotations

import torch


def set_up(device: torch.device, precision: str) -> None:
    """Set PyTorch up for a training on `device`; it changes nothing on a CPU.

    cuDNN times its kernels for each new shape and keeps the fastest. TF32 rounds float32 to 10 bits
    of mantissa. PyTorch allows it for convolutions unless told otherwise, so it is set here for
    convolutions and products alike: on for the precision `tf32`, off for every other one.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
