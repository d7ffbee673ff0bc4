"""Distillation: the losses between two networks (KL, DKD), and which networks teach which (SMD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Distillation

# what a network predicts for a batch: the logarithms of one or two distributions, each [n, k]
Prediction = tuple[Tensor, ...]


def predict(logits: Tensor, labels: Tensor, rule: Distillation) -> Prediction:
    """The distributions that `pair_loss` compares, from logits [n, classes] and labels [n].

    They are worked out once for each network, however many networks it teaches or learns from.
    """
    scaled = _wide(logits) / rule.temperature
    if rule.pair_loss == "kl":
        return (F.log_softmax(scaled, dim=1),)
    return decouple(scaled, labels)


def pair_loss(student: Prediction, teacher: Prediction, rule: Distillation) -> Tensor:
    """The loss of one student against one teacher, averaged over the batch.

    With `kl` it is that of Eq. 3: T^2 KL(teacher || student), where T is the temperature.

    With `dkd`, decoupled knowledge distillation (Eq. 5), it is alpha * TCKD + beta * NCKD. TCKD is
    T^2 KL(teacher || student) over the pair (p_y, 1 - p_y), where y is the label. NCKD is the same
    over the softmax of all classes but y. At T = 1, KL = TCKD + (1 - p_y) NCKD for every image.
    """
    weights = (1.0,) if rule.pair_loss == "kl" else (rule.alpha, rule.beta)
    parts = [weight * _kl(p, q) for weight, p, q in zip(weights, teacher, student, strict=True)]
    return torch.stack(parts).sum() * rule.temperature**2


def decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits into log (p_y, 1 - p_y), [n, 2], and the log softmax over the other classes.

    The second is [n, classes]. The label's own entry is set to 0 for student and teacher alike, so
    it adds nothing to their KL divergence. Log-sum-exp keeps all finite at any margin between
    logits. A selection by mask would make the host wait for the GPU; gather and scatter do not.
    """
    at = labels[:, None]
    rest = logits.scatter(1, at, -torch.inf).logsumexp(1, keepdim=True)
    two_way = F.log_softmax(torch.cat([logits.gather(1, at), rest], 1), dim=1)
    return two_way, (logits - rest).scatter(1, at, 0.0)


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
