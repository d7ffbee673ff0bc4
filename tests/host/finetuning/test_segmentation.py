"""The pixel loss and the scores of segmenters against plain computations of their definitions."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch

from ramnas_host.annotations.segmentation_data import IGNORED
from ramnas_host.finetuning.segmentation import pixel_loss, segmentation_evaluation
from ramnas_host.finetuning.segmentation_metrics import confusion
from ramnas_models.accuracy import wilson


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


def _matrices() -> np.ndarray:
    """Confusion matrices of six images of five classes: class 3 is in one image, class 4 in none,
    though it is predicted. Class 2 is always right."""
    rng = np.random.default_rng(3)
    found = []
    for i in range(6):
        truth = rng.integers(0, 3, (20, 30)).astype(np.uint8)
        truth[:4] = IGNORED
        if i == 1:
            truth[10:15] = 3
        wrong = (rng.random(truth.shape) < 0.3) & (truth != 2) & (truth != IGNORED)
        other = np.where(rng.random(truth.shape) < 0.5, 4, (truth + 1) % 2)
        found.append(confusion(truth, np.where(wrong, other, truth), 5))
    return np.stack(found)


def test_each_class_of_the_truth_has_its_iou_and_the_number_of_pictures_that_have_it() -> None:
    matrices, classes = _matrices(), ("a", "b", "c/d", "e", "only predicted")
    found = segmentation_evaluation(matrices, classes, "report")
    assert list(found.by_class) == ["a", "b", "c/d", "e"]
    ious = {name: iou.value for name, (iou,) in found.by_class.items()}
    # the class that is only predicted has an IoU of 0, which the mean counts
    (mean,) = found.accuracies
    assert mean.value == pytest.approx(sum(ious.values()) / 5)
    whole = matrices.sum(0)
    assert ious["a"] == pytest.approx(whole[0, 0] / (whole[0].sum() + whole[1:, 0].sum()))
    assert {name: iou.n for name, (iou,) in found.by_class.items()} == {
        "a": 6, "b": 6, "c/d": 6, "e": 1
    }  # fmt: skip
    for (iou,) in found.by_class.values():
        assert iou.metric == "IoU"
        assert iou.split == "report"
        assert iou.interval is not None
        assert iou.interval[0] <= iou.value <= iou.interval[1]
    # samples of one picture, and of perfect ones, say nothing about the width
    assert found.by_class["e"][0].interval == wilson(ious["e"], 1)
    assert found.by_class["c/d"][0].interval == wilson(1.0, 6)
    # JSON has no NaN: a class without a value would be null here
    text = msgspec.json.encode(found.by_class).decode()
    assert "null" not in text
    assert list(json.loads(text)) == list(found.by_class)


def test_only_the_report_split_has_intervals() -> None:
    matrices = _matrices()
    classes = ("background", "b", "c", "d", "e")
    found = segmentation_evaluation(matrices, classes, "report")
    assert [accuracy.metric for accuracy in found.accuracies] == ["mIoU", "mIoU-foreground"]
    assert found.accuracies[0].n == 6
    chosen_by = segmentation_evaluation(matrices, classes, "selection")
    for one, other in zip(found.accuracies, chosen_by.accuracies):
        assert (one.value, one.n) == (other.value, other.n)
        assert one.interval is not None
        assert other.interval is None
    assert chosen_by.by_class["b"][0].interval is None
