"""Charts under a mouse and under a finger: the toolbar, and what the page asks one to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Open, Visit
from html_pages import SAMPLES, sample

from icl_bench.ranking import rank, read_entries
from icl_bench.reports.leaderboard import write_leaderboard

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PARTS = """(box) => {
    const bar = box.querySelector(".modebar"), plot = box._fullLayout._size;
    if (!bar) return null;
    const at = bar.getBoundingClientRect(), from = box.getBoundingClientRect().top;
    const paint = [bar, ...bar.querySelectorAll(".modebar-group")].map(
        (part) => getComputedStyle(part).backgroundColor);
    return { below: at.bottom - from, data: plot.t, paint: [...new Set(paint)] };
}"""
"""Of a chart: where its toolbar ends, where its data begin, and the paint of the toolbar."""


def check_toolbars(page: Visit) -> None:
    charts = page.page.locator(".chart[data-drawn=yes]")
    page.page.locator(".chart[data-drawn=yes] .main-svg").first.wait_for()
    page.settle()
    assert charts.count() >= 1
    for index in range(charts.count()):
        toolbar = charts.nth(index).evaluate(PARTS)
        assert toolbar["paint"] == ["rgba(0, 0, 0, 0)"]
        assert toolbar["below"] <= toolbar["data"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("name", ["builtin-induction-2l", "builtin-induction-2l--"])
def test_the_toolbar_of_a_chart_lies_above_its_data(
    visit: Open, name: str, width: int, dark: bool
) -> None:
    check_toolbars(visit(sample(name), width=width, dark=dark))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The leaderboard of the committed records."""
    ranked = rank(read_entries([SAMPLES]).read)
    [path] = write_leaderboard(ranked, tmp_path, ["html"], plotly="shared")
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_so_it_does_on_a_leaderboard(browser: Browser, board: Path, dark: bool) -> None:
    page = Visit(browser, board, dark=dark)
    check_toolbars(page)
    page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 400])
def test_a_touch_screen_has_no_toolbar_and_is_told_to_tap(
    visit: Open, width: int, dark: bool
) -> None:
    page = visit(sample("builtin-induction-2l"), width=width, dark=dark, touch=True)
    page.drawn("#map")
    assert page.page.locator(".modebar").count() == 0
    words = page.text("#heads .lead")
    assert "Tap a cell" in words and "Hover" not in words and "click" not in words
    place = """() => { const box = document.getElementById("map"), r = box.getBoundingClientRect();
        const { xaxis: x, yaxis: y } = box._fullLayout;
        return [r.x + x._offset + x.l2p(5), r.y + y._offset + y.l2p(1)]; }"""
    page.page.locator("#map").scroll_into_view_if_needed()
    page.page.touchscreen.tap(*page.page.evaluate(place))
    page.page.wait_for_function("document.getElementById('pinned-name').textContent === '1.5'")


def test_a_mouse_is_told_to_hover(visit: Open) -> None:
    page = visit(sample("builtin-induction-2l"))
    words = page.text("#heads .lead")
    assert "Hover for the value" in words and "Tap" not in words
