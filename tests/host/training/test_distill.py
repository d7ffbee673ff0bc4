"""The losses of distillation, against torch's own and against the paper's formulas."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Distillation
from ramnas_host.training.distill import decouple, pair_loss, predict, teachers


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """The pair loss `kl` of logits; it takes no labels."""
    return _loss(student, teacher, torch.zeros(len(student), dtype=torch.long), "kl")


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """The pair loss `dkd` of logits."""
    return _loss(student, teacher, labels, "dkd", alpha, beta, temperature)


def _loss(
    student: Tensor, teacher: Tensor, labels: Tensor, loss: str, alpha: float = 1.0,
    beta: float = 0.5, temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    rule = Distillation("off", loss, alpha, beta, temperature)
    return pair_loss(predict(student, labels, rule), predict(teacher, labels, rule), rule)


def logits(scale: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        scale * torch.randn(16, 10, generator=generator, dtype=dtype) for _ in range(2)
    )
    return student.requires_grad_(), teacher, torch.arange(16) % 10


def test_kl_equals_torchs_own() -> None:
    student, teacher, _ = logits(3.0)
    expected = F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(kl(student, teacher), expected)


def test_kl_is_target_part_plus_weighted_non_target_part() -> None:
    """KL = TCKD + (1 - p_t) NCKD at T = 1, for every image."""
    student, teacher, labels = logits(3.0)
    (s_two, s_rest), (t_two, t_rest) = (decouple(x, labels) for x in (student, teacher))
    target = (t_two.exp() * (t_two - s_two)).sum(1)
    others = (t_rest.exp() * (t_rest - s_rest)).sum(1)
    weight = 1 - F.softmax(teacher, 1)[torch.arange(16), labels]
    assert abs((target + weight * others).mean() - kl(student, teacher)) < 1e-6


def test_dkd_equals_the_formula_written_out() -> None:
    student, teacher, labels = logits(2.0)
    total = torch.zeros((), dtype=torch.float64)
    for s, t, y in zip(student / 4, teacher / 4, labels.tolist(), strict=True):
        p_s, p_t = F.softmax(s, 0), F.softmax(t, 0)
        pair_s, pair_t = (torch.stack([p[y], 1 - p[y]]) for p in (p_s, p_t))
        keep = torch.arange(10) != y
        hat_s, hat_t = (p[keep] / (1 - p[y]) for p in (p_s, p_t))
        target = (pair_t * (pair_t / pair_s).log()).sum()
        others = (hat_t * (hat_t / hat_s).log()).sum()
        total += (0.7 * target + 1.3 * others) * 16
    found = dkd(student, teacher, labels, alpha=0.7, beta=1.3, temperature=4.0)
    torch.testing.assert_close(found, total / 16)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_stay_finite_at_a_margin_of_1000(
    dtype: torch.dtype, autocast: bool
) -> None:
    student = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 1000.0, 0.0]], dtype=dtype)
    student.requires_grad_()
    teacher = torch.tensor([[-1000.0, 0.0, 1000.0], [1000.0, 0.0, 0.0]], dtype=dtype)
    labels = torch.tensor([0, 1])
    for pair in (kl, lambda s, t: dkd(s, t, labels)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = pair(student, teacher)
        student.grad = None
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_float32_follows_a_float64_reference_written_with_probabilities(scale: float) -> None:
    """Both value and gradient. The reference is Eq. 5 written with softmax and division."""
    student, teacher, labels = logits(scale)
    hit = F.one_hot(labels, 10).bool()

    def reference(s: Tensor) -> Tensor:
        p, q = F.softmax(teacher, 1), F.softmax(s, 1)
        p_y, q_y = p[hit], q[hit]
        rest_p, rest_q = (x.masked_fill(hit, 0).sum(1) for x in (p, q))
        target = torch.xlogy(p_y, p_y / q_y) + torch.xlogy(rest_p, rest_p / rest_q)
        hat_p, hat_q = (F.softmax(x[~hit].view(16, 9), 1) for x in (teacher, s))
        return (target + 0.5 * torch.xlogy(hat_p, hat_p / hat_q).sum(1)).mean()

    narrow = student.detach().float().requires_grad_()
    found = dkd(narrow, teacher.float(), labels)
    found.backward()
    assert narrow.grad is not None
    expected = reference(student)
    if not torch.isfinite(expected):  # its probabilities underflow even in float64
        expected = dkd(student, teacher, labels)
    expected.backward()
    assert student.grad is not None
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(narrow.grad.double(), student.grad, rtol=1e-4, atol=1e-6)


def test_equal_logits_cost_nothing() -> None:
    _, teacher, labels = logits(3.0)
    assert kl(teacher, teacher) == 0
    assert dkd(teacher, teacher, labels) == 0


def test_each_weighting_has_its_teachers_and_weights() -> None:
    def table(weighting: str) -> list[list[tuple[int, float]]]:
        return [teachers(student, 4, weighting) for student in (1, 2, 3)]

    third = pytest.approx(1 / 3)
    assert table("per_student") == [[(0, 1)], [(0, 0.5), (1, 0.5)], [(i, third) for i in range(3)]]
    assert table("per_teacher") == [
        [(0, third)], [(0, third), (1, 0.5)], [(0, third), (1, 0.5), (2, 1)],
    ]  # fmt: skip
    assert table("off") == [[(0, 1)]] * 3
