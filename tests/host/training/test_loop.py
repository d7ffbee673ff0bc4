"""The loop of every training: parts of a batch, averaged weights, waiting and clipping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from ramnas_host.config import Augment, Recipe, SplitSizes, load_recipe
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.loader import Batch
from ramnas_host.training import cuda, distill, loop, optimizer, resume, sandwich, train
from ramnas_host.training.average import MovingAverage
from ramnas_host.training.distributed import Ranks
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
STEPS, BATCH = 6, 8


def recipe(**changes: object) -> Recipe:
    """Six steps of 8 images at a constant learning rate, but for the cosine."""
    digits = load_recipe("digits")
    fixed = {"epochs": 1, "warm_up_epochs": 0, "batch_size": BATCH}
    return msgspec.structs.replace(digits, **{**fixed, **changes})


def clipped(norm: float | None = None, value: float | None = None) -> dict[str, object]:
    settings = load_recipe("digits").optimizer
    return {"optimizer": msgspec.structs.replace(settings, clip_norm=norm, clip_value=value)}


def batches(parts: int) -> Iterator[Batch]:
    """The same examples for any number of parts: 4 numbers each, and a label of 3."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
        labels = torch.randint(3, (BATCH,), generator=generator)
        for part in range(parts):
            yield Batch(x[part::parts], (labels[part::parts],), {})


def run(how: Recipe, seen: list[loop.Step] | None = None, *, noise: float = 0.0) -> nn.Linear:
    """Train a linear layer, whose loss needs no BatchNorm; return it."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3, dtype=torch.float64)
    state = resume.new_state(net, how)

    def gradients(step: int, batch: Batch) -> Tensor:
        logits = net(batch.pixels + noise * torch.randn_like(batch.pixels))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        return loss.detach()[None]

    loop.run(
        state, how, gradients, lambda first: batches(how.accumulate), STEPS, folder=None,
        ranks=Ranks(), networks=lambda step: "one", on_step=(seen or []).append,
    )  # fmt: skip
    return net


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("clip", [clipped(), clipped(norm=0.1), clipped(value=0.05)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_a_batch_train_as_the_whole_batch(
    parts: int, precision: str, clip: dict[str, object]
) -> None:
    whole, divided = (run(recipe(accumulate=k, precision=precision, **clip)) for k in (1, parts))
    assert largest_difference(whole, divided) < 1e-12


def test_the_parts_of_a_step_draw_random_numbers_of_their_own() -> None:
    """With the same numbers in both parts, the noise of a batch of equal halves would repeat."""
    drawn: list[Tensor] = []
    how = recipe(accumulate=2)
    net = nn.Linear(1, 1)

    def gradients(step: int, batch: Batch) -> Tensor:
        drawn.append(torch.rand(3))
        net(torch.ones(1)).sum().backward()
        return torch.zeros(1)

    loop.run(
        resume.new_state(net, how), how, gradients, lambda first: batches(2), STEPS, folder=None,
        ranks=Ranks(), networks=lambda step: "one", on_step=lambda step: None,
    )  # fmt: skip
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 2 * STEPS


def test_parts_of_a_supernets_batch_add_up_where_batchnorm_sees_the_same() -> None:
    """Both halves of this batch are the same images, so both have the statistics of the whole."""
    torch.manual_seed(0)
    net = Supernet(SPACE, 10).double().train()
    archs = [SPACE.max(), SPACE.min()]
    x, labels = torch.randn(4, 3, 48, 48, dtype=torch.float64), torch.arange(4)
    found = []
    for parts in ([(torch.cat([x, x]), torch.cat([labels, labels]))], [(x, labels)] * 2):
        net.zero_grad()
        for pixels, targets in parts:
            images = sandwich.at_any_resolution(pixels, "bilinear")
            sandwich.step(net, archs, images, targets, recipe(dropout=0.0, drop_connect=0.0))
        loop._divide_gradients(net, len(parts))
        found.append({k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None})
    for key, grad in found[0].items():
        torch.testing.assert_close(found[1][key], grad, rtol=1e-9, atol=1e-12)


def test_clipping_by_value_limits_each_element_before_the_norm_is_limited() -> None:
    net = nn.Linear(2, 1, bias=False)
    how = recipe(**clipped(norm=1.0, value=0.5))
    net.weight.grad = torch.tensor([[4.0, -0.1]])
    optimizer.update(optimizer.sgd(net, how), net, how, lr=0.0)
    torch.testing.assert_close(net.weight.grad, torch.tensor([[0.5, -0.1]]))
    net.weight.grad = torch.tensor([[4.0, -4.0]])
    how = recipe(**clipped(norm=0.1, value=0.5))
    optimizer.update(optimizer.sgd(net, how), net, how, lr=0.0)
    torch.testing.assert_close(net.weight.grad, torch.tensor([[0.5, -0.5]]) * 0.1 / 0.5**0.5)


def test_the_average_is_that_of_the_weights_after_every_step() -> None:
    how, weights = recipe(), []
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    average = MovingAverage(net, 0.9)
    expected = net.weight.detach().clone()
    for step in range(1, 201):
        with torch.no_grad():
            net.weight.add_(torch.randn(3, 4))
        weights.append(net.weight.detach().clone())
        average.update(step)
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * weights[-1]
    torch.testing.assert_close(average.weights[0], expected)
    with average.in_use():
        torch.testing.assert_close(net.weight.detach(), expected)
        assert torch.equal(average.weights[0], weights[-1])
    assert torch.equal(net.weight, weights[-1])
    assert largest_difference(run(how), run(recipe(ema=0.5))) > 1e-3  # a training ends with it


def test_an_average_of_almost_nothing_is_the_last_weights() -> None:
    assert largest_difference(run(recipe()), run(recipe(ema=1e-12))) < 1e-9


def test_a_step_says_how_long_it_waited_for_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by 3 s for every part of a batch and by 1 s for its gradients."""
    now = 0.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    net = nn.Linear(1, 1)
    how, seen = recipe(accumulate=2), []

    def slow() -> Iterator[Batch]:
        nonlocal now
        for batch in batches(2):
            now += 3
            yield batch

    def gradients(step: int, batch: Batch) -> Tensor:
        nonlocal now
        now += 1
        net(torch.ones(1)).sum().backward()
        return torch.zeros(1)

    loop.run(
        resume.new_state(net, how), how, gradients, lambda first: slow(), STEPS, folder=None,
        ranks=Ranks(), networks=lambda step: "one", on_step=seen.append,
    )  # fmt: skip
    assert [(step.wait_s, step.wait_share) for step in seen] == [(6.0, 0.75)] * STEPS
    assert {step.images_per_s for step in seen} == {1.0}


# --- a GPU that works while the host goes on -----------------------------------------------------


@pytest.mark.parametrize("weighting", ["per_student", "per_teacher", "off"])
@pytest.mark.parametrize("loss", ["kl", "dkd"])
def test_nothing_in_a_step_looks_at_a_value(
    weighting: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the device `meta` have shapes and no values. What fails with them, such as a
    selection by mask, is what makes the host wait for a GPU."""
    digits = load_recipe("digits")
    how = msgspec.structs.replace(
        digits, dropout=0.2, drop_connect=0.2, ema=0.99, **clipped(norm=1.0, value=1.0),
        distillation=msgspec.structs.replace(
            digits.distillation, smd_weighting=weighting, pair_loss=loss
        ),
    )  # fmt: skip
    meta = torch.device("meta")
    every = Augment(size=48, crop=0.5, flip=0.5, brightness=0.3, noise=0.05, mask=0.2)
    augmentation = Augmentation(every, Normalisation())
    pixels = torch.empty(8, 48, 48, 3, dtype=torch.uint8, device=meta)
    augmentation(pixels)  # the first batch copies the mean and deviation of the images
    net = Supernet(SPACE, 10).to(meta).train()
    state = resume.new_state(net, how)
    archs = [SPACE.max(), SPACE.min(), SPACE.min()]
    labels = torch.empty(8, dtype=torch.int64, device=meta)

    def copying(*arguments: object, **options: object) -> None:
        raise AssertionError("a value is copied to the device, which waits")

    monkeypatch.setattr(torch, "tensor", copying)
    images = sandwich.at_any_resolution(augmentation(pixels), "bilinear")
    losses = sandwich.step(net, archs, images, labels, how)
    optimizer.update(state.sgd, net, how, 0.1)
    assert state.average
    state.average.update(1)
    assert losses.shape == (3,)
    with pytest.raises(RuntimeError, match="meta"):
        losses.tolist()


def test_the_host_waits_for_the_results_of_a_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu"):
        own = getattr(Tensor, name)

        def counted(x: Tensor, *rest: object, name: str = name, own: object = own) -> object:
            asked[name] += 1
            return own(x, *rest)

        monkeypatch.setattr(Tensor, name, counted)
    run(recipe(accumulate=2, ema=0.9, **clipped(norm=1.0, value=1.0)))
    assert asked == {"tolist": STEPS}


def test_each_network_of_a_step_predicts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    own = distill.decouple
    monkeypatch.setattr(distill, "decouple", lambda *x: calls.append(x) or own(*x))
    images = sandwich.at_any_resolution(torch.randn(4, 3, 48, 48), "bilinear")
    archs = [SPACE.max(), SPACE.max(), SPACE.min(), SPACE.min()]
    sandwich.step(Supernet(SPACE, 10), archs, images, torch.arange(4), load_recipe("digits"))
    assert len(calls) == 4  # of 6 pairs


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_tf32_is_on_for_its_own_precision_only(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", False)
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    try:
        cuda.set_up(torch.device("cpu"), precision)
        assert (cudnn.benchmark, cudnn.allow_tf32) == (False, True)
        cuda.set_up(torch.device("cuda"), precision)
        assert cudnn.benchmark
        assert cudnn.allow_tf32 == (precision == "tf32")
        expected = "high" if precision == "tf32" else "highest"
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)


# --- what is evaluated on the way ----------------------------------------------------------------


def test_the_weights_that_are_evaluated_and_saved_are_the_average(tmp_path: Path) -> None:
    from ramnas_host.training import checkpoint
    from ramnas_host.training.evaluate import true_scores
    from ramnas_host.training.run_folder import BEST

    images = SplitSizes(train=64, selection=50, calibration=50)
    how = recipe(images=images, batch_size=16, evaluate_every=1, ema=0.5, random_subnets=3)
    dataset = load_dataset("digits", images)
    steps: list[loop.Step] = []
    net = train.train(SPACE, dataset, how, folder=tmp_path, on_step=steps.append)
    plain = train.train(SPACE, dataset, msgspec.structs.replace(how, ema=None))
    assert largest_difference(net, plain) > 1e-3
    scores = steps[-1].scores
    assert scores
    assert scores[train.N] == 50
    groups = train.evaluated(SPACE, how)
    assert groups == train.evaluated(SPACE, how)
    assert [len(groups[name]) for name in ("min", "max", "random")] == [1, 1, 3]
    for file in (train.LAST, BEST):
        saved = checkpoint.load(tmp_path / file).net
        for name, group in groups.items():
            found = true_scores(saved, group, dataset, "selection")
            mean = sum(one.top1 for one in found) / len(found)
            assert scores[f"top1_{name}"] == pytest.approx(mean)
    assert train.scores_text(scores).startswith("selection split, n 50: top-1 min ")
