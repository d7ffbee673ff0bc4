"""What a convolution gives for some images -> the statistics that its BatchNorm gets (torch).

`Standalone.recalibrate` gives every BatchNorm one of these classes for as long as it runs. Each
takes in what the convolution gives for a group of images, and answers with the mean and the
variance, [c] each, by which that group is to be normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_LEAST = 1e-12  # instead of the variance of a channel that is dead


class Estimate(NamedTuple):
    """Mean and variance by channel, [c]; the variance is divided by n, not n - 1.

    It is what BatchNorm divides by in training, and it exists for a single pixel.
    """

    mean: Tensor
    variance: Tensor


class Observer(Protocol):
    """Watches the input of one BatchNorm."""

    def add(self, x: Tensor) -> Estimate:
        """Take in `x` [n, c, h, w], and return the estimate by which to normalise it."""


class Pooled:
    """Mean and variance over all pixels seen so far, each counted once, in float64.

    A group is normalised by its own statistics.
    """

    def __init__(self) -> None:
        self._count = 0
        self.estimate = Estimate(torch.zeros(()), torch.zeros(()))

    def add(self, x: Tensor) -> Estimate:
        pixels = x.shape[2] * x.shape[3]
        images = parts(x)
        found = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in images]
        own = _pooled(
            torch.tensor([len(part) for part in images], device=x.device),
            torch.stack([mean for mean, _ in found]).double(),
            torch.stack([variance for _, variance in found]).double(),
        )
        if self._count:
            counts = torch.tensor([self._count, len(x) * pixels], device=x.device)
            both = zip(self.estimate, own, strict=True)
            self.estimate = _pooled(counts, *(torch.stack(pair) for pair in both))
        else:
            self.estimate = own
        self._count += len(x) * pixels
        return Estimate(own.mean.to(x.dtype), own.variance.to(x.dtype))


class PerImage(NamedTuple):
    """Mean and variance over the pixels of each image by channel, [n, c]."""

    means: Tensor
    variances: Tensor

    def pooled(self) -> Estimate:
        """Those over all images, in float64."""
        means = self.means.double()
        mean = means.mean(0)
        return Estimate(mean, (self.variances.double() + (means - mean).square()).mean(0))


class Reference(NamedTuple):
    """One BatchNorm of the max net: its known statistics, and what some images give there."""

    known: Estimate
    images: PerImage
    eps: float  # what BatchNorm adds to a variance


class Known:
    """Leaves the known statistics of a BatchNorm as they are, and notes what the images give."""

    def __init__(self, known: Estimate, eps: float) -> None:
        self._known, self._eps = known, eps
        self._images: list[PerImage] = []

    def add(self, x: Tensor) -> Estimate:
        self._images.append(_per_image(x))
        return self._known

    @property
    def reference(self) -> Reference:
        return Reference(self._known, _joined(self._images), self._eps)


class Controlled:
    """Statistics of a subnet's BatchNorm, with those of the max net as control variate.

    The statistics of a few hundred images miss the true ones, and so do those of other crops than
    the weights were trained with. The max net misses its known statistics by nearly as much on the
    same images, where the subnet differs little. So that difference is taken off:

    mean = m + b (known mean - full mean)
    variance + eps = (v + eps) ((known variance + eps) / (full variance + eps))^b

    m and v are the subnet's, those called full the max net's, all on the same images. b, between 0
    and 1, is the coefficient of the regression of the subnet's means of single images on the max
    net's, over all channels of the layer. The unit of a channel is the larger of its two
    deviations, so that a channel that is dead in one of the nets does not decide b. A layer whose
    input is that of the max net gets the known statistics (b = 1), and one that has nothing to do
    with it gets its own (b = 0). It is the method of control variates with an estimated coefficient
    (Lavenberg and Welch 1981, "A perspective on the use of control variables to increase the
    efficiency of Monte Carlo simulations").
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._images: list[PerImage] = []
        self._count = 0

    def add(self, x: Tensor) -> Estimate:
        own = _per_image(x)
        first, self._count = self._count, self._count + len(x)
        self._images.append(own)
        found = self._estimate(own, slice(first, self._count))
        return Estimate(found.mean.to(x.dtype), found.variance.to(x.dtype))

    @property
    def estimate(self) -> Estimate:
        return self._estimate(_joined(self._images), slice(None))

    def _estimate(self, own: PerImage, where: slice) -> Estimate:
        channels = own.means.shape[1]
        known = Estimate(*(part[:channels].double() for part in self._reference.known))
        full = PerImage(*(part[where, :channels] for part in self._reference.images))
        (mean, variance), (full_mean, full_variance) = own.pooled(), full.pooled()
        own_spread, full_spread = own.means.double() - mean, full.means.double() - full_mean
        unit = 1 / torch.maximum(variance, full_variance).clamp_min(_LEAST)
        spread = (full_spread.square() * unit).sum().clamp_min(_LEAST)
        b = ((own_spread * full_spread * unit).sum() / spread).clamp(0, 1)
        # as BatchNorm divides by them, so that no ratio is huge where a channel is dead
        eps = self._reference.eps
        ratio = (known.variance + eps) / (full_variance + eps)
        found = (variance + eps) * ratio**b - eps
        return Estimate(mean + b * (known.mean - full_mean), found.clamp_min(0))


def _per_image(x: Tensor) -> PerImage:
    if x.device.type != "cpu":
        variances, means = torch.var_mean(x, (2, 3), correction=0)
        return PerImage(means, variances)
    # with channels last torch.var_mean takes twenty times as long
    found = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in torch.split(x, 1)]
    return PerImage(*(torch.stack(part) for part in zip(*found, strict=True)))


def _joined(images: Sequence[PerImage]) -> PerImage:
    return PerImage(*(torch.cat(part) for part in zip(*images, strict=True)))


def _pooled(counts: Tensor, means: Tensor, variances: Tensor) -> Estimate:
    """Counts [k], means and variances [k, c] of k groups -> those of all."""
    share = (counts.double() / counts.sum())[:, None]
    mean = (share * means).sum(0)
    return Estimate(mean, (share * (variances + (means - mean).square())).sum(0))


def parts(x: Tensor) -> Sequence[Tensor]:
    """The images of `x` in groups of about 8192 pixels on a CPU, and all together on a GPU.

    On a CPU torch adds up in float32, which loses digits in long sums, and what is worked on in
    place stays in the cache.
    """
    on_cpu = x.device.type == "cpu"
    return torch.split(x, max(1, 8192 // (x.shape[2] * x.shape[3])) if on_cpu else len(x))
