"""A real browser for the tests of HTML pages: Chromium that is on the machine, without network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import HANG

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Programs that are looked for, after what ICL_BENCH_CHROMIUM names."""


def find_chromium() -> str | None:
    """Return the browser's path; None when there is none."""
    named = os.environ.get("ICL_BENCH_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a running browser, or skip the test with the reason."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: install one, or name it in ICL_BENCH_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One page opened in a browser, with everything that it complained about or asked for."""

    def __init__(
        self,
        browser: Browser,
        file: Path,
        width: int = 1400,
        dark: bool = False,
        touch: bool = False,
    ) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.file = file
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=touch,
            is_mobile=touch,
        )
        # A machine may be slow; only what never comes is a fault.
        context.set_default_timeout(1000 * HANG)
        self.page: Page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-charts]")
        charts = self.page.evaluate("document.documentElement.dataset.charts")
        assert charts == "ready", f"{file}: the charting script is {charts}"

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def drawn(self, selector: str) -> None:
        """Wait until the chart at `selector` has been drawn."""
        self.page.wait_for_selector(f"{selector}[data-drawn=yes] .main-svg")

    def settle(self) -> None:
        """Wait until the charts that are shown have the widths of their places."""
        self.page.evaluate(
            """async () => {
            const frame = () => new Promise(requestAnimationFrame);
            await frame(); // Resize events come before the frame after the change.
            await frame();
            const drawn = [...document.querySelectorAll(".chart")].filter(
                (box) => box._fullLayout && box.getClientRects().length);
            await Promise.all(drawn.map((box) => Plotly.Plots.resize(box)));
            await frame();
        }"""
        )

    def text(self, selector: str) -> str:
        """Return the visible text at `selector`."""
        return self.page.locator(selector).inner_text()

    def fetched(self) -> list[str]:
        """Return what was asked for beside the page itself and the folder's charting script."""
        own = self.file.as_uri()
        return [
            url
            for url in self.requests
            if url != own and not url.startswith(("data:", "blob:")) and "/plotly-" not in url
        ]

    def close(self) -> None:
        """Close the page."""
        self.page.context.close()


Open = Callable[..., Visit]
"""The fixture `visit`: opens a record's report, in a width and a theme, with mouse or touch."""
