"""A series in reports: small curves, a table by step, the checkpoints that were not measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from test_render_records import make_check

from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo, SuiteRef
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render import markdown
from icl_bench.render.steps import (
    curve_rows,
    describe_steps,
    metrics_of,
    shown_metrics,
    steps_table,
)
from icl_bench.render.terminal import summary
from icl_bench.render.writing.text import columns
from icl_bench.reports.files import write_reports

STEPS = (1, 10, 100, 1000)


def make_series(status: Any = "complete", **model: Any) -> RunRecord:
    rows = [
        {"step": step, "induction_max": 0.1 * place, "induction_max_stderr": 0.01, "gain": 1.0}
        for place, step in enumerate(STEPS)
    ]
    del rows[1]["gain"]
    measurement = Measurement(
        probe="induction",
        metrics={"induction_max": Metric(value=0.3, stderr=0.01), "gain": Metric(value=1)},
        tables={"steps": rows, "broken_steps": [{"step": 50, "reason": "it was | cut"}]},
    )
    return RunRecord(
        icl_bench="0",
        created="today",
        status=status,
        model=ModelInfo(**{"spec": "runs@*", "slug": "runs--", "steps": list(STEPS), **model}),
        environment=Environment(python="3", platform="here"),
        suites=[SuiteRef(name="core", sha256="0")],
        measurements={"core/repeats": measurement, "core/other": measurement},
        checks=[make_check("has-induction-heads")],
    )


def test_metrics_that_are_the_same_are_shown_once() -> None:
    record = make_series()
    for row in record.measurements["core/other"].tables["steps"]:
        row |= {"induction_all_max": row["induction_max"], "extra": 2 * row["induction_max"]}
    assert shown_metrics(record, "core/other") == ["induction_max", "gain", "extra"]
    assert shown_metrics(record, "core/repeats") == ["induction_max"]


def test_differences_within_an_interval_are_not_drawn() -> None:
    record = make_series()
    for row in record.measurements["core/repeats"].tables["steps"]:
        row |= {"induction_max_ci_low": 0, "induction_max_ci_high": 0.4}
    assert [row[-1] for row in curve_rows(record)] == ["▁▁▁▁", "▁▁▁▁", "▁–▁▁"]


def test_a_row_names_its_metrics() -> None:
    row = {"step": 1, "a": 1, "a_stderr": 0, "a_ci_low": 0, "a_ci_high": 2, "b": 3}
    assert metrics_of(row) == ["a", "b"]


def test_the_terminal_shows_the_curves_of_what_checks_are_on() -> None:
    text = summary([make_series()])
    assert "runs@* — 4 checkpoints, steps 1 to 1000" in text
    lines = text.splitlines()
    start = lines.index("Over 4 checkpoints, steps 1 to 1000")
    assert lines[start + 1].split() == ["Measurement", "Metric", "First", "Last", "Curve"]
    assert lines[start + 3].split() == ["core/repeats", "induction_max", "0", "0.3", "▁▃▆█"]
    # No check is on the other one, so its first metrics are shown.
    assert lines[start + 4].split() == ["core/other", "induction_max", "0", "0.3", "▁▃▆█"]
    assert lines[start + 5].split() == ["core/other", "gain", "1", "1", "▁–▁▁"]
    assert "Not measured: step 50: it was | cut" in text
    plain = summary([make_series()], unicode=False)
    assert "_:+#" in plain and plain.isascii()


def test_on_a_narrow_terminal_no_bar_of_a_curve_is_lost() -> None:
    folder = Path(__file__).parents[1] / "reports" / "samples" / "builtin-induction-2l--"
    record = read_record(folder)
    wide, narrow = (summary([record], width=width) for width in (100, 60))
    assert max(map(columns, narrow.splitlines())) <= 60
    curves = [re.findall("[▁-█–]{8,}", text) for text in (wide, narrow)]
    assert curves[0] == curves[1] != []


def test_the_report_has_a_table_by_step() -> None:
    report = markdown.report(make_series())
    assert "A series of 4 checkpoints, steps 1 to 1000." in report
    assert "Not measured, step 50: it was \\| cut (core/repeats, core/other)" in report
    assert "### Step by step: core/repeats" in report
    header, rows = steps_table(make_series(), "core/other")
    assert header == ["Step", "induction_max", "gain"]
    assert rows[1] == ["10", "0.1 ± 0.01", "not measured"]
    assert [row[0] for row in rows] == ["1", "10", "100", "1000"]


def test_a_single_model_has_nothing_of_it(tmp_path: Path) -> None:
    record = make_series(steps=None, revision="abc")
    for measurement in record.measurements.values():
        measurement.tables.clear()
    assert describe_steps(record) is None
    assert "Over" not in summary([record]) and "training run" not in markdown.report(record)
    assert "runs@*@abc" in summary([record])
    assert "runs@*@abc" not in summary([make_series(revision="abc")])
    names = [path.name for path in write_reports([record], tmp_path)]
    assert "steps.csv" not in names


def test_every_metric_at_every_step_is_in_a_file(tmp_path: Path) -> None:
    write_reports([make_series()], tmp_path)
    lines = (tmp_path / "runs--" / "steps.csv").read_text().splitlines()
    assert lines[0] == "model,suite,measurement,step,metric,value,stderr,ci_low,ci_high"
    assert lines[1] == "runs@*,core,repeats,1,induction_max,0.0,0.01,,"
    assert len(lines) == 1 + 2 * 7


def test_a_partial_series_does_not_replace_a_complete_one(tmp_path: Path) -> None:
    write_reports([make_series()], tmp_path)
    write_reports([make_series("interrupted")], tmp_path)
    assert (tmp_path / "runs--" / "steps.partial.csv").is_file()
    write_reports([make_series()], tmp_path)
    assert not (tmp_path / "runs--" / "steps.partial.csv").exists()


def test_the_terminal_counts_the_steps_that_are_from_the_cache() -> None:
    record = make_series()
    steps = list(record.model.steps or [])
    for key, cached in (("core/repeats", steps[:3]), ("core/other", steps[1:])):
        own = record.measurements[key].model_copy(update={"cached_steps": cached})
        record.measurements[key] = own
    # A step counts when all that was measured there is from the cache.
    by_hand = len(set(steps[:3]) & set(steps[1:]))
    assert f"; {by_hand} of {len(steps)} steps from the cache" in summary([record])
    record.measurements["core/other"].cached_steps = []
    assert "from the cache" not in summary([record])
