"""Encodings -> predicted latency, energy or accuracy, by the family with the best Kendall tau.

START HERE. The family `cost` is ours (`cost_gp.py`). `gp`, `rbf`, `mlp` and `cart` are the paper's,
over the encodings `int`, `onehot` and `layer`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from ramnas_host.surrogates import families
from ramnas_host.surrogates.cost_gp import ChoiceGp, CostGp
from ramnas_host.surrogates.cost_prior import MixedGp
from ramnas_host.surrogates.costs import Costs, costs_of
from ramnas_host.surrogates.encodings import ENCODINGS
from ramnas_host.surrogates.robust_gp import SPREAD
from ramnas_host.surrogates.uniform_tau import ARCHS, expected_tau
from ramnas_models.cost_table import CostTable
from ramnas_models.errors import DataError
from ramnas_models.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_host.surrogates.encodings import Encoding

    Rows = NDArray[np.int64]  # encodings [n, slots], `Space.encode`
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

COST = "cost"
FAMILIES = (COST, *families.FAMILIES)
MIN_RECORDS = 20
MIN_OF_FAMILY = {COST: 8}  # the others need MIN_RECORDS: with fewer, cross-validation says little
FOLDS = 5
LEAST = 1e-100  # a positive target below this is an error, and its squared reciprocal may overflow


class Score(msgspec.Struct, frozen=True):
    """Agreement of predictions with the truth.

    Kendall tau, Spearman rho, and the mean absolute percentage error (0.01 is 1 %). For a surrogate
    they are those of the archs that it learnt from, each predicted without its fold. These archs
    are usually spread wide, so `tau_uniform` is the tau to expect over archs drawn uniformly from
    the space. It is None where no archs can be drawn.
    """

    tau: float
    rho: float
    mape: float
    tau_uniform: float | None = None

    @property
    def taus(self) -> str:
        """Both taus, in words."""
        uniform = self.tau_uniform
        return f"tau {self.tau:.3f}" + (
            "" if uniform is None else f" ({uniform:.3f} expected over uniform archs)"
        )


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted family, with its cross-validated score."""

    family: str
    log: bool
    score: Score
    held_out: Floats  # the cross-validated prediction of each target
    priors: tuple[Surrogate, ...]
    _predict: Callable[[Rows], tuple[Floats, Floats]]

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Encodings [n, slots] -> mean [n] and std [n] in the unit of the targets.

        std is the standard deviation of a new measurement: about 95 % of them are within 1.96 std
        of the mean. For our family it is what the process knows about each arch, and it is wide
        enough from 10 records on. For the others it is the cross-validated residual, the same for
        all archs. With `log` it belongs to the logarithm, and it is given in such a way that
        mean + 1.96 std is where 1.96 standard deviations of the logarithm end.
        """
        mean, std = self._predict(rows)
        if self.log:
            mean = np.exp(mean)
            std = mean * np.expm1(SPREAD * std) / SPREAD
        return mean, std


def fit(
    space: Space | Costs, rows: Rows, y: Floats, family: str, *, log: bool, encoding: str = "int",
    input_hw: tuple[int, int] | None = None, priors: Sequence[Surrogate] = (),
    floor_ms: float | None = None,
) -> Surrogate:  # fmt: skip
    """Fit one family on encodings [n, slots] and targets [n] (ms or mJ with `log`, or accuracies).

    `input_hw` is the input size of all networks, if it is not each arch's own resolution. `priors`
    are surrogates of the same target on other boards, from which the family `cost` starts. For
    networks that no space of ramnas describes, give their `Costs` in place of a space. `floor_ms`
    is the standard error in ms that the latencies of all archs share (`noise_floor.py`); without
    it, the family `cost` learns it from the targets, and no other family knows it.
    DataError for too few records, and for targets from which nothing can be learnt.
    """
    if priors and (family != COST or not log):
        raise DataError(
            "priors, other boards' surrogates, are only for latencies and energies, and "
            "only for the family cost"
        )
    if family not in FAMILIES:
        raise DataError(f"unknown family '{family}': known are {', '.join(FAMILIES)}")
    _check(rows, y, log, MIN_OF_FAMILY.get(family, MIN_RECORDS))
    target = np.log(y) if log else y
    order = np.random.default_rng(0).permutation(len(y))
    folds = np.array_split(order, FOLDS)
    costs = space if isinstance(space, Costs) else space_costs(space, input_hw)
    predict: Callable[[Rows], tuple[Floats, Floats]]
    # On matrices this small several threads mostly wait for each other. With two of them the MLP of
    # 500 records took 14 s, and with one 0.4 s.
    with threadpool_limits(1, user_api="blas"):
        if family == COST:
            others = [_Logarithm(prior) for prior in priors]
            process = (
                ChoiceGp(costs) if not log
                else MixedGp(costs, others, floor_ms) if others
                else CostGp(costs, floor_ms=floor_ms)
            ).fit(rows, target)  # fmt: skip
            held_out, predict = process.held_out(folds), process.predict
        elif isinstance(space, Costs):
            raise DataError(
                f"a table of costs is enough for the family {COST}, but not for {family}"
            )
        else:
            encode = _encoding(space, encoding, input_hw)
            mean, held_out = families.cross_validated(family, encode(rows), target, folds)
            predict = _predictor(encode, mean, float(np.std(held_out - target)))
    predicted = np.exp(held_out) if log else held_out
    drawn = _uniform(space)
    found = msgspec.structs.replace(
        score(y, predicted),
        tau_uniform=None if drawn is None else expected_tau(predict(drawn)[0], held_out, target),
    )
    return Surrogate(family, log, found, predicted, tuple(priors), predict)


def fit_best(
    space: Space, rows: Rows, y: Floats, *, log: bool, encodings: Sequence[str] = ("int",),
    input_hw: tuple[int, int] | None = None, priors: Sequence[Surrogate] = (),
    floor_ms: float | None = None,
) -> tuple[Surrogate, dict[str, Score]]:  # fmt: skip
    """Fit all families; return the one with the best cross-validated tau, and every score.

    Each family takes the best of `encodings`. With `priors`, other boards' surrogates, only the
    family `cost` is fitted, because it needs fewer records than it would take to tell the families
    apart.
    """
    fitted = functools.partial(
        fit, space, rows, y, log=log, input_hw=input_hw, priors=priors, floor_ms=floor_ms
    )
    if priors:
        ours = fitted(COST)
        return ours, {COST: ours.score}
    _check(rows, y, log, MIN_RECORDS)
    best: dict[str, Surrogate] = {}
    for family in FAMILIES:
        asked = encodings[:1] if family == COST else encodings
        tried = [fitted(family, encoding=encoding) for encoding in asked]
        best[family] = max(tried, key=_tau)
    return max(best.values(), key=_tau), {family: s.score for family, s in best.items()}


def score(truth: Floats, predicted: Floats) -> Score:
    """How well `predicted` [n] agrees with `truth` [n].

    Predictions that are all equal put nothing in order, so their tau and rho are 0. MAPE leaves out
    truths that are exactly 0, of which no error is a percentage; it is 0 if all are.
    """
    from scipy.stats import kendalltau, spearmanr

    ordered = np.ptp(truth) > 0 and np.ptp(predicted) > 0
    some = truth != 0
    errors = np.abs(predicted[some] / truth[some] - 1)
    return Score(
        tau=float(kendalltau(truth, predicted).statistic) if ordered else 0.0,
        rho=float(spearmanr(truth, predicted).statistic) if ordered else 0.0,
        mape=float(errors.mean()) if some.any() else 0.0,
    )


def _uniform(space: Space | Costs) -> Rows | None:
    """Encodings of archs drawn uniformly; None for costs with fewer than two archs listed."""
    rng = np.random.default_rng(0)
    if not isinstance(space, Costs):
        return space.sample_rows(ARCHS, rng)
    if space.listed is None or len(space.listed) < 2:  # one arch has no order
        return None
    return rng.permutation(space.listed)[:ARCHS]


@functools.lru_cache(maxsize=8)
def cost_table(space: Space, input_hw: tuple[int, int] | None = None) -> CostTable:
    """The cost table of a space. This process keeps it, so that each part is counted once."""
    return CostTable(space, input_hw=input_hw)


def space_costs(space: Space, input_hw: tuple[int, int] | None = None) -> Costs:
    """What the family `cost` needs to know of a space."""
    return costs_of(cost_table(space, input_hw))


@functools.lru_cache(maxsize=16)
def _encoding(space: Space, name: str, input_hw: tuple[int, int] | None) -> Encoding:
    if name not in ENCODINGS:
        raise DataError(f"unknown encoding '{name}': known are {', '.join(ENCODINGS)}")
    return ENCODINGS[name](space, cost_table(space, input_hw))


@dataclass(frozen=True)
class _Logarithm:
    """Predicts the logarithm of what a surrogate predicts."""

    surrogate: Surrogate

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        return self.surrogate._predict(rows)


def _tau(surrogate: Surrogate) -> float:
    return surrogate.score.tau


def _predictor(
    encode: Encoding, mean: Callable[[Floats], Floats], std: float
) -> Callable[[Rows], tuple[Floats, Floats]]:
    return lambda rows: (mean(encode(rows)), np.full(len(rows), std))


def _check(rows: Rows, y: Floats, log: bool, needed: int) -> None:
    if np.ndim(rows) != 2 or np.shape(y) != (len(rows),):
        raise DataError(
            f"encodings must be [n, slots] with targets [n]: they are {list(np.shape(rows))} and "
            f"{list(np.shape(y))}"
        )
    if len(rows) < needed:
        raise DataError(f"a surrogate needs {needed} records or more, and there are {len(rows)}")
    if not np.isfinite(y).all() or (log and (y < LEAST).any()):
        raise DataError("a surrogate needs finite targets, and latencies and energies above 0")
    if np.ptp(y) == 0:
        raise DataError(f"all {len(y)} targets are {y[0]:g}, so there is nothing to learn")
