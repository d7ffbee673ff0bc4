"""Whatever COCO files are accepted, the kept objects are the right ones and score 1; what is
refused is refused in one line.

RAMNAS_GENERATED_MINUTES=10 makes a run of ten minutes, of data sets that are new each time:

    RAMNAS_GENERATED_MINUTES=10 pytest -s tests/host/annotations/test_generated_coco.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from ramnas_host.annotations.coco import load_coco
from ramnas_host.annotations.detection_data import DetectionSplit
from ramnas_models.errors import DataError
from tests.host.annotations import generated_coco
from tests.host.annotations.generated_coco import Truth
from tests.host.finetuning.scored import coco_scores

MINUTES = float(os.environ.get("RAMNAS_GENERATED_MINUTES", "0"))
seen: Counter[str] = Counter()


often = settings(
    max_examples=150, deadline=None, derandomize=not MINUTES,
    suppress_health_check=list(HealthCheck), database=None, print_blob=True,
    phases=[Phase.generate, *([] if MINUTES else [Phase.shrink])],
)  # fmt: skip


@often
@given(st.data())
def check_sets(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        made = generated_coco.write(Path(place) / "set", data.draw)
        try:
            found = load_coco(made.folder)
        except DataError as error:
            assert_one_line(str(error), made.folder)
            few = ["one picture in val"] if "has one image" in str(error) else []
            seen["refused: " + [*made.broken, *few][0]] += 1
            return
        assert not made.broken
        seen["accepted"] += 1
        seen.update(f"noted: {finding.what}" for finding in found.findings)
        splits = {"train": [found.train]}
        if "test" in made.expected:
            splits |= {"val": [found.selection], "test": [found.report]}
        else:
            splits["val"] = [found.selection, found.report]
        for part, halves in splits.items():
            assert kept(halves, found.classes) == expected(made.expected[part]), part
            for split in halves:
                assert_perfect_detections_score_1(split)


def assert_one_line(error: str, folder: Path) -> None:
    assert "\n" not in error
    assert len(error) < 2000
    assert str(folder) in error


def kept(halves: list[DetectionSplit], classes: tuple[str, ...]) -> dict[str, list[Truth]]:
    """The objects by file. Each picture is read, which fails if its size is not as expected."""
    found = {}
    for split in halves:
        for i, objects in enumerate(split.objects):
            split.read(i)
            found[split.images.paths[i].name] = sorted(
                (classes[k], tuple(box), bool(crowd))
                for box, k, crowd in zip(
                    objects.boxes.tolist(), objects.classes.tolist(), objects.crowd, strict=True
                )
            )
    return found  # type: ignore[return-value]


def expected(truths: dict[str, list[Truth]]) -> dict[str, list[Truth]]:
    return {name: sorted(rows) for name, rows in truths.items()}


def assert_perfect_detections_score_1(split: DetectionSplit) -> None:
    examples = [objects.take(~objects.crowd) for objects in split.objects]
    found = [(o.boxes, np.ones(len(o.classes)), o.classes) for o in examples]
    scores = coco_scores(split.objects, found)
    if any(len(o.classes) for o in examples):
        assert scores == pytest.approx({"mAP50-95": 1, "mAP50": 1})
    else:
        assert all(np.isnan(value) for value in scores.values())


@often
@given(st.data())
def check_odd_values(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        generated_coco.write_sound(folder / "set")
        part = data.draw(st.sampled_from(["train", "val", "test"]))
        spoilt = generated_coco.spoilt(generated_coco.annotated(), data.draw)
        generated_coco.file(folder / "set", part).write_bytes(spoilt)
        try:
            found = load_coco(folder / "set")
        except DataError as error:
            assert_one_line(str(error), folder)
            seen["odd values refused"] += 1
            return
        seen["odd values accepted"] += 1
        for finding in found.findings:
            assert "\n" not in str(finding)
        for split in (found.train, found.selection, found.report):
            assert_perfect_detections_score_1(split)


@pytest.mark.timeout(60 * MINUTES + 1200)
@pytest.mark.parametrize("check", [check_sets, check_odd_values])
def test_generated_data_sets_are_read_rightly_or_refused_in_one_line(
    check: Callable[[], None],
) -> None:
    end = time.monotonic() + 30 * MINUTES
    while True:
        check()
        if time.monotonic() >= end:
            break


@pytest.fixture(scope="module", autouse=True)
def summary() -> Iterator[None]:
    yield
    if MINUTES:
        print()
        for what, count in sorted(seen.items()):
            print(f"{count:7d}  {what}")
