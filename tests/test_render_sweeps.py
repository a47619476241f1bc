"""The report's sections on sweeps, minimal sets, and what an ablation switched off."""

from __future__ import annotations

from icl_bench.probes.ablations.report import report_minimal_set, report_sweep
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.render.ablations import list_switched_off
from icl_bench.render.blocks import as_table, shown
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


def page(**measurements):
    return report(
        RunRecord(
            icl_bench="0",
            created="2026-01-01T00:00:00+00:00",
            status="complete",
            model=ModelInfo(spec="m", slug="m"),
            environment=Environment(python="3.11", platform="x"),
            suites=[],
            measurements=measurements,
            checks=[],
        )
    )


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
