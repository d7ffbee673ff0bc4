"""The pixel loss of segmenters against a plain computation of its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramnas_host.data.cityscapes import IGNORED
from ramnas_host.finetuning.segmentation import pixel_loss


def _case() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Logits, labels, and the losses of the labelled pixels, from high to low."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator)
    labels[0, :3] = IGNORED
    flat = logits.detach().permute(0, 2, 3, 1)[labels != IGNORED].double()
    losses = -torch.log_softmax(flat, 1)[range(len(flat)), labels[labels != IGNORED]]
    return logits, labels, np.sort(losses.numpy())[::-1]


def test_the_loss_is_the_mean_over_the_labelled_pixels() -> None:
    logits, labels, losses = _case()
    assert pixel_loss(logits, labels, 1.0).item() == pytest.approx(losses.mean(), rel=1e-5)


def test_with_a_share_only_the_hardest_pixels_count_and_get_a_gradient() -> None:
    logits, labels, losses = _case()
    loss = pixel_loss(logits, labels, 0.25)
    count = -(-len(losses) // 4)
    assert loss.item() == pytest.approx(losses[:count].mean(), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, logits)
    assert int((grad.abs().sum(1) > 0).sum()) == count


@pytest.mark.parametrize("hardest", [1.0, 0.1])
def test_images_without_labels_give_no_gradient(hardest: float) -> None:
    logits, labels, _ = _case()
    loss = pixel_loss(logits, torch.full_like(labels, IGNORED), hardest)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not grad.any()
