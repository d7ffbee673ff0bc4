"""A front -> a table to print, or rows of a CSV file."""

from __future__ import annotations

from collections.abc import Iterator

from ramnas_host.search.front import Candidate, Front, ObjectiveValue
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, UNITS, Objective


def table(front: Front) -> str:
    """Predicted and measured values side by side, one candidate per line.

    Objectives that a board measures have a number, which the first lines explain. A latency has two
    columns, the median and the p90. MACs are exact and appear once.
    """
    labels = labels_of(front.objectives)
    columns = [
        (objective, number, field)
        for number, objective in enumerate(front.objectives)
        if objective.kind != MACS
        for field in (("value", "p90") if objective.kind == LATENCY else ("value",))
    ]
    lines = [
        f"[{number}] {labels.objectives[one.name]}"
        for number, one in enumerate(front.objectives)
        if one.device_class
    ]
    lines += labels.legend
    titles = (_title(objective, number, field) for objective, number, field in columns)
    lines.append("arch            MMACs" + "".join(f"  {t + ' pred':>19}   meas" for t in titles))
    for c in front.candidates:
        line = f"{c.arch_id}  {c.macs / 1e6:7.2f}"
        for objective, _, field in columns:
            predicted, measured = (
                _cell(objective, values.get(objective.name), field)
                for values in (c.predicted, c.measured)
            )
            line += f"  {predicted:>19} {measured:>6}"
        lines.append(line)
    return "\n".join(lines)


def _title(objective: Objective, number: int, field: str) -> str:
    if objective.kind == TOP1:
        return "top-1"
    what = "" if objective.kind == ENERGY else "median " if field == "value" else "p90 "
    return f"[{number}] {what}{UNITS[objective.kind]}"


def _cell(objective: Objective, value: ObjectiveValue | None, field: str) -> str:
    number = None if value is None else getattr(value, field)
    if number is None:
        return "-"
    return f"{number:.1%}" if objective.kind == TOP1 else f"{number:.3f}"


def rows(front: Front) -> list[dict[str, object]]:
    """One row per candidate with a column for each objective, under its full name.

    A cell is None where nothing was measured.
    """
    return [
        {
            "arch_id": candidate.arch_id,
            "name": candidate.name,
            "arch": " ".join(map(str, candidate.arch.integers)),
            "macs": candidate.macs,
            **dict(_columns(front, candidate)),
        }
        for candidate in front.candidates
    ]


def _columns(front: Front, candidate: Candidate) -> Iterator[tuple[str, float | None]]:
    for objective in front.objectives:
        for source in ("predicted", "measured"):
            value = getattr(candidate, source).get(objective.name)
            yield f"{objective.name} {source}", value and value.value
            if objective.kind == LATENCY:
                yield f"{objective.name} p90 {source}", value and value.p90
