"""A record that is accepted is rendered; what no report can draw is refused with its place."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from icl_bench.errors import RecordError
from icl_bench.records.reading import read_record
from icl_bench.render.html.report import report_page
from icl_bench.render.markdown import report

SERIES = Path(__file__).parents[1] / "reports/samples/builtin-induction-2l--/results.json"
KEY = "phase-change/change"


def changed(path: Path, table: str, row: int, column: str, value: Any, key: str = KEY) -> Path:
    """Write the sample of a series with one cell changed, as a version without digests would."""
    data = json.loads(SERIES.read_bytes())
    del data["digest"]
    data["measurements"][key]["tables"][table][row][column] = value
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("table", "column", "value", "told"),
    [
        ("curves", "step", "1", '"1" is not a whole number from 0 on'),
        ("curves", "induction", [1], "[1] is not a finite number"),
        ("changes", "curve", ["a"], '["a"] is not text'),
        ("changes", "midpoint", None, "null is not a finite number"),
        ("training_loss", "loss", "low", '"low" is not a finite number'),
        ("training_loss", "loss", 1e308, "1e+308 is not a number up to 1e+100"),
        ("training_loss", "step", 10**400, "is not a number up to 1e+100"),
    ],
)
def test_a_cell_that_cannot_be_drawn_is_refused_with_its_place(
    tmp_path: Path, table: str, column: str, value: Any, told: str
) -> None:
    path = changed(tmp_path / "results.json", table, 0, column, value)
    place = f"measurements.{KEY}.tables.{table}.0.{column}: "
    with pytest.raises(RecordError, match=f"field {re.escape(place)}.*{re.escape(told)}"):
        read_record(path)


@pytest.mark.parametrize(
    ("rule", "threshold"), [("between", None), ("between", [1]), ("equals", {"value": 1})]
)
def test_a_threshold_that_is_none_of_its_rule_is_refused(
    tmp_path: Path, rule: str, threshold: Any
) -> None:
    data = json.loads(SERIES.read_bytes())
    del data["digest"]
    data["checks"][0] |= {"rule": rule, "threshold": threshold}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=rf"field checks\.0\.threshold: .*'{rule}' has"):
        read_record(path)


def test_a_head_beyond_any_model_is_refused(tmp_path: Path) -> None:
    data = json.loads(SERIES.read_bytes())
    del data["digest"]
    taken = next(one for one in data["measurements"].values() if one["heads"])
    taken["heads"][0]["layer"] = 2**31
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=r"heads\.0\.layer"):
        read_record(path)


def test_a_series_of_one_step_is_rendered(tmp_path: Path) -> None:
    data = json.loads(SERIES.read_bytes())
    del data["digest"]
    tables = data["measurements"][KEY]["tables"]
    for name in ("curves", "training_loss"):
        del tables[name][:-1]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    record = read_record(path)
    assert "## Phase change" in report(record) and report_page(record, "plotly.js")


def test_mutated_records_are_refused_or_rendered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    found = importlib.import_module("faults").mutate_records(40, tmp_path)
    assert found.escaped == [] and found.accepted > 5
