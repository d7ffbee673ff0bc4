"""Writes the bundle of fine-tuned networks, with one front of models for each task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.prepare import FINETUNED
from ramnas_host.finetuning.saved_network import Finetuned
from ramnas_host.search.bundle_parts import joined, model_of, space_keys
from ramnas_host.training.run_folder import STATE
from ramnas_models import bundle as bundles
from ramnas_models.bundle import Bundle, Manifest, Model, TaskFront
from ramnas_models.errors import DataError
from ramnas_models.space import Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """The folder of a run of `ramnas finetune`, or its file, and the network in it."""

    path: Path
    network: Finetuned


def write(path: Path, paths: Sequence[Path]) -> Bundle:
    """Write the networks in the folders `paths` of `ramnas finetune` as one bundle to `path`.

    The networks of a task make its front, from few to many MACs. They may have the same arch, come
    from different spaces and have different preprocessing, but must have the same classes. Nothing
    is written, and a DataError raised, if they do not, if a run has not ended, or if it is named
    twice. FileError if `path` holds something else than a bundle.
    """
    bundles.check_out(path)
    _check_named_once(paths)
    runs = [_Run(path, _load(path)) for path in paths]
    keys = space_keys([run.network.space for run in runs])
    files: dict[str, bytes] = {}
    fronts = []
    for task in dict.fromkeys(run.network.about.task for run in runs):
        for_task = [run for run in runs if run.network.about.task == task]
        for run in for_task[1:]:
            _check_same_classes(for_task[0], run)
        networks = [run.network for run in for_task]
        plans = [network.net.plan for network in networks]
        names = bundles.unique_names([(plan.arch_id, plan.input_hw) for plan in plans])
        models = [
            model_of(
                network.net,
                files,
                name=name,
                file=f"models/{task}-{name}.onnx",
                space=keys[network.space.hash],
                arch=network.about.arch,
                preprocessing=network.about.preprocessing,
                accuracies=network.about.accuracies,
            )
            for network, name in zip(networks, names, strict=True)
        ]
        for run, name in zip(for_task, names, strict=True):
            log.info("%s model %s is from %s", task, name, run.path)
        models.sort(key=lambda model: (model.cost.macs, -_value(model)))
        fronts.append(TaskFront(task, networks[0].about.classes, tuple(models)))
    licence = joined(run.network.about.licence for run in runs)
    source = joined(run.network.about.source for run in runs)
    spaces: dict[str, Space] = {}
    for run in runs:
        spaces.setdefault(keys[run.network.space.hash], run.network.space)
    manifest = Manifest(bundles.FORMAT, spaces, licence, source, tuple(fronts))
    return bundles.write_bundle(path, manifest, files)


def _check_named_once(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        file = (path / FINETUNED if path.is_dir() else path).resolve()
        if file in seen:
            raise DataError(f"{path} and {seen[file]} are the same run; name it once")
        seen[file] = path


def _load(run: Path) -> Finetuned:
    file = run / FINETUNED if run.is_dir() else run
    if not run.exists():
        raise DataError(f"{run} does not exist; name a folder that ramnas finetune wrote")
    if not file.exists() and not (run / STATE).exists():
        raise DataError(
            f"{run} is not a folder of ramnas finetune: it has neither {FINETUNED} nor {STATE}"
            + _hint(run)
        )
    if not file.exists():
        raise DataError(
            f"{run} has no {FINETUNED}, which ramnas finetune writes when a run has ended; run the "
            "same ramnas finetune command again to resume it"
        )
    network = saved_network.load(file)
    if any(accuracy.n is None for accuracy in network.about.accuracies):
        log.warning(
            "%s is from an earlier version of ramnas, which did not count the images of its "
            "accuracies: the bundle has them without n and interval. Fine-tune it again to have "
            "both", file,
        )  # fmt: skip
    return network


def _hint(folder: Path) -> str:
    """The runs that lie one folder deeper, as a clause."""
    inner = sorted(file.parent for file in folder.glob(f"*/{FINETUNED}"))
    return f"; name the runs in it: {' '.join(map(str, inner))}" if inner else ""


def _check_same_classes(one: _Run, other: _Run) -> None:
    """DataError, naming the first difference, unless both runs have the same list of classes."""
    ours, theirs = one.network.about.classes, other.network.about.classes
    pairs = enumerate(zip_longest(ours, theirs), 1)
    differing = next(((i, a, b) for i, (a, b) in pairs if a != b), None)
    if differing is None:
        return
    number, a, b = differing
    what = "the same classes in another order" if set(ours) == set(theirs) else "other classes"
    if a is None:
        difference = f"it has '{b}' too"
    elif b is None:
        difference = f"it lacks '{a}'"
    else:
        difference = f"its class {number} of {len(theirs)} is '{b}' instead of '{a}'"
    raise DataError(
        f"{other.path} has {what} than {one.path}: {difference}; the models of a task share one "
        "list of classes, so write two bundles"
    )


def _value(model: Model) -> float:
    return model.accuracy.value if model.accuracy else 0.0
