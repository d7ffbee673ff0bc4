from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest

from ramnas_models.dilation import dilated
from ramnas_models.errors import DataError, SpaceError
from ramnas_models.head_plan import LRASPPPlan, SSDLitePlan, for_task, lraspp, ssdlite
from ramnas_models.plan import PartCost, Plan, plan
from ramnas_models.space import load_space

SPACES = ("micro", "table1", "attentivenas", "ofa_mbv3", "lite")
SIZES = [(320, 320), (360, 640), (512, 1024), (33, 47), (1, 1)]


def backbone(name: str, hw: Tuple[int, int] = (320, 320), largest: bool = True) -> Plan:
    space = load_space(name)
    return plan(space, space.max() if largest else space.min(), num_classes=10, input_hw=hw)


def ceil_div(hw: Tuple[int, int], by: int) -> Tuple[int, int]:
    return -(-hw[0] // by), -(-hw[1] // by)


@pytest.mark.parametrize("name", SPACES)
def test_detector_reads_stage_4_and_the_top_of_the_last_stage(name: str) -> None:
    backbone_plan = backbone(name)
    fine, top = (backbone_plan.blocks[tap] for tap in ssdlite(backbone_plan, 80).taps)
    assert fine.stage == 3
    assert backbone_plan.blocks[backbone_plan.blocks.index(fine) + 1].stage == 4
    assert top is backbone_plan.blocks[-1]
    assert fine.project.out_hw == (20, 20)
    assert top.project.out_hw == (10, 10)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("hw", SIZES)
def test_anchors_have_the_size_of_the_maps_that_the_heads_read(
    name: str, hw: Tuple[int, int]
) -> None:
    made = ssdlite(backbone(name, hw), 80)
    maps = made.anchors.feature_hw
    assert maps[:2] == (ceil_div(hw, 16), ceil_div(hw, 32))
    assert maps[2:] == tuple(ceil_div(hw, 2**n) for n in (6, 7, 8, 9))
    for i, (classes, boxes) in enumerate(zip(made.class_heads, made.box_heads)):
        assert classes.pointwise.out_hw == boxes.pointwise.out_hw == maps[i]
        assert classes.pointwise.c_out == 6 * 81
        assert boxes.pointwise.c_out == 6 * 4
    assert made.anchors.boxes().shape == (made.anchors.count, 4)


def test_anchors_at_320_pixels_equal_the_published_ones() -> None:
    anchors = ssdlite(backbone("table1"), 80).anchors
    strides = [round(320 / h) for h, _ in anchors.feature_hw]
    assert strides == [16, 32, 64, 107, 160, 320]
    assert anchors.sizes[0] == (48, 100)
    assert anchors.sizes[-1] == (304, 320)
    assert sorted(anchors.ratios[0]) == pytest.approx([1 / 3, 1 / 2, 1, 2, 3])
    assert anchors.shapes == (6,) * 6
    assert anchors.count == 6 * (400 + 100 + 25 + 9 + 4 + 1)


def test_anchors_grow_with_the_input_and_keep_their_shape_in_pixels() -> None:
    square, oblong = (
        ssdlite(backbone("micro", hw), 80).anchors for hw in ((320, 320), (320, 1280))
    )
    np.testing.assert_allclose(oblong.sizes, 2 * np.array(square.sizes))
    first = oblong.boxes()[:6]
    np.testing.assert_allclose(first[0, 2:], [96, 96], rtol=1e-6)
    np.testing.assert_allclose(first[1, 2] / first[1, 3], 2, rtol=1e-6)


def test_extra_levels_have_the_published_widths_and_halve_the_map() -> None:
    made = ssdlite(backbone("table1"), 80)
    assert [e.pointwise.c_out for e in made.extras] == [512, 256, 256, 128]
    assert [e.reduce.c_out for e in made.extras if e.reduce] == [256, 128, 128, 64]
    assert [e.depthwise.stride for e in made.extras] == [2] * 4


def test_heads_keep_their_own_padding_and_eps_whatever_the_space_says() -> None:
    """The extra levels of SSD are published with symmetric padding, and heads with eps 1e-5."""
    backbone_plan = backbone("lite")
    made = ssdlite(backbone_plan, 80)
    assert {(x.same, x.eps) for x in backbone_plan.backbone_layers() if x.kernel > 1} == {
        (True, 1e-3)
    }
    layers = [*made.head_layers(), *lraspp(backbone_plan, 19).head_layers()]
    assert {(layer.same, layer.eps) for layer in layers} == {(False, 1e-5)}
    for extra in made.extras:
        assert extra.depthwise.pads(extra.depthwise.in_hw) == (1, 1, 1, 1)


@pytest.mark.parametrize("name", SPACES)
def test_segmenter_reads_the_last_stage_and_stages_1_and_2_or_3(name: str) -> None:
    backbone_plan = backbone(name, (512, 1024))
    for form, stages in (("three_input", [0, 1]), ("two_input", [2])):
        made = lraspp(backbone_plan, 19, form)
        blocks = made.backbone.blocks
        assert [blocks[tap].stage for tap in made.taps[:-1]] == stages
        assert made.taps[-1] == len(blocks) - 1
        for tap in made.taps[:-1]:
            assert blocks[tap + 1].stage == blocks[tap].stage + 1
    three, two = lraspp(backbone_plan, 19), lraspp(backbone_plan, 19, "two_input")
    assert three.output_hw == (256, 512)
    assert two.output_hw == (64, 128)
    assert [f.skip.c_out for f in three.fusions] == [64, 32]  # coarse to fine
    assert three.project.c_out == two.project.c_out == 128
    assert three.macs > 1.05 * two.macs


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("hw", SIZES)
def test_segmenter_shapes_fit_together_at_any_size(name: str, hw: Tuple[int, int]) -> None:
    for form, stride in itertools.product(("three_input", "two_input"), (16, 32)):
        made = lraspp(backbone(name, hw), 19, form, stride)
        at = made.backbone.stem.out_hw
        for block in made.backbone.blocks:
            assert block.depthwise.in_hw == at
            if block.expand:
                assert block.expand.in_hw == at
            at = block.project.in_hw
            assert block.depthwise.out_hw == at
            if block.shortcut and block.shortcut.conv:
                assert block.shortcut.conv.in_hw == at
        assert at == made.project.in_hw == ceil_div(hw, stride)
        for fusion in made.fusions:
            assert fusion.coarse.in_hw == at
            at = fusion.skip.in_hw
        assert made.output_hw == ceil_div(hw, 2 if form == "three_input" else 8)


@pytest.mark.parametrize("make", [ssdlite, lraspp])
@pytest.mark.parametrize("name", SPACES)
def test_costs_are_those_of_backbone_and_head_and_add_up_by_part(name: str, make: Any) -> None:
    backbone_plan = backbone(name)
    made = make(backbone_plan, 19)
    own = list(backbone_plan.backbone_layers())
    head = list(made.head_layers())
    keys = [layer.key for layer in made.layers()]
    assert keys == [layer.key for layer in (*own, *head)]
    assert len(set(keys)) == len(keys)
    assert made.macs == sum(layer.macs for layer in (*own, *head))
    assert made.params == sum(layer.params for layer in (*own, *head))
    table = made.table()
    assert sum(table.values(), PartCost()).macs == made.macs
    head_cost = sum((cost for (part, _), cost in table.items() if part == "head"), PartCost())
    assert head_cost.macs == sum(layer.macs for layer in head) > 0
    assert made.arch_id == backbone_plan.arch_id


def test_the_cost_of_a_detector_level_equals_a_count_by_hand() -> None:
    """The level at stride 16 of table1's smallest arch: 64 channels, 320 pixels, 80 classes."""
    made = ssdlite(backbone("table1", largest=False), 80)
    level = made.class_heads[0]
    assert sum(layer.macs for layer in level.layers()) == 20 * 20 * (64 * 9 + 64 * 6 * 81)
    assert sum(layer.params for layer in level.layers()) == 64 * 9 + 2 * 64 + 6 * 81 * (64 + 1)


def test_output_stride_16_keeps_the_weights_and_dilates_only_behind_the_last_stride() -> None:
    backbone_plan = backbone("table1", (512, 1024))
    dense = dilated(backbone_plan, 16)
    assert dilated(backbone_plan, 32) == backbone_plan
    shapes = [[x.weight_shape for x in p.backbone_layers()] for p in (dense, backbone_plan)]
    assert shapes[0] == shapes[1]
    dilations = {b.stage: [] for b in dense.blocks}
    for block in dense.blocks:
        dilations[block.stage].append(block.depthwise.dilation)
    assert all(d == 1 for stage in range(5) for d in dilations[stage])
    assert dilations[5][0] == 1  # it lost its stride, so its own kernel still sees the same pixels
    assert set(dilations[5][1:]) == set(dilations[6]) == {2}
    assert dense.blocks[-1].project.out_hw == (32, 64)


def test_a_space_without_the_strides_that_a_head_reads_is_refused(tmp_path: Path) -> None:
    source = Path(load_space.__code__.co_filename).parent / "spaces/micro.yaml"
    text = source.read_text().replace("stride: 2, se: true", "stride: 1, se: true")
    path = tmp_path / "shallow.yaml"
    path.write_text(text)
    space = load_space(str(path))
    with pytest.raises(SpaceError, match="has stride 16"):
        ssdlite(plan(space, space.max()), 80)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: lraspp(b, 19, "four_input"), "take one of three_input, two_input"),
        (lambda b: lraspp(b, 19, output_stride=8), "take 16 or 32"),
        (lambda b: lraspp(b, 257), "257 classes"),
        (lambda b: lraspp(b, 1), "1 classes"),
        (lambda b: for_task("pose", b), "classification, detection, segmentation"),
    ],
)
def test_impossible_heads_are_refused_with_the_way_out(call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(backbone("micro"))


def test_every_task_has_a_plan_of_its_own() -> None:
    backbone_plan = backbone("micro")
    assert for_task("classification", backbone_plan) is backbone_plan
    detector, segmenter = (for_task(t, backbone_plan) for t in ("detection", "segmentation"))
    assert isinstance(detector, SSDLitePlan)
    assert isinstance(segmenter, LRASPPPlan)
    assert detector.num_classes == segmenter.num_classes == 10
