from __future__ import annotations

import csv
from pathlib import Path

import pytest
from test_render_records import make_check, make_record

from icl_bench.record import Measurement
from icl_bench.render.csv import write_checks, write_heads


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_checks_csv_has_a_row_per_check_with_full_precision(tmp_path: Path) -> None:
    rows = read(write_checks(make_record(), tmp_path / "checks.csv"))
    assert len(rows) == 7
    assert rows[0]["model"] == "builtin:tiny"
    assert rows[0]["id"] == "has-induction-heads"
    assert (rows[0]["value"], rows[0]["threshold"], rows[0]["verdict"]) == (
        "0.90213",
        "0.4",
        "pass",
    )
    assert rows[4]["value"] == ""
    assert rows[4]["threshold"] == '{"value": 5, "tolerance": 1}'
    assert rows[5]["options"].startswith('{"a": "an induction head"')


def test_heads_csv_has_a_row_per_head_and_measurement(tmp_path: Path) -> None:
    path = write_heads(make_record(), tmp_path / "heads.csv")
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        "model,suite,measurement,layer,head,induction,induction_stderr,induction_control,"
        "induction_excess,previous_token,duplicate_token,first_token"
    )
    rows = read(path)
    assert len(rows) == 12
    assert (rows[6]["suite"], rows[6]["measurement"]) == ("core", "repeats")
    assert (rows[6]["layer"], rows[6]["head"], rows[6]["induction"]) == ("1", "0", "0.90213")


def test_missing_scores_are_empty_and_new_ones_get_a_column(tmp_path: Path) -> None:
    heads = [{"layer": 0, "head": 0, "induction": None}, {"layer": 0, "head": 1, "sink": 0.25}]
    record = make_record(measurements={"core/a/b": Measurement(probe="induction", heads=heads)})
    path = write_heads(record, tmp_path / "heads.csv")
    assert path.read_text(encoding="utf-8") == (
        "model,suite,measurement,layer,head,induction,sink\n"
        "builtin:tiny,core,a/b,0,0,,\n"
        "builtin:tiny,core,a/b,0,1,,0.25\n"
    )


def test_without_heads_the_file_has_a_header_only(tmp_path: Path) -> None:
    path = write_heads(make_record(measurements={}), tmp_path / "heads.csv")
    assert path.read_text(encoding="utf-8") == "model,suite,measurement,layer,head,induction\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_text_cannot_run_as_a_formula_and_numbers_stay_numbers(tmp_path: Path, start: str) -> None:
    record = make_record(checks=[make_check("a", value=-1.5, reason=f'{start}cmd("x")')])
    (row,) = read(write_checks(record, tmp_path / "checks.csv"))
    assert row["reason"] == f'\'{start}cmd("x")'
    assert row["value"] == "-1.5"


def test_a_model_spec_cannot_run_as_a_formula(tmp_path: Path) -> None:
    record = make_record()
    record.model.spec = "@SUM(A1)"
    assert read(write_checks(record, tmp_path / "c.csv"))[0]["model"] == "'@SUM(A1)"
    assert read(write_heads(record, tmp_path / "h.csv"))[0]["model"] == "'@SUM(A1)"


def test_line_breaks_stay_inside_their_cell(tmp_path: Path) -> None:
    record = make_record(checks=[make_check("a", reason='one\ntwo, "three"')])
    (row,) = read(write_checks(record, tmp_path / "checks.csv"))
    assert row["reason"] == 'one\ntwo, "three"'
