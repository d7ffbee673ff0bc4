"""A moving average of a network's weights, which is often better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The exponential moving average of the weights of `net`, which starts with them as they are.

    After step n the average keeps the share min(decay, n / (n + 9)) of itself and takes the rest
    from the weights. So the first steps, whose weights are of no use, are soon forgotten, as in
    TensorFlow. `weights` has a tensor for each parameter of the net, in their order.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._parameters, self._decay = list(net.parameters()), decay
        self.weights = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, which counts from 1."""
        decay = min(self._decay, step / (step + 9))
        current: list[Tensor] = [parameter.detach() for parameter in self._parameters]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self.weights, current, step)

    def swap(self) -> None:
        """Exchange the average with the weights of the net. Nothing is copied."""
        for place, parameter in enumerate(self._parameters):
            parameter.data, self.weights[place] = self.weights[place], parameter.data

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this context the net has the average as its weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
