"""What is missing or broken in an HTML report is said, and takes nothing else with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Open, Visit
from html_pages import Reader, sample

from icl_bench.render.html.page import plotly_name, share_plotly
from icl_bench.render.html.report import SCRIPTS, report_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MODEL = "builtin-induction-2l"
SERIES = "builtin-induction-2l--"


@pytest.mark.parametrize("broken", SCRIPTS)
def test_a_script_that_throws_leaves_the_others_running(
    browser: Browser, tmp_path: Path, broken: str
) -> None:
    text = report_page(sample(MODEL), plotly_name())
    folder = Path(report_page.__code__.co_filename).parent
    asset = (folder / "assets" / broken).read_text(encoding="utf-8")
    # As late as can be where others build on it: what it gives them is made first.
    last = asset.rindex("(() => {\n") + len("(() => {\n")
    faulty = asset[:last] + 'throw new Error("told in the console");' + asset[last:]
    assert asset in text
    share_plotly(tmp_path)
    file = tmp_path / "report.html"
    file.write_text(text.replace(asset, faulty), encoding="utf-8")
    page = Visit(browser, file)
    assert [fault for fault in page.complaints if "told in the console" in fault]
    works = {
        "heads.js": lambda: page.drawn("#map"),
        "example.js": lambda: page.drawn("#pattern"),
        "switches.js": lambda: page.drawn("#switch-top"),
        "charts.js": lambda: page.drawn("#copying-panels .chart"),
        "filter.js": lambda: page.page.locator('#quiz-filter [data-show="pass"]').click(),
    }
    assert set(works) == set(SCRIPTS)
    for name, act in works.items():
        if name != broken:
            act()
    hidden = page.page.locator("#quiz .item[hidden]").count()
    assert (hidden > 0) == (broken != "filter.js")
    page.close()


def test_switches_without_a_clean_run_say_so(visit: Open) -> None:
    record = sample(MODEL).model_copy(deep=True)
    [tables] = [one.tables for one in record.measurements.values() if one.probe == "example"]
    tables["switched"] = [row for row in tables["switched"] if row["off"]]
    page = visit(record)
    assert "nothing off was not measured" in page.text("#switch-tiles")
    assert page.page.locator("#switches .chart").count() == 0
    page.drawn("#copying-panels .chart")
    assert page.complaints == []


def test_what_a_logarithmic_axis_cannot_show_is_said(visit: Open) -> None:
    record = sample(SERIES).model_copy(deep=True)
    [curves] = [
        one.tables["curves"] for one in record.measurements.values() if one.probe == "phase_change"
    ]
    known = {"induction": 0.0123, "previous_token": 0.0456, "first_loss": 6.21}
    curves.insert(0, {"step": 0, **known})
    page = visit(record)
    page.drawn("#training-panels .panel:first-child .chart")
    scores, losses = page.page.locator("#training-panels .panel .note").all_inner_texts()
    for note, values in ((scores, ("0.0123", "0.0456")), (losses, ("6.21",))):
        assert "The axis is logarithmic and cannot show optimizer step 0: " in note
        assert [f"{value} at 0" in note for value in values] == [True] * len(values)
        assert note.count(" at 0") == len(values)
    # A run that does not begin at 0 needs no such words, nor does an axis that is not logarithmic.
    assert "cannot show" not in visit(sample(SERIES)).text("#training")
    assert "cannot show" not in visit(sample(MODEL)).text("#behaviour")


def test_where_every_number_is_is_said(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_page(sample(MODEL), plotly="gone.js"), encoding="utf-8")
    words = "Every number is in results.json"
    assert words in " ".join(Reader(file.read_text(encoding="utf-8")).words)
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-charts=missing]")
    for name in ("#map", "#pattern", "#switch-losses"):
        assert words in page.locator(name).inner_text()
    page.context.close()
