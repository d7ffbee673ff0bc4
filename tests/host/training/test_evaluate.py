"""The accuracy of subnets: recalibration, counting, and the work of several ranks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset, Files, Split
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import (
    Scores,
    recalibrated,
    recalibrated_subnet,
    score,
    true_scores,
)
from ramnas_models.bundle import Preprocessing
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, load_space
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


def test_a_max_net_whose_statistics_came_with_it_keeps_them_at_any_resolution(
    digits: Dataset,
) -> None:
    torch.manual_seed(0)
    net = Supernet(SPACE, 10)
    largest = recalibrated_subnet(net, SPACE.max(), digits.calibration)
    net.load_state_dict(largest.state_dict(), strict=False)
    net.published_statistics = True
    for resolution in SPACE.resolutions:
        arch = msgspec.structs.replace(SPACE.max(), resolution=resolution)
        for key, value in recalibrated_subnet(net, arch, digits.calibration).state_dict().items():
            assert torch.equal(value, largest.state_dict()[key])
    cut = recalibrated_subnet(net, SPACE.min(), digits.calibration).state_dict()
    net.published_statistics = False
    plain = recalibrated_subnet(net, SPACE.min(), digits.calibration).state_dict()
    key = "stem.bn.running_mean"
    assert not torch.equal(cut[key], plain[key])  # the stem alone sees what the max net's does


def test_the_calibration_images_are_fixed_and_prepared_once(net: Supernet, digits: Dataset) -> None:
    arch = SPACE.sample(np.random.default_rng(0))
    first, second = (
        recalibrated_subnet(net, arch, digits.calibration).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    kept = digits.calibration._kept[arch.resolution][0]
    recalibrated(net.extract(arch), digits.calibration)
    assert digits.calibration._kept[arch.resolution][0] is kept


def test_few_calibration_images_are_one_warning_for_all_archs(
    net: Supernet, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    few = dataclasses.replace(digits, calibration=digits.calibration.take(np.arange(20)))
    true_scores(net, [SPACE.min(), SPACE.min(), SPACE.min()], few, "selection")
    assert caplog.text.count("fewer than 64 images (20)") == 1
    recalibrated_subnet(net, SPACE.min(), few.calibration)
    assert caplog.text.count("fewer than 64 images (20)") == 2


def test_ranks_share_the_archs_and_each_gets_all_scores(net: Supernet, digits: Dataset) -> None:
    rng = np.random.default_rng(0)
    archs = [SPACE.sample(rng) for _ in range(5)]
    alone = true_scores(net, archs, digits, "selection")

    class Slow(Ranks):
        """Rank 1 of 2: it has taken only two archs, and the other rank's answer is made up."""

        def taken(self, total: int, on_done: Callable[[int], None]) -> Iterator[int]:
            for position in (1, 4):
                yield position
                on_done(position + 1)

        def gather(self, value: dict) -> list:
            return [{i: alone[i] for i in (0, 2, 3)}, value]

    done: list[int] = []
    scored: dict[Arch, Scores] = {}
    shared = true_scores(
        net, archs, digits, "selection", ranks=Slow(1, 2), on_done=done.append,
        on_score=scored.__setitem__,
    )  # fmt: skip
    assert shared == alone
    assert done == [2, 5, 5]  # all are done, whichever rank did the last one
    assert scored == {archs[i]: alone[i] for i in (1, 4)}
    assert true_scores(net, [], digits, "selection") == []


def test_scores_do_not_depend_on_the_size_of_the_batches(net: Supernet, digits: Dataset) -> None:
    subnet = recalibrated_subnet(net, SPACE.min(), digits.calibration).double()
    torch.set_default_dtype(torch.float64)  # so that no rounding decides between two classes
    try:
        found = {score(subnet, digits.report, batch=batch) for batch in (1, 7, 64, 250, 999)}
    finally:
        torch.set_default_dtype(torch.float32)
    (scores,) = found
    assert scores.n == len(digits.report)


def test_networks_are_scored_in_fp32_whatever_training_has_set(
    net: Supernet, digits: Dataset
) -> None:
    subnet = recalibrated_subnet(net, SPACE.min(), digits.calibration)
    seen = []
    subnet.register_forward_hook(
        lambda module, inputs, logits: seen.append(
            (logits.dtype, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
        )
    )
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            subnet(digits.report.at(32)[:2])
            scores = score(subnet, digits.report, batch=250)
            subnet(digits.report.at(32)[:2])
    finally:
        torch.set_float32_matmul_precision("highest")
    training, evaluation = (torch.bfloat16, "high", True), (torch.float32, "highest", False)
    assert seen == [training, evaluation, training]
    assert scores == score(subnet, digits.report)


def test_counting_hits_waits_for_the_network_once_however_many_batches(
    net: Supernet, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnet = recalibrated_subnet(net, SPACE.min(), digits.calibration)
    asked: Counter[str] = Counter()
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu"):
        own = getattr(torch.Tensor, name)

        def counted(x: object, *rest: object, name: str = name, own: Callable = own) -> object:
            asked[name] += 1
            return own(x, *rest)

        monkeypatch.setattr(torch.Tensor, name, counted)
    score(subnet, digits.report, batch=25)
    assert asked == {"tolist": 1}


def test_a_picture_that_cannot_be_read_does_not_count(net: Supernet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 40, 3), np.uint8))
    paths[3].write_bytes(b"no image")
    for how in (None, 36):
        preprocessing = Preprocessing(Normalisation(), "bicubic", how, how)
        split = Split(Files(paths), torch.arange(7), preprocessing)
        assert score(recalibrated_subnet(net, SPACE.min(), split), split).n == 6
