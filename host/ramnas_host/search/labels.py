"""Gives objectives and device classes labels for people, with a legend that explains them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ramnas_edge.board import short_names
from ramnas_host.search.objectives import MACS, TOP1, Objective
from ramnas_models.head_plan import CLASSIFICATION


@dataclass(frozen=True)
class ObjectiveLabels:
    """Labels for one table, plot or page; `legend` is shown once beside them.

    `boards` maps a device class to its short name, and `objectives` the name of an objective to
    its label, such as `latency on xeon 2c, onnxruntime-cpu`.
    """

    boards: dict[str, str]
    objectives: dict[str, str]

    @property
    def legend(self) -> list[str]:
        """One line for each short name, with the device class that it stands for."""
        return short_names.legend(self.boards)


def labels_of(
    objectives: Sequence[Objective], device_classes: Iterable[str] = ()
) -> ObjectiveLabels:
    """Labels for the objectives, their boards, and further `device_classes`."""
    own = [one.device_class for one in objectives if one.device_class]
    boards = short_names.short_names([*own, *device_classes])
    return ObjectiveLabels(boards, {one.name: _label(one, boards) for one in objectives})


def _label(objective: Objective, boards: dict[str, str]) -> str:
    if objective.target is None:
        return {TOP1: "top-1", MACS: "MACs"}[objective.kind]
    task = objective.target.task
    kind = objective.kind if task == CLASSIFICATION else f"{task} {objective.kind}"
    return f"{kind} on {boards[objective.device_class]}"
