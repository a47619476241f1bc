"""leaderboard.html in a real browser: sorting, filtering, charts, two models compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import make, write
from browser import Visit, open_browser

from icl_bench.ranking import rank, read_entries
from icl_bench.reports.leaderboard import write_leaderboard

EVIL = "<b>bold</b> %{x} <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    write(
        folder,
        make("small", 0.9, seed=1, model={"parameters": 2_000_000}),
        make("large", 0.5, seed=2, model={"parameters": 7_000_000_000}),
        make("near", 0.5, seed=3, model={"parameters": 50_000_000}),
        make(EVIL, 0.1, seed=4, model={"slug": "evil", "parameters": None}),
        make("mamba", None, model={"parameters": 1_000_000}),
        make("elsewhere", 0.3, settings={"seed": 1}),
    )
    [path] = write_leaderboard(rank(read_entries([folder]).read), folder, ["html"])
    return path


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Visit]:
    opened = Visit(browser, page_file)
    yield opened
    assert opened.complaints == []
    assert opened.fetched() == []
    opened.close()


def names(visit: Visit, table: int = 0) -> list[str]:
    rows = visit.page.locator("table.board").nth(table).locator("tbody tr:visible th.name")
    return [text.split("\n")[0] for text in rows.all_inner_texts()]


def told(visit: Visit) -> str:
    return visit.text("#told")


def test_rows_are_sorted_by_any_column_from_the_keyboard(visit: Visit) -> None:
    assert names(visit)[0] == "small" and names(visit)[-1] == "mamba"
    header = visit.page.locator("table.board").first.locator("th", has_text="Parameters")
    header.locator("button").focus()
    visit.page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert names(visit) == ["large", "near", "small", "mamba", EVIL]
    visit.page.keyboard.press("Enter")
    # Unknown sizes stay last, whichever way.
    assert names(visit) == ["mamba", "small", "near", "large", EVIL]
    others = visit.page.locator("table.board").first.locator('th[aria-sort="ascending"]')
    assert others.count() == 1


def test_models_are_filtered_by_text_and_size(visit: Visit) -> None:
    page = visit.page
    page.fill("#filter", "SMALL")
    page.wait_for_selector("#shown:text('1 of 6 models shown')")
    assert names(visit) == ["small"]
    page.fill("#filter", "")
    page.fill("#size-from", "10M")
    page.fill("#size-to", "7B")
    page.wait_for_selector("#shown:text('2 of 6 models shown')")
    assert sorted(names(visit)) == ["large", "near"]
    page.fill("#size-to", "many")
    page.wait_for_selector('#size-to[aria-invalid="true"]')


def test_two_models_are_compared_as_the_ranking_does(visit: Visit) -> None:
    page = visit.page
    assert "Significantly better: small." in told(visit)
    assert "sample by sample, on the same tokens" in told(visit)
    page.select_option("#first", label="near")
    page.select_option("#second", label="large")
    assert "Not significantly different." in told(visit)
    page.select_option("#second", label="near")
    assert told(visit) == "Choose two different models."
    page.select_option("#group", "1")
    assert told(visit) == "It takes two models with a rank."


def test_charts_show_the_chosen_metric_and_what_was_not_measured_apart(visit: Visit) -> None:
    visit.drawn("#forest")
    visit.drawn("#scatter")
    visit.drawn("#pair")
    labels = visit.page.locator("#forest .ytick text").all_text_contents()
    assert labels[0] == "small" and EVIL[:20] in labels[-1] and "mamba" not in labels
    summary = visit.page.locator("#missing summary")
    assert summary.inner_text() == "Not measured, or not in the same way: 1"
    summary.click()
    assert visit.text("#missing li") == "mamba: no head to look at"
    visit.page.select_option("#metric", label="repeats.uniform_level")
    cell = visit.page.locator("td.chosen").first
    assert cell.is_visible() and cell.inner_text().startswith("0.02")
    assert "Not ranked: neither more nor less" in visit.text("#intervals-lead")


def test_models_without_a_circuit_are_shown_so_in_tables_and_charts(
    browser: Any, tmp_path: Path
) -> None:
    records = [make("good", 0.9, seed=1), make("none", 0.02, seed=2)]
    for one in records:  # with a second metric that ranks so
        metrics = one.measurements["core/repeats"].metrics
        metrics["induction_all_max"] = metrics["induction_max"]
    write(tmp_path, *records)
    [path] = write_leaderboard(rank(read_entries([tmp_path]).read), tmp_path, ["html"])
    visit = Visit(browser, path)
    ranks = visit.page.locator("td.rank").all_inner_texts()
    assert [text.strip() for text in ranks] == ["1", "no circuit"]
    assert "even attention" in str(visit.page.locator("td.rank").last.get_attribute("title"))
    box = visit.page.locator("#metric")
    box.select_option(
        label=next(
            text for text in box.locator("option").all_inner_texts() if "induction_all_max" in text
        )
    )
    shown = visit.page.locator("td.chosen small").all_inner_texts()
    assert shown == ["rank 1", "no circuit"] and visit.complaints == []
    visit.close()


def test_numbers_measured_in_another_way_stand_in_no_chart(browser: Any, tmp_path: Path) -> None:
    odd = make("odd", 0.8)
    odd.measurements["core/collapse"].settings = {"seed": 7}
    write(tmp_path, make("a", 0.7), make("b", 0.6), odd)
    [path] = write_leaderboard(rank(read_entries([tmp_path]).read), tmp_path, ["html"])
    visit = Visit(browser, path)
    visit.drawn("#forest")
    assert "Shown are all models" in visit.text("#intervals-lead")
    visit.page.select_option("#metric", label="collapse.repeated_loss ↓")
    assert "Shown are 2 of 3 models" in visit.text("#intervals-lead")
    visit.page.locator("#missing summary").click()
    assert visit.text("#missing li") == "odd: not comparable: seed 7 (elsewhere 0)"
    labels = visit.page.locator("#forest .ytick text").all_text_contents()
    assert sorted(labels) == ["a", "b"]
    visit.close()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1400, True)])
def test_the_page_is_no_wider_than_a_phone(
    browser: Any, page_file: Path, width: int, dark: bool
) -> None:
    visit = Visit(browser, page_file, width, dark)
    visit.drawn("#forest")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.complaints == []
    visit.close()


@pytest.mark.long
def test_a_thousand_models_stay_usable(browser: Any, tmp_path: Path) -> None:
    write(tmp_path, *(make(f"m{i:04}", i / 1000, seed=i % 7) for i in range(0, 1000)))
    [path] = write_leaderboard(rank(read_entries([tmp_path]).read), tmp_path, ["html"])
    visit = Visit(browser, path)
    visit.drawn("#forest")
    assert "1000 of 1000 models shown" in visit.text("#shown")
    assert len(visit.page.locator("#forest .ytick text").all_text_contents()) <= 60
    header = visit.page.locator("table.board th.name button").first
    header.click()
    assert names(visit)[:2] == ["m0000", "m0001"]
    best = visit.page.locator("#first option").nth(3).inner_text()
    visit.page.select_option("#first", "900")
    visit.page.select_option("#second", "3")
    assert f"Significantly better: {best}." in told(visit)
    assert visit.complaints == []
    visit.close()
