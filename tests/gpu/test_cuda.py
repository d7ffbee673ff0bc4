"""Training, evaluation and the CUDA provider on a GPU give what they give on a CPU.

What can run on a CPU runs there too, against itself, so that these tests stay in working order.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_edge.engines import backends
from ramnas_edge.engines.backends import Options
from ramnas_host.config import Recipe, SplitSizes, load_finetuning, load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.training import checkpoint, cuda, optimizer, resume, sandwich, train
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import recalibrated_subnet, true_scores
from ramnas_host.training.run_folder import STATE
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.host.cli.commands import ramnas
from tests.models.randomised import randomise

SPACE = load_space("micro")
IMAGES = SplitSizes(train=64, selection=100, calibration=50)
CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return on(request.param)


@pytest.fixture
def gpu() -> torch.device:
    return on("cuda")


def on(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch can use")
    return torch.device(name)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", IMAGES)


def short(**changes: object) -> Recipe:
    """Four steps of 16 images, at a rate so low that rounding errors do not grow."""
    recipe = load_recipe("digits")
    rate = msgspec.structs.replace(recipe.optimizer, lr=0.02)
    values = {"images": IMAGES, "epochs": 1, "batch_size": 16, "save_every": 2, "optimizer": rate}
    return msgspec.structs.replace(recipe, **{**values, **changes})


class Stopped(Exception):
    """Ends a training from its `on_step`."""


def losses_of(
    digits: Dataset, recipe: Recipe, device: torch.device, folder: Path | None = None, stop: int = 0
) -> list[tuple[float, ...]]:
    """The losses of each step of a training, which ends by an error after step `stop`."""
    losses = []

    def on_step(step: train.Step) -> None:
        losses.append(step.losses)
        if step.number == stop:
            raise Stopped

    train.train(SPACE, digits, recipe, folder=folder, ranks=Ranks(device=device), on_step=on_step)
    return losses


def test_a_training_has_the_losses_that_it_has_on_the_cpu(
    digits: Dataset, device: torch.device
) -> None:
    found, expected = (losses_of(digits, short(), where) for where in (device, CPU))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def largest(x: torch.Tensor) -> float:
    return float(x.detach().abs().max())


def goes_on(digits: Dataset, recipe: Recipe, device: torch.device, folder: Path) -> None:
    """A training that ended after step 3 goes on from its state, which is that of step 2."""
    whole = losses_of(digits, recipe, device, folder / "whole")
    with pytest.raises(Stopped):
        losses_of(digits, recipe, device, folder / "stopped", stop=3)
    assert (folder / "stopped" / STATE).exists()
    rest = losses_of(digits, recipe, device, folder / "stopped")
    assert len(whole) == 4 and len(rest) == 2
    tolerance = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}[recipe.precision]
    np.testing.assert_allclose(rest, whole[2:], rtol=tolerance)
    nets = [checkpoint.load(folder / name / train.LAST).net for name in ("whole", "stopped")]
    for one, other in zip(nets[0].parameters(), nets[1].parameters()):
        assert largest(one - other) <= tolerance * max(1.0, largest(one))


def test_a_stopped_training_goes_on(digits: Dataset, device: torch.device, tmp_path: Path) -> None:
    goes_on(digits, short(), device, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_training_in_half_precision_goes_on_on_a_gpu(
    digits: Dataset, gpu: torch.device, tmp_path: Path, precision: str
) -> None:
    """The scale of the loss (fp16) is part of the state, and augmentation runs on the GPU too."""
    augment = msgspec.structs.replace(short().augment, policy="randaugment", flip=0.5, noise=0.05)
    goes_on(digits, short(precision=precision, augment=augment), gpu, tmp_path)


@pytest.mark.gpu
def test_an_overflow_in_fp16_halves_the_scale_of_the_loss_and_changes_no_weight(
    gpu: torch.device,
) -> None:
    recipe = short(precision="fp16")
    net = Supernet(SPACE, 10).to(gpu).train()
    state = resume.new_state(net, recipe)
    assert state.scaler is not None
    before = {key: value.clone() for key, value in net.state_dict().items()}
    scale = state.scaler.get_scale()
    images = torch.randn(16, 3, 48, 48, device=gpu)
    labels = torch.arange(16, device=gpu) % 10
    archs = sandwich.draw(SPACE, net, np.random.default_rng(0))
    at = sandwich.at_any_resolution(images, "bilinear")
    sandwich.step(net, archs, at, labels, recipe, state.scaler)
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(torch.inf)
    optimizer.update(state.sgd, net, recipe, 0.1, state.scaler)
    assert state.scaler.get_scale() == scale / 2
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["kl", "dkd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_does_not_wait_for_the_gpu(gpu: torch.device, loss: str, precision: str) -> None:
    """PyTorch raises an error at every call that would wait."""
    how = msgspec.structs.replace(load_recipe("digits").distillation, pair_loss=loss)
    recipe = short(distillation=how, precision=precision, dropout=0.2, drop_connect=0.2)
    cuda.set_up(gpu, precision)
    net = Supernet(SPACE, 10).to(gpu).train()
    scaler = torch.amp.GradScaler("cuda") if precision == "fp16" else None
    images = torch.randn(16, 3, 48, 48, device=gpu)
    labels = torch.arange(16, device=gpu) % 10
    archs = sandwich.draw(SPACE, net, np.random.default_rng(0))

    def step() -> None:
        at = sandwich.at_any_resolution(images, "bilinear")
        sandwich.step(net, archs, at, labels, recipe, scaler)

    step()  # the first one also chooses kernels and makes the scaler's tensor
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def randomised(device: torch.device) -> Supernet:
    net = Supernet(SPACE, 10)
    randomise(net)
    return net.to(device)


def test_archs_have_the_accuracy_that_they_have_on_the_cpu(
    digits: Dataset, device: torch.device
) -> None:
    """Of 100 images, two may change sides: their two best classes are too close to each other."""
    rng = np.random.default_rng(0)
    archs = [SPACE.min(), SPACE.max(), SPACE.sample(rng)]
    found, expected = (
        true_scores(randomised(where), archs, digits, "selection") for where in (device, CPU)
    )
    for ours, reference in zip(found, expected):
        assert ours.n == reference.n == 100
        assert ours.top1 == pytest.approx(reference.top1, abs=0.021)
        assert ours.top5 == pytest.approx(reference.top5, abs=0.021)


def test_recalibrated_statistics_are_those_of_the_cpu(
    digits: Dataset, device: torch.device
) -> None:
    for arch in (SPACE.min(), SPACE.max()):
        found, expected = (
            recalibrated_subnet(randomised(where), arch, digits.calibration).state_dict()
            for where in (device, CPU)
        )
        for key, value in expected.items():
            if key.endswith(("running_mean", "running_var")):
                error = largest(found[key].cpu() - value)
                assert error <= 1e-3 * max(1.0, largest(value)), key


def test_every_verb_with_the_option_runs_its_networks_on_that_device(
    device: torch.device, tmp_path: Path
) -> None:
    """From the training to the bundle. compare-fronts, which measures boards, is left out."""
    pytest.importorskip("pymoo")
    recipe, tuning = tmp_path / "recipe.yaml", tmp_path / "tuning.yaml"
    recipe.write_bytes(msgspec.yaml.encode(short()))
    inherited = load_finetuning("inherited")
    few = {"epochs": 1, "warm_up_epochs": 0, "batch_size": 32, "precision": "fp32"}
    tuning.write_bytes(msgspec.yaml.encode(msgspec.structs.replace(inherited, **few)))
    assert ramnas("data", "--out", tmp_path / "digits").returncode == 0
    trained = tmp_path / "train" / train.LAST
    weights = ["--supernet", trained]
    front, verified = tmp_path / "front.json", tmp_path / "verified.json"
    evaluated, store = tmp_path / "evaluated.json", tmp_path / "records.sqlite"
    small = ["--population", 20, "--parents", 10, "--generations", 2, "--infill-rounds", 1]
    one = ["--arch", "min"]
    commands = [
        ["train", "--recipe", recipe, "--out", trained.parent],
        ["evaluate", *weights, "--random", 0, "--out", evaluated],
        ["finetune", *weights, "--task", "classification", *one, "--recipe", tuning,
         "--out", tmp_path / "tuned"],
        ["search", *weights, "--objectives", "top1,macs", *small, "--accuracy-samples", 20,
         "--candidates", 3, "--out", front],
        ["verify", *weights, "--front", front, "--store", store, "--out", verified],
        ["bundle", *weights, "--front", verified, "--out", tmp_path / "bundle"],
        ["export", "--weights", trained, *one, "--calibration", tmp_path / "digits",
         "-o", tmp_path / "exported"],
    ]  # fmt: skip
    for command in commands:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        ran = ramnas(*map(str, command), "--device", device.type)
        assert ran.returncode == 0, (command, ran.stderr)
        if device.type == "cuda":
            assert torch.cuda.max_memory_allocated() > before, f"{command[0]} did not use the GPU"
    again = tmp_path / "again.json"
    ramnas("evaluate", *weights, "--random", "0", "--out", again, "--device", "cpu")
    found, expected = (msgspec.json.decode(file.read_bytes()) for file in (evaluated, again))
    for ours, reference in zip(found["archs"], expected["archs"]):
        assert ours["top1"] == pytest.approx(reference["top1"], abs=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("image_input", [False, True])
def test_a_call_of_the_cuda_provider_in_stages_gives_the_outputs_of_the_cpu(
    precision: str, image_input: bool
) -> None:
    try:
        backends.probe("onnxruntime-cuda", Options(precision))
    except BackendError as error:
        pytest.skip(str(error))
    model = onnx_graph.build(plan(SPACE, SPACE.max(), num_classes=10), image_input=image_input)
    rng, (height, width) = np.random.default_rng(0), plan(SPACE, SPACE.max()).input_hw
    image = (
        rng.integers(0, 256, (1, height, width, 3), np.uint8)
        if image_input
        else rng.standard_normal((1, 3, height, width), np.float32)
    )
    data, feeds = model.SerializeToString(), {"image": image}
    reference = backends.load("onnxruntime-cpu").open(data, Options()).infer(feeds)[0]
    session = backends.load("onnxruntime-cuda").open(data, Options(precision))
    staged, stages = session.infer_staged(feeds, time.perf_counter_ns)
    tolerance = {"fp32": 1e-4, "tf32": 1e-2}[precision] * np.abs(reference).max()
    for outputs in (session.infer(feeds), staged):
        assert np.abs(outputs[0] - reference).max() <= tolerance
    assert min(stages.copy_in_ns, stages.run_ns, stages.copy_out_ns) > 0
    session.close()
