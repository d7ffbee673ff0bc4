"""The main line end to end on real digits: each step is a verb with files between them."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from ramnas_edge.measuring.store import Store
from ramnas_host.cli import progress
from ramnas_host.search import front as fronts
from ramnas_host.search.front import ObjectiveValue
from ramnas_host.search.front_bundle import choose
from ramnas_host.search.objectives import TOP1
from ramnas_models.errors import DataError, RamnasError
from ramnas_models.files import make_folder, write_file

ROOM = 1.15  # a budget is this times the measured p90 of a model, but below that of the next aim
ROUNDS = 10  # of runs at each budget
REPEAT = "4"  # times over the test images in a run: its first 25 calls are slow, 10 % of 250


@dataclass(frozen=True)
class DemoStep:
    """One verb of the main line; done when its arguments are on record in steps.json."""

    name: str
    argv: tuple[str, ...]


def add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], call: Callable[[list[str]], None]
) -> None:
    """Add this verb to the command line; `call` runs another verb."""
    demo = verbs.add_parser("demo", help="the whole main line, small, on real digits")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--fresh", action="store_true", help="start over")
    demo.set_defaults(call=lambda args: run(args.out, call, fresh=args.fresh))


def run(out: Path, call: Callable[[list[str]], None], *, fresh: bool = False) -> None:
    """Run, or continue, the demo in folder `out`; prints where everything is."""
    started = out / "steps.json"
    if fresh and out.exists():
        if not started.exists():
            raise DataError(f"{out} was not made by the demo (no steps.json), it is left as it is")
        shutil.rmtree(out)
    make_folder(out)
    done: dict[str, Any] = json.loads(started.read_bytes()) if started.exists() else {}
    redo = False
    for step in _steps(out):
        known = done.get(step.name, {})
        redo = redo or known.get("argv") != list(step.argv)
        if not redo:
            print(f"== {step.name}: done before in {known['seconds']:.0f} s")
            continue
        print(f"== {step.name}\n$ ramnas {' '.join(step.argv)}", flush=True)
        start = time.monotonic()
        call(list(step.argv))
        done[step.name] = {"argv": step.argv, "seconds": round(time.monotonic() - start, 1)}
        write_file(started, json.dumps(done, indent=1).encode())
    print("== run")
    start = time.monotonic()
    picks = _run_budgets(out)
    seconds = {name: entry["seconds"] for name, entry in done.items()}
    seconds["run"] = round(time.monotonic() - start, 1)
    write_file(out / "summary.json", json.dumps(_summary(out, picks, seconds), indent=1).encode())
    print(
        f"\nfront: {out / 'pareto.png'}\nbundle: {out / 'bundle'}\n"
        f"records: {out / 'records.sqlite'}\nsummary: {out / 'summary.json'}\n"
        f"{sum(seconds.values()):.0f} s in all"
    )


def _steps(out: Path) -> list[DemoStep]:
    train, store = str(out / "train"), str(out / "records.sqlite")
    supernet = str(out / "train/supernet.safetensors")
    found, verified = str(out / "front.json"), str(out / "verified.json")
    test = str(out / "test")
    frame = "8x8"  # the size of a digit: whole runtime calls are timed on such frames
    return [
        DemoStep("train", ("train", "--space", "micro", "--recipe", "digits", "--out", train)),
        DemoStep("evaluate", (
            "evaluate", "--supernet", supernet, "--split", "test", "--random", "10",
            "--out", str(out / "accuracy.json"),
        )),
        DemoStep("calibrate", (
            "calibrate", "--space", "micro", "--classes", "10", "--frame", frame,
            "--samples", "240", "--store", store, "--run", "calibration", "--local-agent",
        )),
        DemoStep("search", (
            "search", "--supernet", supernet, "--store", store, "--run", "calibration",
            "--accuracy-samples", "240", "--population", "400", "--parents", "200",
            "--generations", "20", "--candidates", "24", "--infill-rounds", "6", "--out", found,
        )),
        DemoStep("verify", (
            "verify", "--front", found, "--supernet", supernet, "--store", store,
            "--run", "verification", "--rounds", "40", "--local-agent", "--out", verified,
        )),
        DemoStep("bundle", (
            "bundle", "--front", verified, "--supernet", supernet,
            "--plot", str(out / "pareto.png"), "--out", str(out / "bundle"),
        )),
        DemoStep("data", ("data", "--recipe", "digits", "--split", "test", "--out", test)),
    ]  # fmt: skip


def _run_budgets(out: Path) -> list[dict[str, Any]]:
    """Run the edge runtime on the test images at three budgets fixed beforehand.

    In rounds, the budgets by turns, as it was verified: a run takes half a second, and runs at
    once would show the state of the machine at that moment more than the model.
    """
    front = fronts.load(out / "verified.json")
    # fast to slow, so the last is the best; of the bundle those that different budgets tell apart
    models = choose(front, least=3)
    aims = (models[0], models[len(models) // 2], models[-1])
    budgets = _budgets([aim.measured[front.cost.name].budgeted for aim in aims])
    runs = []
    with progress.bar("rounds", ROUNDS) as update:
        for done in range(ROUNDS):
            runs.append([_run_edge(out, budget) for budget in budgets])
            update(done + 1)
    print(f"{'budget ms':>9}  {'model':12}  p90 ms expected  measured  top-1 on test")
    picks = [_pick([lines[i] for lines in runs]) for i in range(len(budgets))]
    for pick in picks:
        print(
            f"{pick['latency_budget_ms']:9.3f}  {pick['model']:12}  {pick['expected_p90_ms']:15.3f}"
            f"  {pick['p90_ms']:8.3f}  {pick['top1']:13.1%}"
            f"{'' if pick['within_budget'] else '  over the budget'}"
        )
    return picks


def _budgets(p90_ms: Sequence[float]) -> list[float]:
    """One for each of rising figures: ROOM above it, yet too small for the next."""
    above = [*p90_ms[1:], math.inf]
    return [
        min(ROOM * own, math.nextafter(above_it, 0))
        for own, above_it in zip(p90_ms, above, strict=True)
    ]


def _run_edge(out: Path, budget_ms: float) -> list[dict[str, Any]]:
    """What the runtime says of each test image, and of all in the last line."""
    command = [
        sys.executable, "-m", "ramnas_edge", "run", "--bundle", str(out / "bundle"),
        "--latency-budget-ms", repr(budget_ms), "--source", str(out / "test"),
        "--engine", "onnxruntime-cpu", "--repeat", REPEAT, "--json",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise RamnasError(f"{' '.join(command)} failed: {ran.stderr.strip()}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def _pick(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The runs at one budget as one: the median run's p90, all runs' accuracy."""
    frames = [frame for lines in runs for frame in lines[:-1]]
    hits = [Path(f["image"]).parent.name == f["labels"]["name"] for f in frames]
    said = runs[0][-1]["summary"]
    p90 = statistics.median(lines[-1]["summary"]["p90_ms"] for lines in runs)
    return {
        **{name: said[name] for name in ("model", "latency_budget_ms", "expected_p90_ms")},
        "frames": len(frames),
        "p90_ms": p90,
        "top1": statistics.mean(hits),
        "within_budget": p90 <= said["latency_budget_ms"],
    }


def _summary(out: Path, picks: list[dict[str, Any]], seconds: dict[str, float]) -> dict[str, Any]:
    front = fronts.load(out / "verified.json")
    best = front.non_dominated()
    latency = front.cost
    accuracy = json.loads((out / "accuracy.json").read_bytes())
    store = Store(out / "records.sqlite")
    counts = store.count("calibration", latency.device_class)
    store.close()
    return {
        "train": {
            "top1_min": accuracy["min"],
            "top1_max": accuracy["max"],
            "top1_random": statistics.mean(accuracy["random"]),
            "seconds": seconds["train"],
        },
        "calibration": {
            "records": sum(counts.values()),
            "inconclusive": counts.get("inconclusive", 0),
            "seconds": seconds["calibrate"],
        },
        "surrogates": {
            one.kind: {
                "chosen": front.surrogates[one.name].family,
                **to_builtins(front.surrogates[one.name].scores),
            }
            for one in front.objectives
        },
        "search": {**to_builtins(front.settings), "seconds": seconds["search"]},
        "front": [
            {
                "arch_id": c.arch_id,
                "macs": c.macs,
                "predicted": _figures(c.predicted, latency.name),
                "measured": _figures(c.measured, latency.name),
                "non_dominated": c in best,
            }
            for c in front.candidates
        ],
        "picks": picks,
        "seconds": seconds,
    }


def _figures(figures: dict[str, ObjectiveValue], latency: str) -> dict[str, float | None] | None:
    """None of a candidate that was not measured."""
    if latency not in figures:
        return None
    return {
        "top1": figures[TOP1].value,
        "latency_ms": figures[latency].value,
        "p90_ms": figures[latency].p90,
    }
