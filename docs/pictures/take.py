"""Pictures of the committed reports for the README: `make pictures`.

Needs Chromium on the machine, or named in ICL_BENCH_CHROMIUM.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "reports" / "samples"
REAL = "SmolLM2-135M-Instruct.Q4_1/report.html"
SHOTS = {
    "circuit.png": (REAL, "#circuit svg.circuit"),
    "example.png": (REAL, "#example"),
    "heads.png": (REAL, "#heads .heads"),
    "switches.png": (REAL, "#switches"),
    "training.png": ("builtin-induction-2l--/report.html", "#training-panels .panel:first-child"),
    "leaderboard.png": ("leaderboard.html", "main"),
}
"""Picture -> page, and the part of it that is taken."""
WIDTH, HEIGHT = 1100, 900


def take(page: Page, file: Path, selector: str, picture: Path) -> None:
    """Open a page, let its charts be drawn, and save one part of it."""
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-charts=ready]")
    page.wait_for_timeout(1500)
    if selector == "#switches":  # With the induction heads off, which is what one wants to see.
        for switch in page.locator("#toggles [data-role=induction]").all():
            switch.click()
        page.wait_for_timeout(500)
    # The bar that stays at the top would lie over tall parts.
    page.add_style_tag(content=".top { position: static !important; }")
    part = page.locator(selector).first
    box = part.bounding_box()
    part.scroll_into_view_if_needed()
    if selector == "main" and box:
        page.screenshot(path=picture)
    else:
        part.screenshot(path=picture)


def main() -> int:
    """Take every picture; return 1 where the browser is missing."""
    browser_path = os.environ.get("ICL_BENCH_CHROMIUM") or shutil.which("chromium")
    if browser_path is None:
        print("no Chromium: install one, or name it in ICL_BENCH_CHROMIUM", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, (file, selector) in SHOTS.items():
            take(page, SAMPLES / file, selector, HERE / name)
            print(HERE / name)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
