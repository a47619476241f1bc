"""The page of a training run: what `icl-bench report OUTPUT_DIR/icl` makes of all evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Visit
from html_pages import HOSTILE, Reader
from test_render_records import make_record

from icl_bench.cli import main
from icl_bench.records.parts import GateVerdict, Measurement, Metric
from icl_bench.records.record import RunRecord
from icl_bench.render.html.training_run import training_run_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REACHES = "induction_max > 0.4 by step 300"
KEEPS = "repeats/induction_max within 0.1 of its best"
SCORES = {0: 0.02, 100: 0.1, 200: 0.7, 300: 0.9, 400: 0.6}
REACHED = ("skipped", "skipped", "pass", "pass", "pass")
KEPT = ("skipped", "pass", "pass", "pass", "fail")


def evaluations() -> list[RunRecord]:
    """A run that reaches a score and loses a part of it again."""
    made = []
    for place, (step, score) in enumerate(SCORES.items()):
        record = make_record(
            step=step,
            created=f"2025-01-02T03:04:0{place}Z",
            gates=[
                GateVerdict(gate=REACHES, verdict=REACHED[place], reason=f"due; {HOSTILE}"),
                GateVerdict(gate=KEEPS, verdict=KEPT[place], reason=f"{score} now"),
            ],
        )
        record.model.spec, record.model.slug = f"run1@{step}", "run1"
        taken = record.measurements["core/repeats"]
        taken.metrics["induction_max"] = Metric(
            value=score, stderr=0.01, ci_low=score - 0.02, ci_high=score + 0.02, n=32
        )
        made.append(record)
    made[1].measurements["core/repeats"] = Measurement(
        probe="induction", status="error", reason="it broke"
    )
    return made


def write(folder: Path) -> Path:
    for record in evaluations():
        record.write(folder / "icl" / f"results-step{record.step}.json")
    return folder / "icl"


def words_of(page: str) -> str:
    return " ".join(" ".join(Reader(page).words).split())


def test_every_gate_is_told_with_the_steps_at_which_its_verdict_changed() -> None:
    text = training_run_page(evaluations(), plotly="x.js")
    assert Reader(text).faults == []
    words = words_of(text)
    assert "5 evaluations, steps 0 to 400" in words
    gates = words.partition("Gates What had to hold")[2].partition("Over the training run")[0]
    reached, kept = gates.partition(KEEPS)[::2]
    assert REACHES in reached and "step 0 – SKIP due since step 200 ✓ PASS" in reached
    assert "step 0 – SKIP 0.02 now step 100 ✓ PASS 0.1 now since step 400 ✗ FAIL 0.6 now" in kept


def test_what_was_not_measured_at_a_step_is_said() -> None:
    assert "step 100: it broke (core/repeats)" in words_of(
        training_run_page(evaluations(), plotly="x.js")
    )


def test_records_of_an_earlier_run_are_noticed() -> None:
    records = evaluations()
    assert "an earlier run" not in training_run_page(records, plotly="x.js")
    records[-1].created = "2024-01-02T03:04:05Z"
    assert "Step 400 was evaluated before step 300" in training_run_page(records, plotly="x.js")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 400])
def test_curves_are_drawn_with_the_changes_of_their_gates(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    folder = write(tmp_path)
    assert main(["report", str(folder), "--plotly=shared"]) == 0
    page = Visit(browser, folder / "training.html", width=width, dark=dark)
    first = "#training-panels .panel:first-child"
    page.drawn(f"{first} .chart")
    assert page.text(f"{first} h3") == "induction_max (core/repeats)"
    drawn = page.page.locator(f"{first} .chart").evaluate(
        "(box) => { const line = box.data[box.data.length - 1];"
        " return [line.x, line.y, box.layout.shapes.map((one) => one.x0)]; }"
    )
    known = {step: score for step, score in SCORES.items() if step != 100}
    assert drawn == [list(known), list(known.values()), [200, 100, 400]]
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.evaluate("window.hacked") is None
    links = page.page.locator("#steps a").evaluate_all("(all) => all.map((a) => a.href)")
    assert links == [(folder / f"report-step{step}.html").as_uri() for step in SCORES]
    assert all((folder / f"report-step{step}.html").is_file() for step in SCORES)
    assert page.complaints == [] and page.fetched() == []
    page.close()


def test_one_evaluation_is_no_run(tmp_path: Path) -> None:
    evaluations()[0].write(tmp_path / "results-step0.json")
    assert main(["report", str(tmp_path)]) == 0
    assert not (tmp_path / "training.html").exists()


def test_the_page_goes_where_the_reports_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    assert main(["report", str(folder), f"--output={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "run1" / "training.html").is_file()
    assert not (folder / "training.html").exists()
    assert "training.html in" in capsys.readouterr().out


def test_two_records_of_one_step_are_no_run_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    evaluations()[0].write(folder / "results-copy.json")
    assert main(["report", str(folder)]) == 1
    assert "several records of one step" in capsys.readouterr().err
    assert not (folder / "training.html").exists()
