"""The report's tables of few-shot tasks and of loss by position."""

from __future__ import annotations

from icl_bench.probes.texts.report import report_fewshot, report_icl_score
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.render.blocks import as_table, shown
from icl_bench.render.markdown import report

MEASURED = {"x": Metric(value=1, exact=True)}
SHOTS = Measurement(
    probe="fewshot",
    metrics=MEASURED,
    tables={
        "curve": [
            {"shots": 0, "accuracy": 0.5, "accuracy_stderr": 0.1, "first_token_accuracy": 0.0},
            {"shots": 5, "accuracy": 0.75, "accuracy_stderr": 0.05, "first_token_accuracy": 0.25},
        ],
        "tasks": [
            {"task": "antonym", "queries": 8, "fewshot_gain": 0.25, "gain_ablated": 0.125},
        ],
    },
)
TEXT = Measurement(
    probe="icl_score",
    metrics=MEASURED,
    tables={"positions": [{"position": i, "loss": 4 - i / 512} for i in range(511)]},
)


def cells(block):
    return shown(as_table(block))


def test_accuracy_by_number_of_examples():
    header, rows = cells(report_fewshot(SHOTS)[0])
    assert header[0] == "Examples"
    assert rows == [["0", "0.5 ± 0.1", "0"], ["5", "0.75 ± 0.05", "0.25"]]


def test_tasks_show_the_gain_with_heads_off_only_where_there_is_one():
    assert cells(report_fewshot(SHOTS)[1])[1] == [["antonym", "8", "0.25", "0.125"]]
    clean = SHOTS.model_copy(update={"tables": {"tasks": [{"task": "t", "queries": 1}]}})
    assert cells(report_fewshot(clean)[1]) == (
        ["Task", "Queries", "Gain from examples"],
        [["t", "1", ""]],
    )


def test_losses_are_means_over_stretches_of_positions():
    _, rows = cells(report_icl_score(TEXT)[0])
    assert [row[0] for row in rows][-1] == "256 – 510" and len(rows) == 7
    assert float(rows[-1][1]) == round(4 - (256 + 510) / 2 / 512, 2)


def test_the_report_shows_both():
    record = RunRecord(
        icl_bench="0",
        created="2026-01-01T00:00:00+00:00",
        status="complete",
        model=ModelInfo(spec="m", slug="m"),
        environment=Environment(python="3.11", platform="x"),
        suites=[],
        measurements={"s/a": SHOTS, "s/b": TEXT},
        checks=[],
    )
    text = report(record)
    assert "## Examples in the prompt: s/a" in text and "antonym" in text
    assert "## Loss by position on text: s/b" in text and "256 – 510" in text
