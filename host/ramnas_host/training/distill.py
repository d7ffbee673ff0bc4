"""The losses between networks: KL, DKD, and who teaches whom (subnets mutual distillation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The pair loss of Eq. 3: T^2 sum_c p_c (log p_c - log q_c), mean over the batch.

    p and q: softmax of the teacher's and the student's logits [n, classes] over T.
    """
    log_p, log_q = (F.log_softmax(_wide(x) / temperature, dim=1) for x in (teacher, student))
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
    """Decoupled knowledge distillation (Eq. 5): alpha * TCKD + beta * NCKD.

    TCKD = T^2 KL of (p_y, 1 - p_y), teacher from student; NCKD = T^2 KL of the softmax over the
    classes other than the label y. Logits [n, classes], labels [n]; mean over the batch. At T = 1,
    KL = TCKD + (1 - p_y) NCKD image by image. Log-sum-exp keeps it finite at any logit margin.
    """
    parts = [decouple(_wide(logits) / temperature, labels) for logits in (student, teacher)]
    (student_target, student_others), (teacher_target, teacher_others) = parts
    target = _kl(teacher_target, student_target)  # TCKD of Eq. 5
    others = _kl(teacher_others, student_others)  # NCKD of Eq. 5
    return (alpha * target + beta * others) * temperature**2


def decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits -> log (p_y, 1 - p_y) [n, 2], and log softmax over the other classes [n, classes].

    The label's own column of the second is 0 in student and teacher alike and adds nothing.
    """
    hit = F.one_hot(labels, logits.shape[1]).bool()
    y = logits.masked_select(hit)
    others = logits.masked_fill(hit, -torch.inf)
    rest = others.logsumexp(1)
    two_way = F.log_softmax(torch.stack([y, rest], 1), dim=1)
    return two_way, (logits - rest[:, None]).masked_fill(hit, 0.0)


def _wide(logits: Tensor) -> Tensor:
    """Half precision -> float32: a margin of 1,000 has no bits left for what matters in it."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def teachers(student: int, count: int, weighting: str) -> list[tuple[int, float]]:
    """(teacher, weight) pairs of the `student`-th of `count` networks, largest (0) first (Eq. 4).

    `per_student`: mean over a student's teachers, every student weighs 1 (the default);
    `per_teacher`: Eq. 3 literally, teacher i spreads weight 1 over its students;
    `off`: in-place distillation (BigNAS), only the max net teaches.
    """
    if weighting == "off":
        return [(0, 1.0)]
    if weighting == "per_teacher":
        return [(i, 1 / (count - 1 - i)) for i in range(student)]
    return [(i, 1 / student) for i in range(student)]
