"""Distillation: the losses between two networks (KL, DKD), and which networks teach which (SMD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The pair loss of Eq. 3: T^2 sum_c p_c (log p_c - log q_c), averaged over the batch.

    p and q are the softmax of the teacher's and the student's logits [n, classes], divided by the
    temperature T.
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

    TCKD is T^2 KL(teacher || student) over the pair (p_y, 1 - p_y), where y is the label. NCKD is
    T^2 KL(teacher || student) over the softmax of all classes but y. Logits are [n, classes] and
    labels [n]; the result is averaged over the batch. At T = 1, KL = TCKD + (1 - p_y) NCKD for
    every image. Log-sum-exp keeps the loss finite at any margin between logits.
    """
    parts = [decouple(_wide(logits) / temperature, labels) for logits in (student, teacher)]
    (student_target, student_others), (teacher_target, teacher_others) = parts
    target = _kl(teacher_target, student_target)  # TCKD of Eq. 5
    others = _kl(teacher_others, student_others)  # NCKD of Eq. 5
    return (alpha * target + beta * others) * temperature**2


def decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits into log (p_y, 1 - p_y), [n, 2], and the log softmax over the other classes.

    The second is [n, classes]. The label's own entry is set to 0 for student and teacher alike, so
    it adds nothing to their KL divergence.
    """
    hit = F.one_hot(labels, logits.shape[1]).bool()
    y = logits.masked_select(hit)
    others = logits.masked_fill(hit, -torch.inf)
    rest = others.logsumexp(1)
    two_way = F.log_softmax(torch.stack([y, rest], 1), dim=1)
    return two_way, (logits - rest[:, None]).masked_fill(hit, 0.0)


def _wide(logits: Tensor) -> Tensor:
    """Convert half precision to float32: at logits of 1,000 it cannot resolve small differences."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def teachers(student: int, count: int, weighting: str) -> list[tuple[int, float]]:
    """(teacher, weight) for each teacher of a student among `count` networks (Eq. 4).

    Networks are numbered from the largest, 0. With `per_student`, the default, a student's loss is
    the mean over its teachers, so every student weighs 1. With `per_teacher`, Eq. 3 to the letter,
    teacher i spreads a weight of 1 over its students. With `off`, only the max net teaches, which
    is in-place distillation (BigNAS).
    """
    if weighting == "off":
        return [(0, 1.0)]
    if weighting == "per_teacher":
        return [(i, 1 / (count - 1 - i)) for i in range(student)]
    return [(i, 1 / student) for i in range(student)]
