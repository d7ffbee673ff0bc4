"""Tensors with no value left at its start, so that no branch hides in an equality test."""

from __future__ import annotations

import torch


@torch.no_grad()
def randomise(net: torch.nn.Module) -> None:
    """BatchNorm gamma of either sign between 0.5 and 1.5, all other tensors too."""
    generator = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        if key.endswith("bn.weight"):
            sign = torch.where(torch.rand(value.shape, generator=generator) < 0.5, -1.0, 1.0)
            value.copy_(sign * (0.5 + noise))
        elif key.endswith("running_var"):
            value.copy_(0.5 + noise)
        elif value.ndim == 1:
            value.copy_(noise - 0.5)
        else:
            value.copy_((noise - 0.5) * (12 / value[0].numel()) ** 0.5)
