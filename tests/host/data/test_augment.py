"""Augmentation: what it does to an image is measured on the image."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from ramnas_host.config import Augment
from ramnas_host.data import augment as module
from ramnas_host.data.augment import Augmentation, random_crop
from ramnas_host.data.images import normalise
from ramnas_models.onnx_graph import Normalisation

OFF = Augment(size=256, crop=1.0, flip=0.0, brightness=0.0, noise=0.0, mask=0.0)
POLICIES = ("autoaugment", "randaugment")
ALL = Augment(size=256, crop=1.0, flip=0.5, brightness=0.4, noise=0.05, mask=0.2)
ON = {"flip": 1.0, "brightness": 0.3, "noise": 0.05, "mask": 0.2}
AS_IT_IS = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="bgr")


def only(**changes: float) -> Augment:
    return msgspec.structs.replace(OFF, **changes)


def grey(n: int = 300, side: int = 24) -> Tensor:
    """Images that a brightness shift of 0.3 neither blackens nor whitens: uint8 from 90 to 165."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, side, side, 3)
    return torch.randint(90, 166, shape, generator=generator, dtype=torch.uint8)


def change(augment: Augment, pixels: Tensor) -> Tensor:
    """What augmentation added to each value, where white is 1."""
    torch.manual_seed(0)
    return Augmentation(augment, AS_IT_IS)(pixels) - normalise(pixels, AS_IT_IS)


def gradient(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell their position: blue is the column, green the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


@pytest.mark.parametrize("share", [0.08, 0.5, 0.9])
@pytest.mark.parametrize("hw", [(200, 200), (200, 160)])
def test_a_crop_covers_at_least_the_given_share(share: float, hw: tuple[int, int]) -> None:
    height, width = hw
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(200):
        crop = random_crop(gradient(height, width), only(crop=share), rng)
        assert crop.shape == (256, 256, 3)
        assert crop.dtype == np.uint8
        (left, top), (right, bottom) = crop[0, 0, :2].tolist(), crop[-1, -1, :2].tolist()
        h, w = bottom - top + 1, right - left + 1  # enlarging keeps the corners' values
        assert (h + 0.5) * (w + 0.5) >= share * height * width  # the sides are rounded
        if (h, w) != (height, width):
            assert (w + 0.5) / (h - 0.5) >= 3 / 4
            assert (w - 0.5) / (h + 0.5) <= 4 / 3
        boxes.append((top, left, h, w))
    assert len(set(boxes)) > 50
    areas = [h * w / (height * width) for _, _, h, w in boxes]
    assert min(areas) < share + 0.1
    assert max(areas) > 0.9


def test_with_crop_1_the_whole_image_is_resized() -> None:
    image = gradient(200, 160)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(random_crop(image, OFF, rng), cv2.resize(image, (256, 256)))
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


@pytest.mark.parametrize("hw", [(8, 250), (250, 8), (1, 1), (600, 500), (256, 256)])
def test_an_image_of_any_shape_becomes_a_square_of_the_right_size(hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for crop in (0.08, 0.9, 1.0):
        for size in (1, 32, 256):
            found = random_crop(np.zeros((*hw, 3), np.uint8), only(crop=crop, size=size), rng)
            assert found.shape == (size, size, 3)
            assert found.dtype == np.uint8


def test_the_random_generator_decides_the_crop() -> None:
    crops = [
        random_crop(gradient(200, 160), only(crop=0.2), np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


@pytest.mark.parametrize("norm", [Normalisation(), AS_IT_IS], ids=["rgb", "bgr"])
def test_without_augmentation_images_are_normalised_as_in_evaluation(norm: Normalisation) -> None:
    pixels = grey(4)
    assert torch.equal(Augmentation(OFF, norm)(pixels), normalise(pixels, norm))


def test_augmented_images_have_the_shape_and_type_that_networks_take() -> None:
    x = Augmentation(ALL, Normalisation())(grey(4))
    assert x.shape == (4, 3, 24, 24)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_comes_before_normalisation() -> None:
    found = []
    for norm in (AS_IT_IS, Normalisation()):
        torch.manual_seed(0)
        found.append(Augmentation(ALL, norm)(grey(8)))
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (Normalisation().mean, Normalisation().std)
    )
    torch.testing.assert_close(found[1], (found[0].flip(1) - mean) / std)


def test_flip_mirrors_left_and_right() -> None:
    pixels = grey(20)
    plain = normalise(pixels, AS_IT_IS)
    assert torch.equal(Augmentation(only(flip=1.0), AS_IT_IS)(pixels), plain.flip(3))


def test_flip_of_one_half_mirrors_half_of_the_images() -> None:
    pixels = grey()
    plain = normalise(pixels, AS_IT_IS)
    torch.manual_seed(0)
    found = Augmentation(only(flip=0.5), AS_IT_IS)(pixels)
    mirrored = (found == plain.flip(3)).flatten(1).all(1)
    assert 110 < int(mirrored.sum()) < 190
    assert torch.equal(found[~mirrored], plain[~mirrored])


def test_brightness_shifts_half_of_the_images_by_a_constant() -> None:
    added = change(only(brightness=0.3), grey()).flatten(1)
    shift = added.mean(1)
    assert float((added - shift[:, None]).abs().max()) < 1e-6
    shifted = shift[shift.abs() > 1e-6]
    assert 110 < len(shifted) < 190
    assert -0.3 <= float(shifted.min()) < -0.2
    assert 0.2 < float(shifted.max()) <= 0.3


def test_brightness_stays_between_black_and_white() -> None:
    pixels = torch.randint(0, 256, (100, 8, 8, 3), dtype=torch.uint8)
    x = Augmentation(only(brightness=0.4), AS_IT_IS)(pixels)
    assert (float(x.min()), float(x.max())) == (0, 1)


def test_noise_on_half_of_the_images_has_the_right_deviation() -> None:
    added = change(only(noise=0.05), grey()).flatten(1)
    noisy = added[added.abs().amax(1) > 0]
    assert 110 < len(noisy) < 190
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(0, abs=0.001)
    assert float(noisy.std(1).min()) > 0.045
    assert len(noisy.unique(dim=0)) == len(noisy)  # each image has noise of its own


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_mask_blackens_a_rectangle_of_at_most_the_given_share(share: float) -> None:
    white = torch.full((300, 24, 24, 3), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    x = Augmentation(only(mask=share), AS_IT_IS)(white)
    assert set(x.unique().tolist()) == {0, 1}
    areas = []
    for image in x:
        black = image == 0
        rows, columns = black.any(0).any(1), black.any(0).any(0)
        h, w = int(rows.sum()), int(columns.sum())
        if h:
            assert int(black.sum()) == 3 * h * w  # in all channels, and without holes
            assert (h - 0.5) * (w - 0.5) <= share * 24 * 24  # sides are rounded
            areas.append(h * w / (24 * 24))
    assert 110 < len(areas) < 190
    assert max(areas) > 0.7 * share
    assert min(areas) < 0.3 * share


@pytest.mark.parametrize("augment", [*(only(**{k: v}) for k, v in ON.items()), ALL])
def test_the_seed_of_torch_decides_every_augmentation(augment: Augment) -> None:
    if augment.flip == 1:
        augment = only(flip=0.5)
    augmentation = Augmentation(augment, AS_IT_IS)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(augmentation(grey(30)))
    torch.manual_seed(0)
    another = Augmentation(augment, AS_IT_IS)(grey(30))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], another)
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_each_image_operations_of_its_own(policy: str) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 24, 24, 3), dtype=torch.uint8)
    augmentation = Augmentation(msgspec.structs.replace(OFF, policy=policy), AS_IT_IS)
    found = augmentation(image.repeat(64, 1, 1, 1))
    assert found.shape == (64, 3, 24, 24)
    assert found.dtype == torch.float32
    assert -1e-6 <= float(found.min()) <= float(found.max()) <= 1 + 1e-6
    assert len({one.numpy().tobytes() for one in found}) > 20


@pytest.mark.parametrize("policy", POLICIES)
def test_the_seed_of_torch_decides_what_a_policy_does(policy: str) -> None:
    augmentation = Augmentation(msgspec.structs.replace(ALL, policy=policy), AS_IT_IS)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(augmentation(grey(16)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_no_gradient_goes_back_into_the_operations_of_a_policy() -> None:
    """All networks of a step share its images; the second backward would find the graph gone."""
    learnt = torch.nn.Conv2d(3, 3, 1)
    x = module._PerImage([learnt], rounds=1)(torch.rand(2, 3, 4, 4))
    assert not x.requires_grad


def test_operations_on_colours_see_red_green_blue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are in BGR. A policy that keeps only red must keep the last channel."""
    only_red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    monkeypatch.setattr(module, "_policy", lambda name: lambda x: x * only_red)
    found = Augmentation(OFF, AS_IT_IS)(grey(2))
    assert not found[:, :2].any()
    assert found[:, 2].all()


@pytest.mark.parametrize("key", ON)
def test_each_augmentation_works_alone_and_is_off_at_0(key: str) -> None:
    assert change(only(**{key: ON[key]}), grey()).abs().max() > 0.1
    assert not change(only(**{key: 0.0}), grey()).any()
