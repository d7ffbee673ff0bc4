from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest

from ramnas_edge.vision.annotate import annotated, plain, shares, words
from ramnas_edge.vision.results import Detections, Labels, Mask, Timing

TIMING = Timing(1.0, 2.0, 3.0)
FRAME = np.full((60, 80, 3), 90, np.uint8)


def detections(*rows: tuple) -> Detections:  # type: ignore[type-arg]
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([r[4] for r in rows], np.float32),
        np.array([r[5] for r in rows], np.int64), ("cup", "cat"), TIMING,
    )  # fmt: skip


def test_a_box_is_drawn_on_its_edges_in_the_colour_of_its_class() -> None:
    drawn = annotated(FRAME, detections((10, 30, 40, 55, 0.9, 0), (50, 30, 79, 55, 0.8, 1)))
    changed = (drawn != FRAME).any(2)
    assert changed[54, 10:40].all()
    assert changed[30:55, 39].all()
    assert not changed[49:52, 20:35].any()
    assert (drawn[54, 20] != drawn[54, 60]).any()
    assert (FRAME == 90).all()


def test_boxes_at_the_edge_of_the_frame_can_be_drawn() -> None:
    annotated(FRAME, detections((-0.0, 0, 80, 60, 1.0, 1), (79.6, 59.7, 80, 60, 0.5, 0)))
    assert (annotated(FRAME, detections()) == FRAME).all()


def test_a_mask_tints_everything_but_the_background() -> None:
    classes = np.zeros((60, 80), np.uint8)
    classes[:, 40:] = 2
    mask = Mask(classes, ("background", "road", "sky"), TIMING)
    drawn = annotated(FRAME, mask)
    assert (drawn[:, :40] == FRAME[:, :40]).all()
    assert (drawn[:, 40:] != FRAME[:, 40:]).any(2).all()
    cities = annotated(FRAME, Mask(classes, ("kerb", "road", "sky"), TIMING))
    assert (cities != FRAME).any(2).all()
    assert shares(mask) == [("background", 0.5), ("sky", 0.5)]
    assert words(mask) == "50% background, 50% sky"


def test_results_become_json_and_one_line_of_text() -> None:
    objects = detections((1, 2, 3, 4, 0.5, 1), (1, 2, 3, 5, 0.25, 1), (0, 0, 9, 9, 0.25, 0))
    assert plain(objects)["detections"][0] == {"name": "cat", "score": 0.5, "box": [1, 2, 3, 4]}
    assert words(objects) == "2 cat, 1 cup"
    assert words(detections()) == "nothing"
    label = Labels(1, "cat", 0.75, TIMING)
    assert plain(label) == {"labels": {"index": 1, "name": "cat", "score": 0.75}}
    assert words(label) == "cat (0.75)"
    assert (annotated(FRAME, label) != FRAME).any()


def test_views_of_frames_can_be_annotated() -> None:
    view = np.full((60, 160, 3), 90, np.uint8)[:, ::2][..., ::-1]
    result = detections((10, 30, 40, 55, 0.9, 0))
    np.testing.assert_array_equal(annotated(view, result), annotated(FRAME, result))


@pytest.mark.parametrize("count", [1, 11, 91])
def test_every_class_has_its_own_colour(count: int) -> None:
    from ramnas_edge.vision.annotate import class_colours

    assert len({tuple(c) for c in class_colours(count).tolist()}) == count


@pytest.mark.parametrize("hw", [(240, 320), (480, 640), (1080, 1920), (60, 80)])
@pytest.mark.parametrize("side", [8, 16, 31])
def test_the_name_of_a_small_object_stands_beside_it(hw: Tuple[int, int], side: int) -> None:
    """It was drawn inside the box, and hid the object."""
    height, width = hw
    frame = np.full((*hw, 3), 90, np.uint8)
    for x in (0, 3, width // 2, width - side):
        for y in (0, 3, height // 2, height - side):
            drawn = annotated(frame, detections((x, y, x + side, y + side, 0.9, 0)))
            changed = (drawn != frame).any(2)
            assert not changed[y + 1 : y + side - 1, x + 1 : x + side - 1].any()
            changed[y : y + side, x : x + side] = False
            assert changed.sum() > 100  # the name


def test_a_name_hides_no_other_object_as_long_as_there_is_room() -> None:
    frame = np.full((240, 320, 3), 90, np.uint8)
    places = [(100, 100), (114, 100), (107, 86), (107, 114)]
    drawn = annotated(frame, detections(*[(x, y, x + 10, y + 10, 0.9, 1) for x, y in places]))
    for x, y in places:
        assert (drawn[y + 1 : y + 9, x + 1 : x + 9] == 90).all()


def test_where_there_is_no_room_names_are_left_out_and_objects_stay_visible() -> None:
    frame = np.full((120, 160, 3), 90, np.uint8)
    places = [(x, y) for x in range(0, 160, 12) for y in range(0, 120, 12)]
    drawn = annotated(frame, detections(*[(x, y, x + 11, y + 11, 0.9, 0) for x, y in places]))
    hidden = [(drawn[y + 1 : y + 10, x + 1 : x + 10] != 90).any(2).mean() for x, y in places]
    assert max(hidden) < 0.5
    whole = annotated(frame, detections((0, 0, 160, 120, 0.9, 0)))  # its name stands inside
    assert 100 < (whole[3:-3, 3:-3] != 90).any(2).sum() < 160 * 120 * 0.2


def test_names_are_larger_in_larger_frames_and_any_name_can_be_drawn() -> None:
    def name_height(hw: Tuple[int, int]) -> int:
        frame = np.full((*hw, 3), 90, np.uint8)
        drawn = annotated(frame, Labels(0, "cat", 0.5, TIMING))
        return int((drawn != frame).any((1, 2)).sum())

    assert name_height((240, 320)) < name_height((1080, 1920)) <= name_height((2160, 3840))
    for name in ("猫", "x" * 500, "T-shirt/top", "\n", ""):
        result = Detections(
            np.array([[10, 10, 20, 20]], np.float32), np.array([0.5], np.float32),
            np.array([0]), (name,), TIMING,
        )  # fmt: skip
        assert annotated(FRAME, result).shape == FRAME.shape
