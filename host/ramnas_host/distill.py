"""The losses between networks: KL, DKD, and who teaches whom (subnets mutual distillation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMD_WEIGHTINGS = ("per_student", "per_teacher", "off")
PAIR_LOSSES = ("kl", "dkd")


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of logits [n, classes], mean over the batch (Eq. 3)."""
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return _kl(log_p, log_q) * temperature**2


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Decoupled knowledge distillation (Eq. 5): alpha * target part + beta * non-target part.

    Logits [n, classes], labels [n]; mean over the batch, each part times T^2. All in log space
    (log-sum-exp), so it stays finite at any logit margin.
    """
    parts = [decouple(logits / temperature, labels) for logits in (student, teacher)]
    (student_target, student_others), (teacher_target, teacher_others) = parts
    target = _kl(teacher_target, student_target)  # KL(c^T || c^S)
    others = _kl(teacher_others, student_others)  # KL(c_hat^T || c_hat^S)
    return (alpha * target + beta * others) * temperature**2


def decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits -> log (p_y, 1 - p_y) [n, 2], and log softmax over the other classes [n, classes].

    The label's own column of the second is 0 in student and teacher alike and adds nothing.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    hit = F.one_hot(labels, logits.shape[1]).bool()
    y = logits.masked_select(hit)
    others = logits.masked_fill(hit, -torch.inf)
    rest = others.logsumexp(1)
    two_way = F.log_softmax(torch.stack([y, rest], 1), dim=1)
    return two_way, (logits - rest[:, None]).masked_fill(hit, 0.0)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def teachers(student: int, count: int, weighting: str) -> list[tuple[int, float]]:
    """(teacher, weight) pairs of the `student`-th of `count` networks, largest (0) first.

    `per_student`: mean over a student's teachers, every student weighs 1 (the default);
    `per_teacher`: Eq. 3 literally, teacher i spreads weight 1 over its students;
    `off`: in-place distillation (BigNAS), only the max net teaches.
    """
    if weighting == "off":
        return [(0, 1.0)]
    if weighting == "per_teacher":
        return [(i, 1 / (count - 1 - i)) for i in range(student)]
    return [(i, 1 / student) for i in range(student)]
