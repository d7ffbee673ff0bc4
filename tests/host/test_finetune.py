from __future__ import annotations

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.datasets import load_dataset
from ramnas_host.evaluate import recalibrated, score
from ramnas_host.finetune import finetune
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")


def test_a_subnet_learns_on_its_own_and_the_supernet_stays_as_it_is() -> None:
    recipe = load_recipe("digits")
    recipe = msgspec.structs.replace(recipe, epochs=6, warm_up_epochs=0)
    dataset = load_dataset("digits", recipe.images)
    torch.manual_seed(0)
    net = Supernet(SPACE, 10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    arch = SPACE.sample(np.random.default_rng(0))
    untrained = recalibrated(net.extract(arch), dataset.calibration)
    losses: list[float] = []
    subnet = finetune(
        net.extract(arch), dataset, recipe, on_step=lambda step, loss: losses.append(loss)
    )
    assert len(losses) == 6 * (len(dataset.train) // recipe.batch_size)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    tuned = score(recalibrated(subnet, dataset.calibration), dataset.test)
    assert tuned.top1 > score(untrained, dataset.test).top1 + 0.3
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
