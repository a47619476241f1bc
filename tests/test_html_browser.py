"""The HTML report as people see it: opened in Chromium, clicked and stepped through."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Open, Visit
from html_pages import HOSTILE, make_hostile, sample

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.html.report import report_page
from icl_bench.render.writing import numbers
from icl_bench.reports.files import write_reports

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MODEL = "builtin-induction-2l"


def example_of(record: RunRecord) -> Measurement:
    return next(one for one in record.measurements.values() if one.probe == "example")


def shown(token: str) -> str:
    return token.replace("\n", "⏎").replace(" ", "·")


@pytest.mark.parametrize(
    "name",
    [MODEL, "builtin-control-1l", "SmolLM2-135M-Instruct.Q4_1", "builtin-induction-2l--"],
)
def test_every_chart_is_drawn_and_nothing_is_fetched_or_complained_about(
    visit: Open, name: str
) -> None:
    page = visit(sample(name))
    charts = page.page.locator(".chart:visible")
    assert charts.count() >= 1
    for index in range(charts.count()):
        charts.nth(index).locator(".main-svg").first.wait_for()
    assert page.complaints == []
    assert page.fetched() == []


def test_a_head_is_pinned_from_table_drawing_map_and_keyboard(visit: Open) -> None:
    page = visit(sample(MODEL))
    page.drawn("#map")
    page.page.locator('#heads [data-pin="0.9"]').first.click()
    assert page.text("#pinned-name") == "0.9"
    assert "0.995" in page.text("#pinned")
    page.page.locator('.circuit [data-layer="1"][data-head="4"]').click()
    assert page.text("#pinned-name") == "1.4"
    # The heat map: arrow keys move from the pinned head, Enter pins.
    page.page.locator("#map").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.text("#map-told").startswith("Head 1.5: ")
    page.page.keyboard.press("Enter")
    assert page.text("#pinned-name") == "1.5"
    # A click on a cell pins what lies under it.
    place = """() => { const box = document.getElementById("map"), r = box.getBoundingClientRect();
        const { xaxis: x, yaxis: y } = box._fullLayout;
        return [r.x + x._offset + x.l2p(0), r.y + y._offset + y.l2p(1)]; }"""
    page.page.mouse.click(*page.page.evaluate(place))
    assert page.text("#pinned-name") == "1.0"
    assert page.complaints == []


def test_another_score_changes_the_map(visit: Open) -> None:
    page = visit(sample(MODEL))
    page.drawn("#map")
    row = next(
        row
        for one in sample(MODEL).measurements.values()
        if one.probe == "induction"
        for row in one.heads
        if (row["layer"], row["head"]) == (0, 9)
    )
    page.page.locator('#heads [data-pin="0.9"]').first.click()
    page.page.locator("#score").select_option(
        label="Previous token: attention to the position before"
    )
    page.page.locator("#map").focus()
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press("ArrowRight")
    assert numbers.number(row["previous_token"]) in page.text("#map-told")


def test_stepping_the_example_tells_what_was_measured(visit: Open) -> None:
    record = sample(MODEL)
    tables = example_of(record).tables
    tokens = tables["example_tokens"]
    page = visit(record)
    page.page.locator("#tokens .token").last.click()
    last = tokens[-1]
    assert f"Position {last['position']}: {shown(last['token'])}." in page.text("#told")
    page.page.locator("#step-back").click()
    before = tokens[-2]
    told = page.text("#told")
    assert f"stood at position {before['repeats_at']} before" in told
    assert f"a probability of {numbers.number(last['probability'])}" in told
    # The pinned head's share is the byte that the record holds.
    row = next(r for r in tables["example_patterns"] if (r["layer"], r["head"]) == (1, 4))
    packed = base64.b64decode(row["pattern"])
    query, key = before["position"], before["source"]
    share = packed[query * (query + 1) // 2 + key] / 255
    assert f"gives it {numbers.number(share, 2)} of its attention" in told
    assert (
        page.page.locator("#tokens .token.source")
        .inner_text()
        .startswith(shown(tokens[key]["token"]))
    )
    page.page.locator("#tokens").focus()
    page.page.keyboard.press("Home")
    assert "Position 0:" in page.text("#told")
    page.page.keyboard.press("ArrowRight")
    assert "Position 1:" in page.text("#told")
    page.page.locator("#step-repeat").click()
    assert "stood at position" in page.text("#told")


def test_the_example_shows_the_pattern_of_the_pinned_head(visit: Open) -> None:
    record = sample(MODEL)
    page = visit(record)
    page.drawn("#pattern")
    page.page.locator('#heads [data-pin="0.9"]').first.click()
    assert page.text("#pattern-name") == "0.9"
    rows = {(r["layer"], r["head"]): r for r in example_of(record).tables["example_patterns"]}
    packed = base64.b64decode(rows[0, 9]["pattern"])
    drawn = page.page.evaluate("document.getElementById('pattern').data[0].z")
    size = len(drawn)
    assert size == len(example_of(record).tables["example_tokens"])
    for query in range(size):
        for key in range(size):
            if key > query:
                assert drawn[query][key] is None
            else:
                byte = packed[query * (query + 1) // 2 + key]
                assert drawn[query][key] == pytest.approx(byte / 255)


def test_switches_show_the_measured_losses_of_every_combination(visit: Open) -> None:
    record = sample(MODEL)
    tables = example_of(record).tables
    page = visit(record)
    page.drawn("#switch-losses")
    toggles = page.page.locator("#toggles [role=switch]")
    assert toggles.count() == len(tables["switches"]) >= 2
    off: set[int] = set()
    for switch in (0, 1, 0, 2):
        toggles.nth(switch).click()
        off ^= {switch}
        row = next(r for r in tables["switched"] if set(r["off"]) == off)
        loss = row["repeated_loss"]
        said = page.text("#switch-tiles")
        assert numbers.number(loss) in said
        checked = [toggles.nth(i).get_attribute("aria-checked") for i in range(toggles.count())]
        assert checked == ["false" if i in off else "true" for i in range(toggles.count())]
        drawn = page.page.evaluate("document.getElementById('switch-losses').data.map(t => t.y)")
        assert drawn[-1] == row["loss_by_position"]
    assert page.complaints == []


def test_predictions_are_those_of_the_chosen_combination(visit: Open) -> None:
    record = sample(MODEL)
    tables = example_of(record).tables
    page = visit(record)
    page.drawn("#switch-top")
    page.page.locator("#toggles [role=switch]").nth(0).click()
    asked = page.page.locator("#asked").input_value()
    row = next(r for r in tables["switched"] if r["off"] == [0])
    found = next(p for p in row["predictions"] if str(p["position"]) == asked)
    traces = page.page.evaluate(
        "document.getElementById('switch-top').data.map(t => [t.name, t.x])"
    )
    shares = dict(traces)["switched"]
    assert max(shares) == pytest.approx(max(share for _, share in found["top"]))


def test_numbers_are_written_as_in_python(visit: Open) -> None:
    page = visit(sample(MODEL))
    values = [0.00018, 0.0004, 0.0151, 0.9996, 0.4, 1.005, 13.953, 135.24, 1234.5, 2e-7, 5.0, -0.03]
    shown = page.page.evaluate("(values) => values.map((value) => icl.number(value))", values)
    for value, text in zip(values, shown):
        assert float(text) == pytest.approx(float(numbers.number(value)), rel=6e-3), value
        assert len(text) <= len(numbers.number(value)) + 1


def test_quiz_items_are_filtered_by_verdict(visit: Open) -> None:
    record = sample(MODEL)
    items = [check for check in record.checks if check.kind == "quiz"]
    page = visit(record)
    assert page.page.locator("#quiz .item:visible").count() == len(items)
    page.page.locator('#quiz-filter [data-show="pass"]').click()
    others = sum(item.verdict != "pass" for item in items)
    assert page.page.locator("#quiz .item:visible").count() == others
    page.page.locator('#quiz-filter [data-show="pass"]').click()
    assert page.page.locator("#quiz .item:visible").count() == len(items)


def test_the_theme_follows_the_system_and_the_button(visit: Open) -> None:
    page = visit(sample(MODEL), dark=True)
    page.drawn("#map")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(paper)
    page.page.locator("#theme").click()
    light = page.page.evaluate(paper)
    assert dark != light
    assert sum(map(int, dark[4:-1].split(","))) < sum(map(int, light[4:-1].split(",")))
    page.page.reload()
    assert page.page.evaluate(paper) == light


@pytest.mark.parametrize("name", [MODEL, "SmolLM2-135M-Instruct.Q4_1", "builtin-induction-2l--"])
def test_a_phone_needs_no_sideways_scrolling(visit: Open, name: str) -> None:
    page = visit(sample(name), width=400)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.complaints == []


def test_hostile_names_are_shown_as_text(visit: Open) -> None:
    page = visit(make_hostile(sample(MODEL)))
    page.drawn("#pattern")
    page.page.locator("#toggles [role=switch]").first.click()
    page.page.locator("#step-on").click()
    assert page.page.evaluate("window.hacked") is None
    assert page.page.locator("img").count() == 0
    assert HOSTILE.split("\u2028")[0] in page.text("h1")
    assert page.complaints == []
    assert page.fetched() == []


def test_a_shared_script_is_found_beside_the_folder(browser: Browser, tmp_path: Path) -> None:
    written = write_reports([sample(MODEL)], tmp_path, plotly="shared")
    page = Visit(browser, next(path for path in written if path.name == "report.html"))
    page.drawn("#map")
    assert page.complaints == [] and page.fetched() == []
    page.close()


def test_a_page_works_alone(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "mail.html"
    file.write_text(report_page(sample(MODEL)), encoding="utf-8")
    page = Visit(browser, file)
    page.drawn("#map")
    assert page.complaints == [] and page.requests == [file.as_uri()]
    page.close()


def test_without_the_script_the_numbers_are_still_there(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_page(sample(MODEL), plotly="gone.js"), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-charts=missing]")
    assert "did not load: it is looked for at gone.js" in page.locator("#map").inner_text()
    page.locator('#heads [data-pin="1.4"]').first.click()
    assert "0.889" in page.locator("#pinned").inner_text()
    context.close()


def test_everything_is_open_on_paper(visit: Open) -> None:
    page = visit(sample(MODEL))
    page.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.page.locator("details:not([open])").count() == 0
    page.page.emulate_media(media="print")
    assert not page.page.locator(".top").is_visible()
    assert page.page.locator("#measurements table").first.is_visible()


def test_what_failed_is_reached_from_the_top(visit: Open) -> None:
    page = visit(sample("SmolLM2-135M-Instruct.Q4_1"))
    page.page.locator('#quiz-filter [data-show="fail"]').click()
    link = page.page.locator('.missed a:has-text("half-of-icl-on-text")')
    item = page.page.locator(str(link.get_attribute("href")))
    assert not item.is_visible()
    link.click()
    page.page.wait_for_function(
        "(id) => document.querySelector(id).open", arg=link.get_attribute("href")
    )
    assert item.is_visible() and "icl_score" in item.inner_text()
