"""What a report says about a run: from its files to plain data, the page and the plots."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("pymoo")

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Conditions
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main
from ramnas_host.report import contents
from ramnas_host.report.html import in_html
from ramnas_host.search import front as fronts
from ramnas_host.search.front import ChosenSurrogate, Front, ObjectiveValue
from ramnas_host.search.objectives import ENERGY, TOP1, Objective
from ramnas_host.surrogates.surrogate import Score
from ramnas_models.errors import DataError
from ramnas_models.space import load_space
from tests.host.search.fronts import BOARD, front, record, timed
from tests.models.bundles import classifiers, figure, written

VERIFIED = timed((1, 0.9), (2, 0.95))


def unmeasured(found: Front) -> Front:
    return msgspec.structs.replace(
        found,
        candidates=tuple(
            msgspec.structs.replace(
                c, predicted=c.measured, measured={}, accuracies=c.accuracies[:1]
            )
            for c in found.candidates
        ),
    )


def test_a_folder_gives_its_verified_front_records_bundle_and_commands(
    tmp_path: Path,
) -> None:
    fronts.save(unmeasured(VERIFIED), tmp_path / "front.json")
    searched = contents.read(tmp_path)
    assert (searched.verified, searched.boards[0].runs) == (False, ())
    assert searched.ladders[0].source == "predicted, not measured"
    fronts.save(VERIFIED, tmp_path / "verified.json")
    store = Store(tmp_path / "records.sqlite")
    store.add(record(VERIFIED.candidates[0].arch, 1.0, validity="inconclusive"))
    store.add(record(VERIFIED.candidates[1].arch, 1.0))
    store.close()
    latencies = [figure("board", ms, (48, 64)) for ms in (1.0, 2.0)]
    written(tmp_path / "bundle", classifiers([*latencies, ()]))
    steps = {"train": {"argv": ["train", "--out", "x"], "seconds": 1.5}}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    found = contents.read(tmp_path)
    assert found.verified
    assert found.title == tmp_path.name
    (board,) = found.boards
    assert board.runs[0].counts == {"ok": 1, "inconclusive": 1}
    (ladder,) = found.ladders
    assert (ladder.source, ladder.unknown, ladder.whole_calls) == ("from the bundle", 1, True)
    assert [(r.accuracy.value, r.p90_ms) for r in ladder.rungs] == [(0.90, 1.0), (0.95, 2.0)]
    assert found.steps[0].argv == ("train", "--out", "x")
    assert found.top1 == "top-1 (%), report split, n 250"
    assert [a.split for a in found.models[0].accuracies] == ["selection", "report"]


def test_the_file_of_a_front_is_shown_without_the_store_beside_it(tmp_path: Path) -> None:
    fronts.save(VERIFIED, tmp_path / "verified.json")
    (tmp_path / "records.sqlite").write_bytes(b"not a store")
    found = contents.read(tmp_path / "verified.json")
    assert found.boards[0].runs == ()
    assert [r.p90_ms for r in found.ladders[0].rungs] == [1.0, 2.0]
    assert not found.ladders[0].whole_calls


def test_a_board_shows_what_it_is_and_its_state_while_it_measured() -> None:
    device = Device("NVIDIA Jetson Orin Nano", 6, 8, "L4T 36.4", "15W", True, jetpack="6.1")
    calm = Conditions(
        "jtop", 9, {"cpu": 51.2, "gpu": 48.0}, power_mw={"total": 7000}, power_mode="15W"
    )
    hot = Conditions("jtop", 9, {"gpu": 70.6}, power_mw={"total": 9500}, limits=("thermal",))
    archs = [c.arch for c in VERIFIED.candidates]
    records = [
        msgspec.structs.replace(record(arch, 1.0), device=device, conditions=conditions)
        for arch, conditions in zip(archs, (calm, hot), strict=True)
    ]
    (board,) = contents.build(VERIFIED, title="", records=records).boards
    facts = board.facts
    assert (facts["power mode"], facts["clocks"], facts["JetPack"]) == ("15W", "locked", "6.1")
    assert facts["hottest while measuring"] == "71 °C"
    assert facts["power while measuring"] == "7.0 to 9.5 W"
    assert facts["held back by"] == "thermal"
    assert "GPU" not in facts  # it is not known


def test_a_model_of_a_ladder_has_the_energy_of_its_board_and_task() -> None:
    energy = Objective(ENERGY, "board", BOARD.target)
    found = front(
        {
            TOP1: ObjectiveValue(0.9),
            BOARD.name: ObjectiveValue(1.0, 1.2),
            energy.name: ObjectiveValue(3.5),
        },
        {TOP1: ObjectiveValue(0.95), BOARD.name: ObjectiveValue(2.0, 2.4)},
        objectives=(Objective(TOP1), BOARD, energy),
    )
    (ladder,) = contents.build(found, title="", records=[]).ladders
    assert [rung.energy_mj for rung in ladder.rungs] == [3.5, None]


def test_of_two_models_of_one_arch_only_the_one_of_the_measured_size_has_its_energy(
    tmp_path: Path,
) -> None:
    energy = Objective(ENERGY, "board", BOARD.target)
    measured = {
        TOP1: ObjectiveValue(0.9),
        BOARD.name: ObjectiveValue(1.0, 1.2),
        energy.name: ObjectiveValue(3.5),
    }
    found = front(measured, objectives=(Objective(TOP1), BOARD, energy))
    (candidate,) = found.candidates
    made, files = classifiers([figure("board", 1.0, (48, 64)), (), ()])
    own = msgspec.structs.replace(made.models[0], arch_id=candidate.arch_id)
    hw = BOARD.target.hw(candidate.arch) if BOARD.target else (0, 0)
    models = [
        msgspec.structs.replace(own, name=f"{own.arch_id}-{size[0]}", input_hw=size)
        for size in (hw, (64, 64))
    ]
    bundle = written(tmp_path / "b", (msgspec.structs.replace(made, models=tuple(models)), files))
    (ladder,) = contents.build(found, title="", records=[], bundle=bundle).ladders
    assert [rung.energy_mj for rung in ladder.rungs] == [3.5, None]
    assert [rung.name for rung in ladder.rungs] == [model.name for model in models]


def test_an_arch_is_written_stage_by_stage() -> None:
    arch = load_space("ofa_mbv3").min()
    text = contents.arch_text(arch)
    assert text.startswith(f"{arch.resolution} px; stem {arch.stem}; {arch.stages[0].width}x")
    assert text.endswith(f"head {arch.head}")
    assert "/0" not in text  # slots past the depth


def test_the_data_cannot_end_their_script_and_stay_the_same() -> None:
    evil = {"</script><!--": ["<script>", "\\u003c", "&lt;"]}
    text = in_html(json.dumps(evil))
    assert "<" not in text
    assert json.loads(text) == evil


def test_the_verb_writes_one_page_and_two_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = tmp_path / "run", tmp_path / "report.html"
    chosen = ChosenSurrogate("gp", {"gp": Score(0.9, 0.9, 0.1)}, ((1.0, 1.1), (2.0, 2.1)))
    fronts.save(
        msgspec.structs.replace(VERIFIED, surrogates={BOARD.name: chosen, TOP1: chosen}),
        run / "verified.json",
    )
    argv = ["report", str(run), "-o", str(page), "--png", str(tmp_path / "png")]
    assert main.main(argv) == 0
    text = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", text)
    assert "{{" not in text
    for name in ("front.png", "surrogates.png"):
        assert np.ptp(cv2.imread(str(tmp_path / "png" / name))) > 100
    assert str(page) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["."], "has neither verified.json nor front.json: ramnas search makes a front"),
        (["missing.json"], "missing.json is not a front of ramnas"),
        (["front.json", "--store", "none.sqlite"], "none.sqlite does not exist"),
        (["front.json", "--bundle", "none"], "none is not a bundle"),
    ],
)
def test_a_missing_file_is_one_line_of_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    argv: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if argv[0] == "front.json":
        fronts.save(VERIFIED, Path("front.json"))
    assert main.main(["report", *argv]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("report.html").exists()


def test_a_front_of_the_previous_format_is_read(tmp_path: Path) -> None:
    content = json.loads(msgspec.json.encode(VERIFIED))
    chosen = {"family": "gp", "scores": {"gp": {"tau": 0.9, "rho": 0.9, "mape": 0.1}}}
    content.update(format=2, surrogates={TOP1: chosen})
    for candidate in content["candidates"]:
        del candidate["accuracies"], candidate["macs_bn"]
    (tmp_path / "front.json").write_text(json.dumps(content))
    found = contents.read(tmp_path / "front.json")
    assert found.scatters[0].held_out == ()
    assert found.top1 == "top-1 (%)"
    (tmp_path / "front.json").write_text(json.dumps({**content, "format": 5}))
    with pytest.raises(DataError, match=r"format 5, .* reads formats 2, 3 and 4"):
        fronts.load(tmp_path / "front.json")
