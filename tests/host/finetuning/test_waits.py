"""The losses of fine-tuning never make the host wait for a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from ramnas_host.annotations.segmentation_data import IGNORED
from ramnas_host.finetuning.segmentation import pixel_loss
from ramnas_host.finetuning.ssd_loss import ssd_loss
from tests.host.waits import NoWaits


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: int(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.__setitem__(torch.arange(4) > 1, x[:2]),
    ],
)
def test_a_wait_is_found(wait: Callable[[Tensor], object]) -> None:
    with NoWaits(), pytest.raises(AssertionError, match="makes the host wait"):
        wait(torch.arange(4.0))


@pytest.mark.parametrize("hardest", [0.3, 1.0])
def test_the_loss_of_a_segmenter_waits_for_nothing(hardest: float) -> None:
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    labels = torch.randint(0, 5, (2, 6, 7))
    labels[0, :3] = IGNORED
    with NoWaits():
        pixel_loss(logits, labels, hardest).backward()  # type: ignore[no-untyped-call]


def test_the_loss_of_a_detector_waits_for_nothing() -> None:
    logits, boxes = torch.randn(2, 9, 4, requires_grad=True), torch.randn(2, 9, 4)
    labels = torch.tensor([[0, 1, 3, -1, 0, 0, 0, 0, 0], [0] * 9])
    with NoWaits():
        ssd_loss(logits, boxes.requires_grad_(), labels, torch.randn(2, 9, 4)).backward()  # type: ignore[no-untyped-call]
