"""The last step of the demo: the edge runtime within three latency budgets on the test digits.

The models of the bundle are measured first, on the machine as it is now, and run right after
that. So a budget holds on a busy machine too: what it is compared with was measured beside the same
other work.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.combinations import Combination, staircase
from ramnas_host.cli import progress
from ramnas_models.accuracy import share
from ramnas_models.bundle import Model, open_bundle
from ramnas_models.errors import RamnasError

BUDGETS = 3
ROOM = 2.0  # a budget is at most this times the p90 of the model that it aims at
# A call of 0.05 ms takes up to a third longer between two images than in a row, as it is measured.
LEAST_ROOM = 1.4
REPEAT = "4"  # passes over the test images in a run: its first 25 calls are slow, 10 % of one pass
TRIES = 4  # times that models are measured and run, until all budgets hold
FRAME = "8x8"  # the size of a digit: whole calls are measured on such frames
_ENGINE = ("--engine", "onnxruntime-cpu")

Frames = list[dict[str, Any]]  # what the runtime says about each frame, and at the end about all


@dataclass(frozen=True)
class Aim:
    """A model of the bundle, its p90 (ms) on this machine now, and the budget that picks it."""

    model: Model
    p90_ms: float
    budget_ms: float


def run_budgets(out: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Measure the models of `out`/bundle and run them at three budgets, by turns, `rounds` times.

    A change of load between the two can break a budget. Then both are done again, at most TRIES
    times, and the last result is returned as it is.
    """
    picks: list[dict[str, Any]] = []
    for number in range(TRIES):
        aims = aims_of(_measured(out))
        runs = []
        with progress.bar("rounds at three budgets", rounds) as update:
            for done in range(rounds):
                runs.append([_run(out, aim.budget_ms) for aim in aims])
                update(done + 1)
        picks = [_pick([frames[i] for frames in runs]) for i in range(len(aims))]
        over = [pick for pick in picks if not pick["within_budget"]]
        if not over or number + 1 == TRIES:
            break
        print(
            f"{over[0]['model']} now takes {over[0]['p90_ms']:.3f} ms and took "
            f"{over[0]['expected_p90_ms']:.3f} ms a moment ago: the load of this machine has "
            "changed, so the models are measured again",
            flush=True,
        )
    _print(picks)
    return picks


def aims_of(measured: Sequence[tuple[Model, float]]) -> list[Aim]:
    """Models with their p90 (ms) -> three to aim at, fast to slow, each with its budget.

    A budget picks the most accurate model that fits, so an aim needs room up to the next better
    one: those with less than LEAST_ROOM are left out, and of the others those with the most are
    taken. If they are fewer than three, the most accurate model gets wider budgets too.
    """
    models = [Combination((model,), _top1(model)) for model, _ in measured]
    stairs = [step.models[0] for step in staircase(models, [p90_ms for _, p90_ms in measured])]
    known_ms = {model.sha256: p90_ms for model, p90_ms in measured}
    costs = [known_ms[model.sha256] for model in stairs]
    aims = [
        Aim(model, p90_ms, min(ROOM * p90_ms, math.nextafter(next_ms, 0)))
        for model, p90_ms, next_ms in zip(stairs, costs, [*costs[1:], math.inf], strict=True)
        if next_ms >= LEAST_ROOM * p90_ms
    ]
    best = aims[-1]
    most_room = sorted(aims[:-1], key=lambda aim: aim.budget_ms / aim.p90_ms, reverse=True)
    chosen = sorted([best, *most_room[: BUDGETS - 1]], key=lambda aim: aim.p90_ms)
    while len(chosen) < BUDGETS:
        chosen.append(Aim(best.model, best.p90_ms, ROOM * chosen[-1].budget_ms))
    return chosen


def _top1(model: Model) -> float:
    return model.accuracy.value if model.accuracy else 0.0


def _measured(out: Path) -> list[tuple[Model, float]]:
    """The bundle's models with the p90 (ms) that `ramnas-edge calibrate` measures now."""
    said = _edge(out, "calibrate", "--frame", FRAME, *_ENGINE)
    written = (out / "cache/ramnas/latencies").glob("*.json")  # one file per device class
    newest = max(written, key=lambda path: path.stat().st_mtime_ns)
    p90_ms = {latency.sha256: latency.p90_ms for latency in latency_file.read(newest)}
    models = open_bundle(out / "bundle").front("classification").models
    known = [(model, p90_ms[model.sha256]) for model in models if model.sha256 in p90_ms]
    if len(known) < BUDGETS:
        raise RamnasError(f"only {len(known)} models of the bundle could be measured:\n{said}")
    return known


def _run(out: Path, budget_ms: float) -> Frames:
    said = _edge(
        out, "run", "--latency-budget-ms", repr(budget_ms), "--source", str(out / "test"),
        *_ENGINE, "--repeat", REPEAT, "--json",
    )  # fmt: skip
    return [json.loads(line) for line in said.splitlines()]


def _edge(out: Path, verb: str, *options: str) -> str:
    """Run a verb of ramnas-edge on the bundle; what it prints. It remembers in `out`/cache."""
    command = [sys.executable, "-m", "ramnas_edge", verb, "--bundle", str(out / "bundle"), *options]
    cache = {"XDG_CACHE_HOME": str((out / "cache").resolve())}
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **cache})
    if ran.returncode != 0:
        raise RamnasError(f"{' '.join(command)} failed: {ran.stderr.strip()}")
    return ran.stdout


def _pick(runs: list[Frames]) -> dict[str, Any]:
    """The runs at one budget together: the p90 of the median run, the accuracy over all runs."""
    frames = [frame for lines in runs for frame in lines[:-1]]
    # the same images come again and again, and count once
    hits = {f["image"]: Path(f["image"]).parent.name == f["labels"]["name"] for f in frames}
    top1 = share("top1", statistics.mean(hits.values()), "report", len(hits))
    summary = runs[0][-1]["summary"]
    p90_ms = statistics.median(lines[-1]["summary"]["p90_ms"] for lines in runs)
    return {
        **{name: summary[name] for name in ("model", "latency_budget_ms", "expected_p90_ms")},
        "frames": len(frames),
        "p90_ms": p90_ms,
        "top1": top1.value,
        "top1_n": top1.n,
        "top1_interval": top1.interval,
        "within_budget": p90_ms <= summary["latency_budget_ms"],
    }


def _print(picks: list[dict[str, Any]]) -> None:
    print(
        f"{'budget ms':>9}  {'model':12}  p90 ms expected  measured  "
        f"top-1 on the report split, n {picks[0]['top1_n']}, 95 % interval"
    )
    for pick in picks:
        low, high = (100 * end for end in pick["top1_interval"])
        print(
            f"{pick['latency_budget_ms']:9.3f}  {pick['model']:12}  {pick['expected_p90_ms']:15.3f}"
            f"  {pick['p90_ms']:8.3f}  {pick['top1']:6.1%}"
            f"  {low:.1f} to {high:.1f} %{'' if pick['within_budget'] else '  over the budget'}"
        )
