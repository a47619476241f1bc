"""The HTML report on paper: light, as wide as a page, and saying what was chosen."""

from __future__ import annotations

import re

import pytest
from browser import Open, Visit
from html_pages import sample

from icl_bench.render.html.heads import LABELS

MODEL = "builtin-induction-2l"
INKS = """(selector) => [...document.querySelectorAll(selector)].filter((node) => node.textContent
    && node.getClientRects().length).map((node) => [node.textContent,
    getComputedStyle(node)[node instanceof SVGElement ? "fill" : "color"]])"""


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2) of a CSS color as computed styles write it."""
    shares = [float(value) / 255 for value in re.findall(r"[\d.]+", color)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(part * value for part, value in zip((0.2126, 0.7152, 0.0722), linear))


def print_page(page: Visit) -> None:
    """Bring the page to where a browser puts it on paper."""
    page.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.page.emulate_media(media="print")


@pytest.mark.parametrize("how", ["system", "button"])
def test_a_dark_page_is_legible_on_white_paper(visit: Open, how: str) -> None:
    page = visit(sample(MODEL), dark=how == "system")
    page.drawn("#switch-top")
    if how == "button":
        page.page.locator("#theme").click()
    print_page(page)
    for selector in (
        ".xtitle, .ytitle, .xtick text, .ytick text, .legendtext, .annotation-text",
        "main p, main h2, main td, main th, main li, .badge, .tag",
        ".circuit text",
    ):
        found = page.page.evaluate(INKS, selector)
        assert found
        for text, ink in found:
            assert 1.05 / (luminance(ink) + 0.05) >= 4.5, (text, ink)
    # Without the event, colours of text and drawing come from the style alone.
    page.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    for text, ink in page.page.evaluate(INKS, "main p, main td, .circuit text"):
        assert 1.05 / (luminance(ink) + 0.05) >= 4.5, (text, ink)


@pytest.mark.parametrize("dark", [False, True])
def test_after_printing_the_page_is_as_it_was(visit: Open, dark: bool) -> None:
    page = visit(sample(MODEL), dark=dark)
    page.drawn("#switch-top")
    state = """() => JSON.stringify([document.documentElement.dataset.theme,
        localStorage.getItem("icl-theme"), getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll(".chart")].map((box) =>
            [box._fullLayout.width, box._fullLayout.font.color])])"""
    before = page.page.evaluate(state)
    widths = "[...document.querySelectorAll('.chart')].map((box) => box._fullLayout.width)"
    print_page(page)
    assert max(page.page.evaluate(widths)) < 700
    page.page.emulate_media(media="screen")
    page.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.page.evaluate(state) != before
    page.page.wait_for_function(f"(before) => ({state})() === before", arg=before)
    assert page.complaints == []


def test_paper_says_what_was_chosen(visit: Open) -> None:
    page = visit(sample(MODEL))
    page.drawn("#switch-top")
    assert page.text("#switch-off") == "Off: nothing"
    page.page.locator("#score").select_option(label=LABELS["previous_token"])
    toggles = page.page.locator("#toggles [role=switch]")
    names = [toggles.nth(i).inner_text().split("\n")[0] for i in (0, 2)]
    toggles.nth(0).click()
    toggles.nth(2).click()
    asked = page.page.locator("#asked").input_value()
    page.page.locator("#tokens .token").nth(13).click()
    print_page(page)
    assert not page.page.locator("#score").is_visible()
    heads, example, switches = (page.text(f"#{name}") for name in ("heads", "example", "switches"))
    assert LABELS["previous_token"] in heads.split("Pinned head")[0]
    assert f"Off: {', '.join(names)}" in switches
    assert f"What comes next after … story to Zarnip ({asked})" in switches
    assert "read from position 13, Harry" in example
    assert "Position 13: Harry." in example


def test_quiz_items_that_are_filtered_away_are_on_paper(visit: Open) -> None:
    page = visit(sample(MODEL))
    items = page.page.locator("#quiz .item")
    page.page.locator('#quiz-filter [data-show="pass"]').click()
    shown = page.page.locator("#quiz .item:visible").count()
    assert shown < items.count()
    print_page(page)
    assert page.page.locator("#quiz .item:visible").count() == items.count()
    assert page.page.locator("#quiz .item .options:visible").count() == items.count()
    page.page.emulate_media(media="screen")
    page.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.page.locator("#quiz .item:visible").count() == shown


@pytest.mark.parametrize("name", [MODEL, "SmolLM2-135M-Instruct.Q4_1"])
def test_no_part_is_wider_than_a_page(visit: Open, name: str) -> None:
    page = visit(sample(name))
    page.drawn("#switch-top")
    print_page(page)
    page.page.set_viewport_size({"width": 720, "height": 900})  # A4 with its margins.
    page.settle()
    wide = page.page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((node) =>
        node.getClientRects().length && node.getBoundingClientRect().right > 720)
        .map((node) => node.tagName + "." + node.className + " " + node.id)"""
    )
    assert wide == []
