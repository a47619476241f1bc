"""Text in the HTML report: legible on any shade, no wider than the page, in its own direction."""

from __future__ import annotations

import base64

import pytest
from browser import Open
from html_pages import sample
from test_html_print import luminance

from icl_bench.records.record import RunRecord

MODEL = "builtin-induction-2l"


def with_every_share() -> RunRecord:
    """A record in which the pinned head's pattern holds every byte there is, row by row."""
    record = sample(MODEL).model_copy(deep=True)
    [tables] = [one.tables for one in record.measurements.values() if one.probe == "example"]
    first = tables["example_tokens"][0]
    tables["example_tokens"] = [{**first, "position": i, "token": f"w{i}"} for i in range(23)]
    packed = bytes(i % 256 for i in range(23 * 24 // 2))
    for row in tables["example_patterns"]:
        row["pattern"] = base64.b64encode(packed).decode()
    return record


@pytest.mark.parametrize("dark", [False, True])
def test_tokens_are_legible_on_every_shade(visit: Open, dark: bool) -> None:
    page = visit(with_every_share(), dark=dark)
    page.page.locator("#tokens").focus()
    page.page.keyboard.press("Home")
    seen = set()
    for _ in range(23):
        # Of every token up to the current one: its share, its own and its number's ink, its ground.
        found = page.page.evaluate(
            """() => [...document.querySelectorAll("#tokens .token:not(.later)")].map((box) => [
            getComputedStyle(box).backgroundColor, getComputedStyle(box.firstChild).color,
            getComputedStyle(box.lastChild).color, getComputedStyle(box.lastChild).opacity,
            getComputedStyle(box).opacity])"""
        )
        for ground, *inks, small, whole in found:
            assert small == whole == "1"
            assert ground.startswith("rgb("), "a part of what is behind would show through"
            seen.add(ground)
            for ink in inks:
                dim, bright = sorted((luminance(ink), luminance(ground)))
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, ground)
        page.page.keyboard.press("ArrowRight")
    assert len(seen) > 80


def with_long_words(record: RunRecord, word: str) -> RunRecord:
    """The record with a long word wherever text from models and suites stands."""
    told = record.model_copy(deep=True)
    told.model.spec = told.model.architecture = told.model.attention_note = word
    told.suites[0].name = told.suites[0].description = word
    for place, check in enumerate(told.checks):
        check.suite = word if check.suite == record.suites[0].name else check.suite
        check.id = f"{place}{word}"
        check.verdict = "fail" if place % 3 else check.verdict
        check.description = check.reason = word
        if check.kind == "quiz":
            check.question = word
            check.options = dict.fromkeys(check.options or {}, word)
    for one in told.measurements.values():
        one.reason = word
        one.settings["text"] = word
        for row in one.tables.get("example_tokens", []):
            row["token"] = word
        for row in one.tables.get("switches", []):
            row["label"] = word
        for row in one.tables.get("switched", []):
            for asked in row.get("predictions", []):
                asked["top"] = [[f"{i}{word}", s] for i, (_, s) in enumerate(asked["top"])]
    told.measurements = {f"{key}{word}": one for key, one in told.measurements.items()}
    return told


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("word", ["x" * 300, "/root/.cache/icl_bench/" + "models--a/" * 30])
def test_long_words_do_not_widen_the_page(visit: Open, width: int, word: str) -> None:
    page = visit(with_long_words(sample(MODEL), word), width=width)
    page.page.evaluate(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    page.page.locator("#toggles [role=switch]").first.click()
    page.settle()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    # Nor are short words and numbers broken for it.
    heights = page.page.evaluate(
        """() => [...document.querySelectorAll(".badge:not(.big), .checks .measured b, td.num")]
        .filter((node) => /^[\\d.]+$/.test(node.innerText.trim()) || node.matches(".badge"))
        .map((node) => node.getClientRects().length)"""
    )
    assert set(heights) == {1}
    assert page.complaints == []


TURNED = {
    "\u202eabc": "\\u202eabc",
    "a\u0007b\u200bc": "a\\u0007b\\u200bc",
    "\U000e0041": "\\u{e0041}",
    "a\nb\tc d": "a⏎b⇥c·d",
    "\u2028": "\\u2028",
    "\ud83d": "\\ud83d",
    "שלום": "שלום",
    "": "∅",
}
"""Token -> what is shown."""


def test_signs_without_a_shape_are_shown_by_their_number(visit: Open) -> None:
    page = visit(sample(MODEL))
    for token, shown in TURNED.items():
        # As JSON, for half a surrogate pair has no UTF-8.
        text = "".join(f"\\u{ord(s):04x}" for s in token if ord(s) < 0x10000)
        text = text or "".join(f"\\u{{{ord(s):x}}}" for s in token)
        assert page.page.evaluate(f'icl.showToken("{text}")') == shown


def test_tokens_written_from_the_right_leave_numbers_in_place(visit: Open) -> None:
    record = sample(MODEL).model_copy(deep=True)
    [tables] = [one.tables for one in record.measurements.values() if one.probe == "example"]
    for row in tables["example_tokens"]:
        row["token"] = "שלום"
    tables["example_tokens"][4]["token"] = "\u202eabc"
    page = visit(record)
    page.page.locator("#tokens .token").nth(13).click()
    told = page.page.locator("#told")
    assert "\\u202eabc" in told.inner_text() and "\u202e" not in told.inner_text()
    for selector in ("#told", "#reads", "#reads-from", "#asked-told", "#tokens"):
        texts = page.page.evaluate(
            """(selector) => { const box = document.querySelector(selector).cloneNode(true);
            const count = box.querySelectorAll("bdi").length;
            box.querySelectorAll("bdi").forEach((one) => one.remove());
            return [count, box.textContent]; }""",
            selector,
        )
        assert texts[0] and "שלום" not in texts[1], selector
    # The sentence's start is to the left of its end: "13" stands before the token after it.
    places = page.page.evaluate(
        """() => { const range = document.createRange();
        range.selectNodeContents(document.querySelector("#told").firstChild);
        return [range.getBoundingClientRect().left,
            document.querySelector("#told bdi").getBoundingClientRect().left]; }"""
    )
    assert places[0] < places[1]
    option = page.page.locator("#asked option").last
    assert (
        str(option.text_content()).count("\u2068")
        == str(option.text_content()).count("\u2069")
        == 1
    )
