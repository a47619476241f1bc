"""The committed samples in a fresh clone: their pages draw their charts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Visit
from html_pages import SAMPLES, Reader

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = SAMPLES.parent.parent
PAGES = sorted(path.relative_to(ROOT) for path in SAMPLES.rglob("*.html"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git hands out of the samples, and nothing else that lies in the folder here."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository: the tests run from an archive")
    folder = tmp_path_factory.mktemp("clone")
    git = ["git", "-C", str(ROOT)]
    names = subprocess.run(
        [*git, "ls-files", "-z", "reports/samples"], check=True, capture_output=True
    ).stdout
    subprocess.run(
        [*git, "checkout-index", "--stdin", "-z", f"--prefix={folder}/"], check=True, input=names
    )
    return folder


def test_the_charting_script_of_every_sample_is_committed_once(clone: Path) -> None:
    named = set()
    for name in PAGES:
        page = clone / name
        for source in Reader(page.read_text(encoding="utf-8")).attributes("src"):
            named.add((page.parent / source).resolve())
    assert len(named) == 1 and all(path.is_file() for path in named), named
    assert {path.resolve() for path in clone.rglob("plotly-*.js")} == named


@pytest.mark.parametrize("name", PAGES, ids=lambda name: name.parent.name)
def test_every_sample_draws_its_charts(browser: Browser, clone: Path, name: Path) -> None:
    page = Visit(browser, clone / name)
    charts = page.page.locator(".chart:visible")
    assert charts.count() >= 1
    for index in range(charts.count()):
        charts.nth(index).locator(".main-svg").first.wait_for()
    assert page.complaints == [] and page.fetched() == []
    page.close()
