"""The pixel loss of segmenters against the same thing written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramnas_host.data.cityscapes import IGNORED
from ramnas_host.finetuning.segmentation import pixel_loss


def _case() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Logits, labels, and the losses of the pixels that are labelled, from high to low."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator)
    labels[0, :3] = IGNORED
    flat = logits.detach().permute(0, 2, 3, 1)[labels != IGNORED].double()
    each = -torch.log_softmax(flat, 1)[range(len(flat)), labels[labels != IGNORED]]
    return logits, labels, np.sort(each.numpy())[::-1]


def test_of_all_pixels_it_is_the_mean_over_those_that_are_labelled() -> None:
    logits, labels, each = _case()
    assert pixel_loss(logits, labels, 1.0).item() == pytest.approx(each.mean(), rel=1e-5)


def test_of_a_share_it_is_the_mean_over_the_hardest_and_only_these_teach() -> None:
    logits, labels, each = _case()
    loss = pixel_loss(logits, labels, 0.25)
    count = -(-len(each) // 4)
    assert loss.item() == pytest.approx(each[:count].mean(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, logits)
    assert int((grad.abs().sum(1) > 0).sum()) == count


@pytest.mark.parametrize("hardest", [1.0, 0.1])
def test_images_without_a_label_teach_nothing(hardest: float) -> None:
    logits, labels, _ = _case()
    loss = pixel_loss(logits, torch.full_like(labels, IGNORED), hardest)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not grad.any()
