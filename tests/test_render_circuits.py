"""The report's table of the circuit, head by head."""

from __future__ import annotations

from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.render.circuits import circuit_tables
from icl_bench.render.markdown import report


def effect(sender, side, clean, patched):
    return {
        "sender_layer": sender[0],
        "sender_head": sender[1],
        "layer": 2,
        "head": 4,
        "side": side,
        "clean": clean,
        "patched": patched,
        "drop": clean - patched,
    }


def part(side, component, value):
    return {"layer": 2, "head": 4, "side": side, "component": component, "value": value}


MEASURED = {"x": Metric(value=1, exact=True)}
SUITE = {
    "c/scores": Measurement(
        probe="induction", metrics=MEASURED, heads=[{"layer": 2, "head": 4, "induction": 0.91}]
    ),
    "c/paths": Measurement(
        probe="composition",
        metrics=MEASURED,
        tables={
            "composition": [
                effect((0, 1), "key", 0.9, 0.85),
                effect((1, 3), "key", 0.9, 0.01),
                effect((0, 1), "query", 0.9, 0.7),
            ]
        },
    ),
    "c/match": Measurement(
        probe="attention_attribution",
        metrics=MEASURED,
        tables={
            "attention_sides": [
                part("key", "1.3", 6.0),
                part("key", "embedding", 2.0),
                part("query", "mlp 0", 8.0),
            ]
        },
    ),
    "c/writing": Measurement(
        probe="logit_attribution",
        metrics=MEASURED,
        heads=[{"layer": 2, "head": 4, "logit": 0.5}, {"layer": 0, "head": 0, "logit": 0.1}],
        tables={"selected_heads": [{"layer": 2, "head": 4}]},
    ),
    "c/copying": Measurement(
        probe="copying",
        metrics=MEASURED,
        heads=[{"layer": 2, "head": 4, "ov_eigenvalue": 0.75}],
    ),
}


def record(measurements):
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


def test_what_several_measurements_say_of_a_head_stands_in_one_row():
    [(suite, header, rows)] = circuit_tables(record(SUITE))
    assert suite == "c" and len(rows) == 1
    cells = dict(zip(header, rows[0]))
    assert cells["Head"] == "2.4" and cells["Induction"] == "0.910"
    assert cells["Keys need"] == "1.3: 0.900 → 0.010"
    assert cells["Queries need"] == "0.1: 0.900 → 0.700"
    assert cells["Its keys were written by"] == "1.3: 75%"
    assert cells["Its queries were written by"] == "mlp 0: 100%"
    assert cells["Writes (logits)"] == "0.500"
    assert cells["OV eigenvalue"] == "0.750" and cells["OV behaviour"] == ""


def test_the_report_shows_it():
    text = report(record(SUITE))
    assert "## The circuit, head by head: c" in text and "1.3: 0.900 → 0.010" in text


def test_suites_without_circuit_measurements_have_no_such_table():
    only = {"c/scores": SUITE["c/scores"]}
    assert circuit_tables(record(only)) == []
    assert "head by head" not in report(record(only))
    skipped = {"c/paths": Measurement(probe="composition", status="skipped", reason="no heads")}
    assert circuit_tables(record(skipped)) == []
