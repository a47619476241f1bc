"""The report's sections on sweeps, minimal sets, and what an ablation switched off."""

from __future__ import annotations

import re

from icl_bench.probes.ablations.report import TOP, report_ablation, report_minimal_set, report_sweep
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.render.ablations import list_switched_off
from icl_bench.render.blocks import as_table, shown
from icl_bench.render.html.report import report_page
from icl_bench.render.markdown import report


def head(layer, number, delta, sequences, stderr=0.1):
    return {
        "layer": layer,
        "head": number,
        "repeated_loss": 2 + delta,
        "delta": delta,
        "delta_stderr": stderr,
        "sequences": sequences,
    }


SWEEP = Measurement(
    probe="sweep",
    settings={"method": "zero"},
    metrics={"delta_max": Metric(value=6.5)},
    heads=[head(0, 1, 0.5, 4), head(16, 0, 6.5, 4), head(3, 3, 9.0, 0, None)],
)
MINIMAL = Measurement(
    probe="minimal_set",
    settings={"method": "mean", "share": 0.9},
    metrics={"heads": Metric(value=2, exact=True)},
    tables={
        "kept_heads": [{"layer": 0, "head": 0}, {"layer": 1, "head": 0}],
        "curve": [
            {"order": "elimination", "heads": 2, "copying_kept": 0.93},
            {"order": "induction", "heads": 2, "copying_kept": 0.01},
            {"order": "elimination", "heads": 48, "copying_kept": 1.0},
            {"order": "random 1", "heads": 2, "copying_kept": 0.0},
        ],
    },
)


def ablation(**settings):
    return Measurement(
        probe="ablation",
        settings={"method": "mean", **settings},
        metrics={"loss_ratio": Metric(value=4.0, stderr=0.1)},
        tables={
            "ablated_heads": [{"layer": 5, "head": 1}],
            "chosen_heads": [{"layer": 2, "head": 3}],
        },
    )


def cells(blocks):
    (block,) = blocks
    return shown(as_table(block))


def record(**measurements):
    return RunRecord(
        icl_bench="0",
        created="2026-01-01T00:00:00+00:00",
        status="complete",
        model=ModelInfo(spec="m", slug="m"),
        environment=Environment(python="3.11", platform="x"),
        suites=[],
        measurements=measurements,
        checks=[],
    )


def page(**measurements):
    return report(record(**measurements))


def test_a_sweep_lists_the_largest_of_the_heads_measured_in_full():
    header, rows = cells(report_sweep(SWEEP))
    assert [row[0] for row in rows] == ["16.0", "0.1"]
    assert len(header) == len(rows[0])
    assert "Every head on its own: s/all (zero)" in page(**{"s/all": SWEEP})


def test_a_curve_has_a_row_a_size_and_a_column_an_order():
    header, rows = cells(report_minimal_set(MINIMAL))
    assert header == ["Heads kept", "by elimination", "by induction"]
    assert [row[0] for row in rows] == ["2", "48"] and rows[1][2] == ""
    text = page(**{"s/few": MINIMAL})
    assert "## Minimal set: s/few (mean)" in text and "0.0, 1.0" in text


def test_what_was_switched_off_is_said_in_words():
    assert list_switched_off(ablation()) == "5.1"
    assert list_switched_off(ablation(keep_only=True)) == "every head but 2.3"
    both = ablation(mlps=[3], layers=[7])
    assert list_switched_off(both) == "5.1, the MLP of layer 3, layer 7"
    assert "5.1 (mean, patterns frozen)" in page(**{"s/a": ablation(patterns="frozen")})
    assert "edge knockout" in page(**{"s/a": ablation(method="edge_knockout")})


def null_row(number, margin, low, high, **more):
    row = {"draw": number, "heads": f"5.{number}", "margin": margin, "sequences": 6}
    return {**row, "ci_low": low, "ci_high": high, "note": "", "scores": "", **more}


def compared():
    """An ablation with every table that reports draw of it."""
    found = ablation(heads={"from": "repeats"})
    found.metrics["repeated_loss"] = Metric(value=1.0, stderr=0.1)
    found.metrics["repeated_loss_ablated"] = Metric(value=4.0, stderr=0.1)
    found.metrics["null_margin"] = Metric(value=0.25, stderr=0.1, ci_low=-0.1, ci_high=0.6, n=32)
    found.tables["thresholds"] = [
        {"threshold": 0.2, "heads": 7, "copying_lost": 0.875},
        {"threshold": 0.6, "heads": 0, "copying_lost": 0.0},
    ]
    found.tables["null_margins"] = [
        null_row(number, 0.9 - number / 100, 0.5, 1.2) for number in range(10)
    ] + [
        null_row(11, 0.25, -0.1, 0.6, scores="5.11 0.31"),
        null_row(12, -0.5, -0.9, -0.125, note="feeds them"),
    ]
    return found


def test_an_ablation_shows_other_thresholds_and_the_smallest_margins():
    levels, margins = report_ablation(compared())
    assert shown(levels)[1] == [["0.2", "7", "0.875"], ["0.6", "0", "0"]]
    header, rows = shown(margins)
    assert header[0] == "Off instead" and len(rows) == TOP
    assert rows[0] == ["5.12", "-0.5", "-0.9", "-0.125", "6", "", "feeds them"]
    assert rows[1] == ["5.11", "0.25", "-0.1", "0.6", "6", "5.11 0.31", ""]
    assert rows[2][0] == "5.9"
    assert "significantly more in 10 of 12 comparisons" in margins.note
    assert "significantly less in 1; the 10 smallest margins are shown" in margins.note


def test_an_ablation_without_such_tables_shows_none_and_one_sequence_has_no_ends():
    assert report_ablation(ablation()) == []
    single = ablation()
    single.tables["null_margins"] = [{"draw": 0, "heads": "5.2", "margin": 0.5, "sequences": 1}]
    ((header, rows),) = (shown(block) for block in report_ablation(single))
    assert header == ["Off instead", "Margin", "Sequences"] and rows == [["5.2", "0.5", "1"]]


def test_reports_show_each_table_of_an_ablation_once_and_the_older_null_too():
    found = compared()
    found.tables["null"] = [{"draw": 0, "loss_ratio": 1.25}, {"draw": 1, "loss_ratio": 1.5}]
    written = record(**{"core/collapse": found})
    html, text = report_page(written), report(written)
    for told in ("Copying lost by threshold", "Margin over other heads", "largest 1.5"):
        assert text.count(told) == 1, told
        assert len(re.findall(f">[^<]*{told}", html)) == 1, told
    assert "null_margin: 0.25 ± 0.1, 95% interval [-0.1, 0.6]" in text
    copying = html[html.index('<section id="copying">') :]
    assert "Margin over other heads" in copying[: copying.index("</section>")]
