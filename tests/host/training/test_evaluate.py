"""The accuracy of subnets: recalibration, counting, and the work of several ranks."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import recalibrated, recalibrated_subnet, score, true_scores
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def net() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE, 10)


@torch.no_grad()
def test_top1_and_top5_equal_a_count_image_by_image(net: Supernet, digits: Dataset) -> None:
    subnet = recalibrated_subnet(net, SPACE.max(), digits.calibration)
    top1 = top5 = 0
    for image, label in zip(digits.report.at(48), digits.report.labels.tolist(), strict=True):
        order = np.argsort(-subnet(image[None])[0].numpy())
        top1 += order[0] == label
        top5 += label in order[:5]
    found = score(subnet, digits.report)
    assert found.top1 == pytest.approx(top1 / len(digits.report), abs=1.5 / len(digits.report))
    assert found.top5 == pytest.approx(top5 / len(digits.report), abs=1.5 / len(digits.report))
    assert 0 < found.top1 < found.top5 < 1


def test_the_calibration_images_are_fixed_and_prepared_once(net: Supernet, digits: Dataset) -> None:
    arch = SPACE.sample(np.random.default_rng(0))
    first, second = (
        recalibrated_subnet(net, arch, digits.calibration).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    kept = digits.calibration._kept[arch.resolution][0]
    recalibrated(net.extract(arch), digits.calibration)
    assert digits.calibration._kept[arch.resolution][0] is kept


def test_ranks_share_the_archs_and_each_gets_all_scores(net: Supernet, digits: Dataset) -> None:
    rng = np.random.default_rng(0)
    archs = [SPACE.sample(rng) for _ in range(5)]
    alone = true_scores(net, archs, digits, "selection")

    class Half(Ranks):
        """Rank 0 of 2; the other rank's answer is made up."""

        def gather(self, value: list) -> list:
            return [value, alone[1::2]]

    done: list[int] = []
    shared = true_scores(net, archs, digits, "selection", ranks=Half(0, 2), on_done=done.append)
    assert shared == alone
    assert done == [2, 4, 5]
    assert true_scores(net, [], digits, "selection") == []
