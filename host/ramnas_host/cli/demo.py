"""The main line end to end on real digits: each step is a verb with files between them."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_edge.measuring.store import Store
from ramnas_host.cli.demo_budgets import FRAME, run_budgets
from ramnas_host.search import front as fronts
from ramnas_host.search.front import Candidate, ObjectiveValue
from ramnas_host.search.objectives import TOP1
from ramnas_models.errors import DataError
from ramnas_models.files import make_folder, write_file


@dataclass(frozen=True)
class DemoSize:
    """How much work the demo does. `samples` archs are measured, and as many are evaluated."""

    recipe: str
    samples: int
    population: int
    generations: int
    candidates: int
    infill_rounds: int
    verify_rounds: int
    budget_rounds: int


WHOLE = DemoSize(
    recipe="digits", samples=240, population=400, generations=20, candidates=24, infill_rounds=6,
    verify_rounds=40, budget_rounds=10,
)  # fmt: skip
SMALL = DemoSize(
    recipe="digits-small", samples=48, population=100, generations=5, candidates=12,
    infill_rounds=2, verify_rounds=8, budget_rounds=4,
)  # fmt: skip


@dataclass(frozen=True)
class DemoStep:
    """One verb of the main line; done when its arguments are on record in steps.json."""

    name: str
    argv: tuple[str, ...]


def add(verbs: Verbs, call: Callable[[list[str]], None]) -> None:
    """Add this verb to the command line; `call` runs another verb."""
    demo = add_verb(
        verbs, "demo",
        help="run the whole main line, small, on real digits",
        purpose="Runs the whole main line on real handwritten digits, from training to a bundle "
        "that holds a latency budget. The same command goes on after the last finished step.",
        example="ramnas demo --out runs/demo",
    )  # fmt: skip
    demo.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR",
        help="folder of the run (default: runs/demo)",
    )  # fmt: skip
    demo.add_argument(
        "--small", action="store_true",
        help="do much less work in every step: it takes a minute, and the models are worse",
    )  # fmt: skip
    demo.add_argument("--fresh", action="store_true", help="delete what --out holds and start over")
    demo.set_defaults(call=lambda args: run(args.out, call, small=args.small, fresh=args.fresh))


def run(
    out: Path, call: Callable[[list[str]], None], *, small: bool = False, fresh: bool = False
) -> None:
    """Run, or continue, the demo in folder `out`; prints where everything is."""
    size = SMALL if small else WHOLE
    started = out / "steps.json"
    if fresh and out.exists():
        if not started.exists():
            raise DataError(f"{out} was not made by the demo (no steps.json), it is left as it is")
        shutil.rmtree(out)
    make_folder(out)
    done = _done(started)
    redo = False
    for step in _steps(out, size):
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
    picks = run_budgets(out, rounds=size.budget_rounds)
    seconds = {name: entry["seconds"] for name, entry in done.items()}
    seconds["run"] = round(time.monotonic() - start, 1)
    write_file(out / "summary.json", json.dumps(_summary(out, picks, seconds), indent=1).encode())
    print(
        f"\nfront: {out / 'pareto.png'}\nbundle: {out / 'bundle'}\n"
        f"records: {out / 'records.sqlite'}\nsummary: {out / 'summary.json'}\n"
        f"{sum(seconds.values()):.0f} s in all"
    )


def _done(started: Path) -> dict[str, Any]:
    """The steps that are done, by name; none if the file is missing."""
    try:
        return dict(json.loads(started.read_bytes())) if started.exists() else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{started} is damaged ({error}): start over with --fresh") from error


def _steps(out: Path, size: DemoSize) -> list[DemoStep]:
    train, store = str(out / "train"), str(out / "records.sqlite")
    supernet = str(out / "train/supernet.safetensors")
    found, verified = str(out / "front.json"), str(out / "verified.json")
    test = str(out / "test")
    return [
        DemoStep("train", ("train", "--space", "micro", "--recipe", size.recipe, "--out", train)),
        DemoStep("calibrate", (
            "calibrate", "--space", "micro", "--classes", "10", "--frame", FRAME,
            "--samples", f"{size.samples}", "--store", store, "--run", "calibration",
            "--local-agent",
        )),
        DemoStep("search", (
            "search", "--supernet", supernet, "--store", store, "--run", "calibration",
            "--accuracy-samples", f"{size.samples}", "--population", f"{size.population}",
            "--parents", f"{size.population // 2}", "--generations", f"{size.generations}",
            "--candidates", f"{size.candidates}", "--infill-rounds", f"{size.infill_rounds}",
            "--out", found,
        )),
        DemoStep("verify", (
            "verify", "--front", found, "--supernet", supernet, "--store", store,
            "--run", "verification", "--rounds", f"{size.verify_rounds}", "--local-agent",
            "--out", verified,
        )),
        DemoStep("evaluate", (
            "evaluate", "--supernet", supernet, "--split", "report", "--random", "10",
            "--out", str(out / "accuracy.json"),
        )),
        DemoStep("bundle", (
            "bundle", "--front", verified, "--supernet", supernet,
            "--plot", str(out / "pareto.png"), "--out", str(out / "bundle"),
        )),
        DemoStep("data", ("data", "--recipe", "digits", "--split", "report", "--out", test)),
    ]  # fmt: skip


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
            "accuracies": accuracy["accuracies"],
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
                "predicted": _figures(c, c.predicted, latency.name),
                "measured": _figures(c, c.measured, latency.name),
                "accuracies": to_builtins(c.accuracies),
                "non_dominated": c in best,
            }
            for c in front.candidates
        ],
        "picks": picks,
        "seconds": seconds,
    }


def _figures(
    candidate: Candidate, figures: dict[str, ObjectiveValue], latency: str
) -> dict[str, float | None] | None:
    """None of a candidate that was not measured."""
    if latency not in figures:
        return None
    return {
        "top1": figures[TOP1].value,
        "selection_top1": candidate.to_choose_by(TOP1),
        "latency_ms": figures[latency].value,
        "p90_ms": figures[latency].p90,
    }
