from __future__ import annotations

import csv
import io

import pytest
from test_render_records import make_check, make_record

from icl_bench.records.parts import Measurement
from icl_bench.render.csv import checks_csv, heads_csv


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_checks_csv_has_a_row_per_check_with_full_precision() -> None:
    rows = read(checks_csv(make_record()))
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


def test_heads_csv_has_a_row_per_head_and_measurement() -> None:
    text = heads_csv(make_record())
    assert text.splitlines()[0] == (
        "model,suite,measurement,layer,head,induction,induction_stderr,induction_control,"
        "induction_excess,previous_token,duplicate_token,first_token"
    )
    rows = read(text)
    assert len(rows) == 12
    assert (rows[6]["suite"], rows[6]["measurement"]) == ("core", "repeats")
    assert (rows[6]["layer"], rows[6]["head"], rows[6]["induction"]) == ("1", "0", "0.90213")


def test_missing_scores_are_empty_and_new_ones_get_a_column() -> None:
    heads = [{"layer": 0, "head": 0}, {"layer": 0, "head": 1, "sink": 0.25}]
    record = make_record(measurements={"core/a/b": Measurement(probe="induction", heads=heads)})
    text = heads_csv(record)
    assert text == (
        "model,suite,measurement,layer,head,induction,sink\n"
        "builtin:tiny,core,a/b,0,0,,\n"
        "builtin:tiny,core,a/b,0,1,,0.25\n"
    )


def test_without_heads_the_file_has_a_header_only() -> None:
    text = heads_csv(make_record(measurements={}))
    assert text == "model,suite,measurement,layer,head,induction\n"


@pytest.mark.parametrize(
    ("start", "kept"),
    # A tab is no part of a cell's text, so that nothing is left to run.
    [*((sign, f"'{sign}") for sign in "=+-@"), ("\t", "")],
)
def test_text_cannot_run_as_a_formula_and_numbers_stay_numbers(start: str, kept: str) -> None:
    record = make_record(checks=[make_check("a", value=-1.5, reason=f'{start}cmd("x")')])
    (row,) = read(checks_csv(record))
    assert row["reason"] == f'{kept}cmd("x")'
    assert row["value"] == "-1.5"


def test_a_model_spec_cannot_run_as_a_formula() -> None:
    record = make_record()
    record.model.spec = "@SUM(A1)"
    assert read(checks_csv(record))[0]["model"] == "'@SUM(A1)"
    assert read(heads_csv(record))[0]["model"] == "'@SUM(A1)"


def test_line_breaks_stay_inside_their_cell() -> None:
    record = make_record(checks=[make_check("a", reason='one\ntwo, "three"')])
    (row,) = read(checks_csv(record))
    assert row["reason"] == 'one\ntwo, "three"'
