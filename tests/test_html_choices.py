"""What is chosen in the HTML report is what its words, numbers and colours are about."""

from __future__ import annotations

from itertools import product

import pytest
from browser import Open
from html_pages import sample

from icl_bench.records.record import RunRecord
from icl_bench.render.html.heads import LABELS
from icl_bench.render.writing import numbers

MODEL = "builtin-induction-2l"


def example_tables(record: RunRecord) -> dict:
    return next(one.tables for one in record.measurements.values() if one.probe == "example")


def without_examples(record: RunRecord) -> RunRecord:
    """The record of suites that measure no example."""
    told = record.model_copy(deep=True)
    told.measurements = {k: one for k, one in told.measurements.items() if one.probe != "example"}
    return told


def with_copying_first(record: RunRecord) -> RunRecord:
    """A record whose first score is not the induction score: largest for head 0.3."""
    told = without_examples(record)
    one = next(one for one in told.measurements.values() if one.probe == "induction")
    first = one.model_copy(deep=True)
    first.probe = "copying"
    first.heads = [
        {
            "layer": row["layer"],
            "head": row["head"],
            "ov_eigenvalue": 0.8 if (row["layer"], row["head"]) == (0, 3) else 0.01,
        }
        for row in one.heads
    ]
    told.measurements = {"circuit/copying": first, **told.measurements}
    return told


def test_another_score_says_its_own_number_and_name(visit: Open) -> None:
    record = sample(MODEL)
    page = visit(record)
    page.drawn("#map")
    row = next(
        row
        for one in record.measurements.values()
        if one.probe == "induction"
        for row in one.heads
        if (row["layer"], row["head"]) == (1, 4)
    )
    for name in ("previous_token", "first_token", "induction"):
        page.page.locator("#score").select_option(label=LABELS[name])
        told = page.text("#map-told")
        assert told.startswith(f"Head 1.4: {numbers.number(row[name])}")
        assert LABELS[name] in told
        assert page.text("#score-name") == LABELS[name]
        assert LABELS[name] in str(page.page.locator("#map").get_attribute("aria-label"))
    # The head that the arrow keys are at, if that is another than the pinned one.
    page.page.locator("#map").focus()
    page.page.keyboard.press("ArrowRight")
    page.page.locator("#score").select_option(label=LABELS["previous_token"])
    assert page.text("#map-told").startswith("Head 1.5: ")


@pytest.mark.parametrize("name", [MODEL, "SmolLM2-135M-Instruct.Q4_1"])
def test_what_the_text_goes_on_with_is_among_the_predictions(visit: Open, name: str) -> None:
    record = sample(name)
    tables = example_tables(record)
    rows = {tuple(sorted(row["off"])): row for row in tables["switched"]}
    page = visit(record)
    page.drawn("#switch-top")
    drawn = """() => { const { data, layout } = document.getElementById("switch-top");
        return [layout.yaxis.ticktext, data.find((one) => one.name === "clean").x,
            (data.find((one) => one.name === "switched") || {}).x || null]; }"""
    count = len(tables["switches"])
    asked = [one for one in rows[()]["predictions"] if one.get("next")]
    assert asked
    before: set[int] = set()
    for choice in product((False, True), repeat=count):
        off = {index for index in range(count) if choice[index]}
        for index in off ^ before:
            page.page.locator("#toggles [role=switch]").nth(index).click()
        before = off
        for one in asked:
            page.page.locator("#asked").select_option(str(one["position"]))
            labels, clean, switched = page.page.evaluate(drawn)
            assert len(labels) <= 7
            [answer] = [place for place, label in enumerate(labels) if label.endswith(" ◂")]
            assert clean[answer] == one["next"][1]
            if off:
                key = tuple(sorted(off))
                after = next(
                    p for p in rows[key]["predictions"] if p["position"] == one["position"]
                )
                assert switched[answer] == after["next"][1]
                # And nothing likelier is left out in favour of a smaller one.
                shares: dict[str, float] = {}
                for text, share in [*one["top"], *after["top"]]:
                    shares[text] = max(share, shares.get(text, 0))
                others = sorted((s for t, s in shares.items() if t != one["next"][0]), reverse=True)
                kept = [max(pair) for i, pair in enumerate(zip(clean, switched)) if i != answer]
                assert sorted(kept, reverse=True) == others[:6]
    assert page.complaints == []


def test_the_strongest_induction_head_is_pinned_without_an_example(visit: Open) -> None:
    page = visit(with_copying_first(sample(MODEL)))
    page.drawn("#map")
    assert page.text("#pinned-name") == "1.4"
    assert page.text("#score-name") == LABELS["induction"]
    assert page.text("#map-told").startswith("Head 1.4: 0.889")


def test_without_an_induction_score_the_first_score_decides(visit: Open) -> None:
    record = with_copying_first(sample(MODEL))
    for one in record.measurements.values():
        one.heads = one.heads if one.probe == "copying" else []
    page = visit(record)
    page.drawn("#map")
    assert page.text("#pinned-name") == "0.3"
    assert page.text("#score-name") == LABELS["ov_eigenvalue"]


def test_a_head_without_a_pattern_is_the_one_that_is_chosen(visit: Open) -> None:
    record = sample(MODEL).model_copy(deep=True)
    tables = example_tables(record)
    tables["example_patterns"] = [
        row for row in tables["example_patterns"] if (row["layer"], row["head"]) != (0, 5)
    ]
    page = visit(record)
    page.drawn("#pattern")
    page.page.locator('#heads [data-pin="0.5"]').first.click()
    chosen = "document.getElementById('example-head').selectedOptions[0].textContent"
    assert page.page.evaluate(chosen) == "0.5 (its pattern was not kept)"
    assert "no pattern was kept" in page.page.locator("#pattern").inner_text()
    page.page.locator('#heads [data-pin="0.9"]').first.click()
    assert page.page.evaluate(chosen).startswith("0.9")
    assert page.complaints == []


def test_a_pin_among_the_circuits_heads_keeps_the_keyboard_there(visit: Open) -> None:
    page = visit(sample(MODEL))
    button = page.page.locator('#reads [data-head="0.9"]')
    button.focus()
    page.page.keyboard.press("Enter")
    assert page.text("#pinned-name") == "0.9"
    assert page.page.evaluate("document.activeElement.dataset.head") == "0.9"
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.closest('#reads') !== null")
    # Whoever is elsewhere is left there.
    page.page.locator("#tokens").focus()
    page.page.keyboard.press("ArrowLeft")
    assert page.page.evaluate("document.activeElement.id") == "tokens"


@pytest.mark.parametrize(
    ("name", "values", "range_", "around_zero"),
    [
        ("ov_eigenvalue", (0.02, 0.9), (-1, 1), True),
        ("ov_eigenvalue", (-0.9, 0.9), (-1, 1), True),
        ("ov_behaviour", (-0.04, 0.3), (-1, 1), True),
        ("induction_excess", (-0.01, 0.88), (-1, 1), True),
        ("logit", (0.01, 4.4), (-4.4, 4.4), True),
        ("delta", (-0.03, 0.5), (-0.5, 0.5), True),
        ("function_vector", (-0.002, 0.04), (-0.04, 0.04), True),
        ("induction", (0.0, 0.4), (0, 1), False),
        ("first_token", (0.1, 0.9), (0, 1), False),
    ],
)
def test_the_scale_of_a_score_does_not_hang_on_the_model(
    visit: Open,
    name: str,
    values: tuple[float, float],
    range_: tuple[float, float],
    around_zero: bool,
) -> None:
    record = without_examples(sample(MODEL))
    one = next(m for m in record.measurements.values() if m.probe == "induction")
    one.heads = [
        {"layer": layer, "head": head, name: values[(layer + head) % 2]}
        for layer in range(2)
        for head in range(12)
    ]
    record.measurements = {"circuit/heads": one}
    page = visit(record)
    page.drawn("#map")
    low, high, scale = page.page.evaluate(
        "(({ zmin, zmax, colorscale }) => [zmin, zmax, colorscale])"
        "(document.getElementById('map').data[0])"
    )
    assert (low, high) == range_
    assert (scale != "Cividis") == around_zero
