"""Augmentation of training images.

Each image is cropped at random when it is decoded. Everything else is done to whole batches, on the
device.
"""

from __future__ import annotations

import math
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
    if augment.crop < 1:
        for _ in range(10):
            area = height * width * rng.uniform(augment.crop, 1)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                image = image[top : top + h, left : left + w]
                break
    shrinks = augment.size < min(image.shape[:2])
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (augment.size, augment.size), interpolation=interpolation)
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
    generator, so the caller's seed decides them.
    """

    def __init__(self, augment: SceneAugment, norm: Normalisation) -> None:
        self._norm = norm
        self._layers = nn.Sequential(*_layers(augment))

    def __call__(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255
        return standardise(self._layers(x), self._norm)


def _layers(augment: SceneAugment) -> list[nn.Module]:
    layers: list[nn.Module] = []
    flip, brightness, noise, mask = augment.flip, augment.brightness, augment.noise, augment.mask
    if not any((flip, brightness, noise, mask)):
        return layers
    import kornia.augmentation as K

    if flip:
        layers.append(K.RandomHorizontalFlip(p=flip))
    if brightness:
        layers.append(K.RandomBrightness((1 - brightness, 1 + brightness), p=0.5))
    if noise:
        layers.append(K.RandomGaussianNoise(std=noise, p=0.5))
    if mask:
        layers.append(K.RandomErasing(scale=(mask / 10, mask), ratio=(0.3, 3.3), value=0.0, p=0.5))
    return layers
