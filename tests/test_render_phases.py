"""Phase changes in reports: pictures of curves, tables, one sentence."""

from __future__ import annotations

import math

import pytest
from phase_series import STEPS, make_series, rise

from icl_bench.probes.design.context import Context
from icl_bench.probes.training import phase_change
from icl_bench.records.parts import Environment, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.render import phases
from icl_bench.render.markdown import report
from icl_bench.render.terminal import summary


def measure(**curves):
    losses = {step: 6 - 4 * float(rise([step], 650)[0]) for step in range(1, 2001)}
    settings = phase_change.Settings(scores="repeats", losses="losses", null_draws=19)
    series = make_series(**curves, training_loss=losses)
    return phase_change.measure_series(series, settings, Context())


@pytest.fixture(scope="module")
def sudden():
    curve = rise(STEPS, 650)
    return measure(induction=curve, previous_token=curve, copying=curve)


@pytest.fixture(scope="module")
def flat():
    return measure()


def record(measurement):
    return RunRecord(
        icl_bench="0",
        created="2026-01-01T00:00:00+00:00",
        model=ModelInfo(spec="m", slug="m"),
        environment=Environment(python="3.11", platform="x"),
        suites=[],
        measurements={"phase-change/change": measurement},
    )


def test_the_detected_step_stands_under_the_rise(sudden):
    lines = phases.pictures(sudden, 40)
    drawn = next(line for line in lines if line.startswith("induction score"))
    marked = next(line for line in lines if line.startswith("induction half formed"))
    place = marked.index("^") - drawn.index("▁")
    assert place == int(40 * math.log(650) / math.log(2000))
    picture = drawn.split()[2]
    assert picture[place - 3] == "▁" and picture[place + 3] == "█"
    assert any(line.startswith("recorded training loss") for line in lines)
    assert lines[-1].split() == ["step", "1", "2000"]


def test_a_report_has_picture_changes_and_curves(sudden):
    text = report(record(sudden))
    assert "## Phase change: phase-change/change" in text
    assert "▁▁▁" in text and "| 600 – 700 |" in text.replace("  ", " ")
    header, rows = phases.changes_table(sudden)
    assert [len(row) for row in rows] == [len(header)] * len(rows)
    assert rows[0][0] == "induction score" and rows[0][-1] == "0.05"
    header, rows = phases.curves_table(sudden)
    assert [row[0] for row in rows] == [str(step) for step in STEPS]
    assert [len(row) for row in rows] == [len(header)] * len(rows)


def test_a_terminal_says_it_in_a_sentence(sudden):
    text = " ".join(summary([record(sudden)]).split())
    assert "Phase change (phase-change/change): induction +0.899" in text
    assert "(between 600 and 700)" in text and "training loss 65" in text
    summary([record(sudden)], unicode=False).encode("ascii")


def test_where_nothing_changes_the_reason_is_given(flat):
    assert phases.summarize(flat).startswith("no phase change: the rise of the induction score is")
    text = report(record(flat))
    assert "no phase change" in text and "no change" in text
    assert not any("half formed" in line for line in phases.pictures(flat))
    assert "no phase change" in " ".join(summary([record(flat)]).split())


def test_other_measurements_have_no_such_section(sudden):
    other = sudden.model_copy(update={"tables": {"curves": [{"step": 1, "temperature": 2.0}]}})
    assert "Phase change" not in report(record(other))
    skipped = sudden.model_copy(update={"tables": {}, "metrics": {}, "status": "skipped"})
    assert "Phase change" not in report(record(skipped))
