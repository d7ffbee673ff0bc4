"""A real Chromium without a window: pages are loaded, keys pressed, and what it says is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# nothing of its own business goes to the network either; as root it needs --no-sandbox
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,1000",
)  # fmt: skip


class Chromium:
    """The driver, and what the pages since the last `load` logged and asked for."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def load(self, page: Path, **features: str) -> None:
        """Open `page`; `features` are of CSS media, such as prefers_color_scheme="dark"."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
        self.console(), self.requests()
        self.driver.get(page.as_uri())

    def console(self) -> list[str]:
        """Errors and warnings, a policy's refusals among them."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """URLs that were asked for, but for those that carry their content themselves."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        (found,) = self.all(selector)
        return found

    def style(self, selector: str, name: str) -> str:
        return self.one(selector).value_of_css_property(name)


@contextmanager
def started(profile: Path) -> Iterator[Chromium]:
    """Skips where there is no Chromium, or no driver of it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("no Chromium here: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Chromium(chrome)
    finally:
        chrome.quit()
