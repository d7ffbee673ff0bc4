"""Augmentation of training images.

Each image is cropped at random when it is decoded. Everything else is done to whole batches, on the
device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ramnas_host.config import Augment, SceneAugment
from ramnas_host.data.images import standardise
from ramnas_models.onnx_graph import Normalisation

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image


def random_crop(image: Image, augment: Augment, rng: np.random.Generator) -> Image:
    """Cut out a random part of `image` and resize it to a square of `augment.size` (GoogLeNet).

    The part covers at least the share `augment.crop` of the area, at an aspect ratio between 3:4
    and 4:3. If `augment.crop` is 1, the whole image is resized.
    """
    height, width = image.shape[:2]
    side = augment.size
    assert side is not None  # Recipe.for_space
    if augment.crop < 1:
        for _ in range(10):
            area = height * width * rng.uniform(augment.crop, 1)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                image = image[top : top + h, left : left + w]
                break
    shrinks = side < min(image.shape[:2])
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (side, side), interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def random_window(
    height: int, width: int, share: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """The rows and columns of a random part of an image.

    The part covers at least `share` of the area. Its aspect ratio is 3:4 to 4:3 times the image's
    own, so resizing it to the image's shape stretches nothing by more than that.
    """
    area, ratio = rng.uniform(share, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    h = min(height, max(1, round(height * math.sqrt(area / ratio))))
    w = min(width, max(1, round(width * math.sqrt(area * ratio))))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return slice(top, top + h), slice(left, left + w)


class Augmentation:
    """Augments a batch, uint8 [n, h, w, 3] in BGR, and normalises it for the networks.

    The result is float [n, 3, h, w], channels last. Random numbers come from torch's global
    generators, so the caller's seed decides them. The host waits for a GPU only if there is a
    policy, whose operations run on groups of images.
    """

    def __init__(self, augment: SceneAugment, norm: Normalisation) -> None:
        self._augment, self._norm = augment, norm
        self._policy = _policy(augment.policy) if isinstance(augment, Augment) else None

    def __call__(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255
        augment = self._augment
        if augment.flip:
            x = torch.where(_happens(x, augment.flip), x.flip(3), x)
        if self._policy:
            x = self._policy(x.flip(1)).flip(1)  # its operations on colours expect RGB
        if augment.brightness:
            shift = _uniform(x, -augment.brightness, augment.brightness)
            x = (x + shift * _happens(x, 0.5)).clamp(0, 1)
        if augment.noise:
            x = x + augment.noise * torch.randn_like(x) * _happens(x, 0.5)
        if augment.mask:
            x = x.masked_fill(_rectangles(x, augment.mask) & _happens(x, 0.5), 0.0)
        return standardise(x, self._norm)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """A random number for each image of x, [n, 1, 1, 1]."""
    drawn = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
    return low + (high - low) * drawn


def _happens(x: Tensor, probability: float) -> Tensor:
    """True for the images of x to which something happens, [n, 1, 1, 1]."""
    return _uniform(x, 0, 1) < probability


def _rectangles(x: Tensor, share: float) -> Tensor:
    """Where a random rectangle covers each image of x, bool [n, 1, h, w] (Zhong et al. 2017).

    It covers a tenth of `share` to all of it, at aspect ratios from 0.3 to 3.3, as far as it fits.
    """
    height, width = x.shape[2:]
    area = height * width * _uniform(x, share / 10, share)
    ratio = _uniform(x, math.log(0.3), math.log(3.3)).exp()
    h = (area * ratio).sqrt().round().clamp(1, height)
    w = (area / ratio).sqrt().round().clamp(1, width)
    top = (_uniform(x, 0, 1) * (height - h + 1)).floor()
    left = (_uniform(x, 0, 1) * (width - w + 1)).floor()
    rows = torch.arange(height, device=x.device)[:, None]
    columns = torch.arange(width, device=x.device)
    return (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)


def _policy(name: str) -> _PerImage | None:
    """kornia's AutoAugment or RandAugment, for images in RGB with white at 1; None for `none`."""
    if name == "none":
        return None
    from kornia.augmentation.auto import AutoAugment, RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    if name == "autoaugment":
        return _PerImage(list(AutoAugment("imagenet").children()), rounds=1)
    return _PerImage([RandAugment(n=1, m=9, policy=[entry]) for entry in default_policy], rounds=2)


class _PerImage:
    """Applies `rounds` operations to each image, drawn from `operations` for each image and round.

    kornia's own containers draw them once for a whole batch. Here the images for which the same
    operation was drawn go through it together.
    """

    def __init__(self, operations: Sequence[nn.Module], rounds: int) -> None:
        self._operations, self._rounds = operations, rounds

    @torch.no_grad()  # some of kornia's operations have parameters that could be learnt
    def __call__(self, x: Tensor) -> Tensor:
        for _ in range(self._rounds):
            drawn = torch.randint(len(self._operations), (len(x),))
            for which in sorted(set(drawn.tolist())):
                places = (drawn == which).nonzero()[:, 0].to(x.device)
                x = x.index_copy(0, places, self._operations[which](x[places]).to(x.dtype))
        return x
