"""A front as a table and as rows of a CSV file."""

from __future__ import annotations

from collections.abc import Iterator

from ramnas_host.search.front import Candidate, Front, ObjectiveValue
from ramnas_host.search.objectives import ENERGY, LATENCY, MACS, TOP1, UNITS, Objective


def table(front: Front) -> str:
    """Predicted and measured side by side, one candidate a line; objectives with a board by number.

    Latencies have two columns, the median and the p90. MACs are exact and stand there once.
    """
    columns = [
        (objective, number, part)
        for number, objective in enumerate(front.objectives)
        if objective.kind != MACS
        for part in (("value", "p90") if objective.kind == LATENCY else ("value",))
    ]
    lines = [
        f"[{number}] {one.name}" for number, one in enumerate(front.objectives) if one.device_class
    ]
    titles = (_title(objective, number, part) for objective, number, part in columns)
    lines.append("arch            MMACs" + "".join(f"  {t + ' pred':>19}   meas" for t in titles))
    for c in front.candidates:
        line = f"{c.arch_id}  {c.macs / 1e6:7.2f}"
        for objective, _, part in columns:
            predicted, measured = (
                _cell(objective, figures.get(objective.name), part)
                for figures in (c.predicted, c.measured)
            )
            line += f"  {predicted:>19} {measured:>6}"
        lines.append(line)
    return "\n".join(lines)


def _title(objective: Objective, number: int, part: str) -> str:
    if objective.kind == TOP1:
        return "top-1"
    what = "" if objective.kind == ENERGY else "median " if part == "value" else "p90 "
    return f"[{number}] {what}{UNITS[objective.kind]}"


def _cell(objective: Objective, figure: ObjectiveValue | None, part: str) -> str:
    value = None if figure is None else getattr(figure, part)
    if value is None:
        return "-"
    return f"{value:.1%}" if objective.kind == TOP1 else f"{value:.3f}"


def rows(front: Front) -> list[dict[str, object]]:
    """One row a candidate, figures by objective; None where nothing was measured."""
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
            figure = getattr(candidate, source).get(objective.name)
            yield f"{objective.name} {source}", figure and figure.value
            if objective.kind == LATENCY:
                yield f"{objective.name} p90 {source}", figure and figure.p90
