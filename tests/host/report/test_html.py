"""The report in a real browser: it picks what the runtime picks, and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("pymoo")

from ramnas_edge.engines.backends import Options
from ramnas_edge.runtime.choosing import choose
from ramnas_edge.runtime.combinations import combinations
from ramnas_edge.runtime.expected_latency import ExpectedLatencies
from ramnas_host.report import contents, html
from ramnas_host.report.contents import Report, arch_text
from ramnas_host.search.front import ChosenSurrogate, Front, ObjectiveValue
from ramnas_host.search.objectives import LATENCY, MACS, TOP1, Objective
from ramnas_host.surrogates.surrogate import Score
from ramnas_models import bundle as bundles
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Bundle, Cost, Latency, Manifest, Model
from ramnas_models.errors import BudgetError
from ramnas_models.sampling import sample_by_macs
from tests.host.report.chromium import Chromium, started
from tests.host.search.fronts import SPACE, front, record, timed
from tests.models.bundles import WHOLE

CARDS = """return [...document.querySelectorAll("#picks article")].map(
  (card) => [card.dataset.task, card.dataset.deviceClass, card.dataset.pick, card.innerText])"""
FRAME = (480, 640)
XEON = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"
EVIL = "</script><script>window.broken = 1</script><!-- <img src=x onerror=window.broken=2>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with started(tmp_path_factory.mktemp("chromium") / "profile") as chromium:
        yield chromium


def load(browser: Chromium, report: Report, folder: Path, **features: str) -> None:
    page = folder / "report.html"
    page.write_bytes(html.page(report))
    browser.load(page, **features)


def of(found: Front, **what: object) -> Report:
    return contents.build(found, **{"title": "run", "records": [], **what})


def bundle(path: Path, figures: dict[str, list[tuple[float, float]]]) -> Bundle:
    """A bundle whose models have these (accuracy, p90 in ms) by task.

    They were measured on two boards; board2 is twice as slow as board1.
    """
    tasks, files = [], {}
    for task, pairs in figures.items():
        models = []
        for arch, (accuracy, ms) in zip(
            sample_by_macs(SPACE, np.random.default_rng(0), len(pairs)), pairs, strict=True
        ):
            file = f"models/{task}-{arch.id}.onnx"
            files[file] = file.encode()
            latency = tuple(
                Latency(f"board{n}", "onnxruntime-cpu", "fp32", 1, 1, FRAME, n * ms, 0.8 * n * ms)
                for n in (1, 2)
            )
            models.append(
                Model(
                    arch.id, arch.id, SPACE.name, arch, file, "", (32, 32), WHOLE,
                    (Accuracy("top1", accuracy, "test"),), Cost(10**6, 10**6, 10**5), latency,
                )
            )  # fmt: skip
        tasks.append(bundles.TaskFront(task, ("a", "b"), tuple(models)))
    return bundles.write_bundle(
        path,
        Manifest(bundles.FORMAT, {SPACE.name: SPACE}, "CC0-1.0", "test", tuple(tasks)),
        files,
    )


def never(models: object) -> None:
    raise AssertionError("the manifest has every latency, so nothing must be timed")


def test_picks_are_those_of_the_runtime_at_every_budget(browser: Chromium, tmp_path: Path) -> None:
    # the third model beats the fourth in both; the last two are equally accurate
    pairs = [(0.7, 1.0), (0.8, 2.5), (0.9, 4.0), (0.85, 5.5), (0.95, 9.0), (0.95, 8.0)]
    made = bundle(
        tmp_path / "bundle",
        {"classification": pairs, "segmentation": [(0.4, 3.0), (0.5, 30.0)]},
    )
    load(browser, of(timed((1, 0.9), (2, 0.95)), bundle=made), tmp_path)
    number = browser.one("#budget-ms")
    for budget in (0.5, 1.0, 1.99, 2.5, 4.0, 8.0, 8.01, 17.3, 61.0):
        number.clear()
        number.send_keys(repr(budget))
        shown = browser.driver.execute_script(CARDS)
        assert len(shown) == 4
        for task, device, picked, text in shown:
            figures = ExpectedLatencies(device, Options(), FRAME, never)
            try:
                choice = choose(combinations([made.front(task)]), figures, budget)
            except BudgetError as error:
                assert picked == ""
                fastest, ms, miss = re.search(
                    r"fastest, (\w+), has a p90 of ([\d.]+) ms here and misses by ([\d.]+) ms",
                    str(error),
                ).groups()
                for word in ("no model fits", fastest, f"{ms} ms", f"misses by {miss} ms"):
                    assert word in text
            else:
                assert picked == choice.model.arch_id
                assert f"{choice.p90_ms:.3g} ms" in text
    assert browser.console() == []


def test_moving_the_slider_changes_the_pick(browser: Chromium, tmp_path: Path) -> None:
    from selenium.webdriver import Keys

    found = timed((1, 0.9), (2, 0.93), (4, 0.95), (8, 0.96), (16, 0.97))
    load(browser, of(found), tmp_path)
    slider = browser.one("#budget")

    def pick() -> str:
        return browser.one("#picks article").get_attribute("data-pick")

    seen = []
    slider.send_keys(Keys.HOME)
    for _ in range(12):
        seen.append(pick())
        slider.send_keys(Keys.PAGE_UP)
    ids = [c.arch_id for c in found.candidates]
    order = [one for i, one in enumerate(seen) if i == 0 or one != seen[i - 1]]
    assert order == ["", *ids]  # first no model fits, then one after the other
    assert browser.one("tr.picked").get_attribute("data-id") == pick()
    assert browser.one("#spoken").get_attribute("textContent") == f"board: {pick()}"
    assert browser.one(".mark.measured.picked").get_attribute("data-id") == pick()


def test_pointer_and_focus_show_the_arch(browser: Chromium, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    found = timed((1, 0.9), (2, 0.95))
    load(browser, of(found), tmp_path)
    tip = browser.one("#tip")
    assert not tip.is_displayed()
    first, last = (browser.one(f".mark.measured[data-id='{c.arch_id}']") for c in found.candidates)
    ActionChains(browser.driver).move_to_element(first).perform()
    assert tip.is_displayed()
    assert found.candidates[0].arch_id in tip.text
    assert arch_text(found.candidates[0].arch) in tip.text
    assert "0.833 ms, p90 1" in tip.text
    ActionChains(browser.driver).move_to_element(browser.one("h1")).perform()
    assert not tip.is_displayed()
    browser.driver.execute_script("arguments[0].focus()", last)
    assert arch_text(found.candidates[1].arch) in tip.text


def whole(device_class: str = "board", model: str = "A0", title: str = "run") -> Report:
    """A report with everything that a page may show."""
    board = Objective(LATENCY, device_class, timed((1, 0.9)).objectives[1].target)
    found = front(
        *(
            {
                TOP1: ObjectiveValue(t),
                board.name: ObjectiveValue(ms, 1.2 * ms),
                MACS: ObjectiveValue(10**6),
            }
            for ms, t in ((1.0, 0.9), (2.0, 0.95), (4.0, 0.96))
        ),
        objectives=(Objective(TOP1), board, Objective(MACS)),
    )  # fmt: skip
    score = {"gp": Score(0.9, 0.95, 0.02, 0.82), "cart": Score(float("nan"), 0.5, 0.1)}
    found = msgspec.structs.replace(
        found,
        surrogates=dict.fromkeys(
            (board.name, TOP1), ChosenSurrogate("gp", score, ((1.0, 1.1), (2.0, 1.9)))
        ),
        hypervolumes=(0.5, 0.7, 0.71),
        candidates=tuple(
            msgspec.structs.replace(c, name=model if i == 1 else "")
            for i, c in enumerate(found.candidates)
        ),
    )  # fmt: skip
    records = [record(c.arch, 1.0, device=device_class) for c in found.candidates]
    return of(found, title=title, records=records)


def test_loading_asks_for_nothing_and_logs_nothing(browser: Chromium, tmp_path: Path) -> None:
    load(browser, whole(), tmp_path)
    assert len(browser.all("#surrogates .mark.held-out")) == 4
    assert (
        "uniformly drawn archs, which are more alike: tau 0.82" in browser.one("#surrogates").text
    )
    assert len(browser.all("#boards article")) == 1
    assert "3 ok" in browser.one("#boards").text
    options = browser.all("#cost option")
    assert len(options) == 3  # p90, median, MACs
    for option in options:
        option.click()
        assert len(browser.all("#front .mark.measured")) == 3
    assert browser.requests() == [(tmp_path / "report.html").as_uri()]
    assert browser.console() == []


def test_names_cannot_break_out_of_the_data(browser: Chromium, tmp_path: Path) -> None:
    load(browser, whole(EVIL, EVIL, EVIL), tmp_path)
    assert browser.one("h1").text == EVIL
    assert browser.driver.title == f"ramnas: {EVIL}"
    assert browser.one("#picks article").get_attribute("data-device-class") == EVIL
    assert browser.driver.execute_script("return window.broken === undefined")
    assert len(browser.all("script")) == 2
    assert browser.all("img") == []
    assert browser.console() == []


def test_sections_without_data_are_left_out(browser: Chromium, tmp_path: Path) -> None:
    found = front({}, {}, objectives=(Objective(TOP1), Objective(MACS)))
    load(browser, of(found), tmp_path)
    for section in ("#budget-section", "#boards-section", "#surrogates-section"):
        assert not browser.one(section).is_displayed()
    assert len(browser.all("#front .mark.predicted")) == 2
    assert "predicted, not yet measured" in browser.one("#summary").text
    assert browser.console() == []


def test_it_follows_the_dark_scheme_and_prints_light_without_its_slider(
    browser: Chromium, tmp_path: Path
) -> None:
    load(browser, whole(), tmp_path)
    light = browser.style("body", "background-color")
    load(browser, whole(), tmp_path, prefers_color_scheme="dark")
    assert browser.style("body", "background-color") != light
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.style("body", "background-color") == light
    assert browser.style("#budget", "display") == "none"
    assert browser.style("#budget-ms", "display") != "none"


def test_every_control_has_a_label(browser: Chromium, tmp_path: Path) -> None:
    load(browser, whole(), tmp_path)
    for control in browser.all("input, select, .mark[tabindex]"):
        assert control.accessible_name
    assert browser.one("#budget").get_attribute("aria-valuetext").endswith(" ms")


def test_boards_have_short_names_that_the_page_explains_once(
    browser: Chromium, tmp_path: Path
) -> None:
    load(browser, whole(XEON), tmp_path)
    headings = [heading.text for heading in browser.all("#picks h3, #surrogates h3, #boards h3")]
    assert headings == [
        "xeon 2c, onnxruntime-cpu", "latency on xeon 2c, onnxruntime-cpu", "top-1",
        "xeon 2c, onnxruntime-cpu",
    ]  # fmt: skip
    assert "latency on xeon 2c, onnxruntime-cpu" in browser.one("#summary").text
    assert (
        browser.one("#cost option:checked").text == "p90 latency on xeon 2c, onnxruntime-cpu (ms)"
    )
    assert browser.one("#boards dd").text == XEON
    assert browser.one("body").text.count(XEON) == 1


def test_a_page_fits_a_phone(browser: Chromium, tmp_path: Path) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        load(browser, whole(XEON), tmp_path)
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
