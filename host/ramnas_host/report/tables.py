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
    lines.append(_images(front))
    titles = (_title(objective, number, field) for objective, number, field in columns)
    heads = (
        f"  {title + ' pred':>19}   meas" + (f"  {'95 %':>12}" if one.kind == TOP1 else "")
        for title, (one, _, _) in zip(titles, columns, strict=True)
    )
    lines.append("arch            MMACs" + "".join(heads))
    for c in front.candidates:
        line = f"{c.arch_id}  {c.macs / 1e6:7.2f}"
        for objective, _, field in columns:
            predicted, measured = (
                _cell(objective, values.get(objective.name), field)
                for values in (c.predicted, c.measured)
            )
            line += f"  {predicted:>19} {measured:>6}"
            if objective.kind == TOP1:
                line += f"  {_interval(c):>12}"
        lines.append(line)
    return "\n".join(lines)


def _images(front: Front) -> str:
    """Which images the two values of top-1 belong to, in one line."""
    n = {
        split: {a.n for c in front.candidates for a in c.accuracies if a.split == split}
        for split in ("selection", "report")
    }
    words = [
        f"{verb} the {split} split (n {' or '.join(map(str, sorted(n[split], key=str)))})"
        for verb, split in (("predicted for", "selection"), ("measured on", "report"))
        if n[split]
    ]
    return f"top-1: {', '.join(words) or 'its images are unknown, this is an older front'}"


def _interval(candidate: Candidate) -> str:
    """The 95 % interval of the measured top-1, in percent."""
    accuracy = candidate.accuracy("report")
    if accuracy is None or accuracy.interval is None:
        return "-"
    low, high = (100 * end for end in accuracy.interval)
    return f"{low:.1f} to {high:.1f}"


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


def top1_label(front: Front) -> str:
    """The name of the axis of top-1, with the split and number of images that it comes from."""
    shown = [c.accuracy("report") or c.accuracy("selection") for c in front.candidates]
    images = sorted({f"{a.split} split, n {a.n}" for a in shown if a})
    return f"top-1 (%), {' or '.join(images)}" if images else "top-1 (%)"


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
            "macs_bn": candidate.macs_bn,
            **dict(_columns(front, candidate)),
            **dict(_accuracies(candidate)),
        }
        for candidate in front.candidates
    ]


def _accuracies(candidate: Candidate) -> Iterator[tuple[str, float | None]]:
    """The true top-1 on both splits, with number of images and ends of the 95 % interval."""
    for split in ("selection", "report"):
        found = candidate.accuracy(split)
        low, high = (found.interval if found else None) or (None, None)
        yield f"top1 {split}", found.value if found else None
        yield f"top1 {split} n", found.n if found else None
        yield f"top1 {split} low", low
        yield f"top1 {split} high", high


def _columns(front: Front, candidate: Candidate) -> Iterator[tuple[str, float | None]]:
    for objective in front.objectives:
        for source in ("predicted", "measured"):
            value = getattr(candidate, source).get(objective.name)
            yield f"{objective.name} {source}", value and value.value
            if objective.kind == LATENCY:
                yield f"{objective.name} p90 {source}", value and value.p90
