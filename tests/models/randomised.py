"""Random values for every tensor, so that an equality test would notice a branch left out.

Fresh networks have zeros: their residual branches add nothing.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def randomise(net: torch.nn.Module) -> None:
    """Give every tensor of `net` random values of a sane size.

    BatchNorm's gammas have either sign and a magnitude of 0.5 to 1.5, so none is near 0.
    """
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
