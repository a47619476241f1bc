"""Records of another hand: what is wrong with their rows is one line, and no gate is passed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import unsigned
from test_render_records import make_record

from icl_bench.cli import main
from icl_bench.errors import RecordError
from icl_bench.records.reading import read_numbers, read_record

HEADS = "measurements.core/repeats.heads."
TABLES = "measurements.core/collapse.tables."
NAME = '"induction"'
SCORE, ERROR = f"{NAME}: 0.90213", '"induction_stderr": 0.0083'


def write_changed(path: Path, find: str, replace: str) -> Path:
    """Write a good record with a change to its text, which JSON's own writer would not make."""
    text = unsigned(make_record().to_json())
    assert text.count(find) == 1
    path.write_text(text.replace(find, replace), encoding="utf-8")
    return path


BROKEN = {
    "a score that is NaN": (SCORE, f"{NAME}: NaN", "6.induction: NaN is not a finite"),
    "a score beyond floats": ("0.88213", "1e999", "6.induction_excess: Infinity is not a finite"),
    "a whole number beyond floats": ("0.88213", "1" * 400, "6.induction_excess: 11111"),
    "no score": ("0.88213", "null", "6.induction_excess: null is not a finite number"),
    "text for a score": ("0.88213", '"x"', '6.induction_excess: "x" is not a finite number'),
    "yes for a score": ("0.88213", "true", "6.induction_excess: true is not a finite number"),
    "a list for a score": ("0.88213", "[1]", "6.induction_excess: [1] is not a finite number"),
    "an error beyond floats": (ERROR, '"induction_stderr": -Infinity', "6.induction_stderr: -I"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_head_without_numbers_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    find, replace, told = BROKEN[case]
    path = write_changed(tmp_path / "results.json", find, replace)
    with pytest.raises(RecordError) as refused:
        read_record(path)
    assert str(refused.value).startswith(f"{path}: field {HEADS}{told}")


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (None, "0: the row has no 'layer'"),
        (-1, "0.layer: -1 is no whole number"),
        (1.0, "0.layer: 1.0 is no whole number"),
        ("1", '0.layer: "1" is no whole number'),
        (True, "0.layer: true is no whole number"),
    ],
)
def test_a_row_must_say_which_head_it_is_of(tmp_path: Path, layer: Any, told: str) -> None:
    data = json.loads(unsigned(make_record().to_json()))
    row = data["measurements"]["core/repeats"]["heads"][0]
    row["layer"] = layer
    if layer is None:
        del row["layer"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=re.escape(f"field {HEADS}{told}")):
        read_record(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_table_with_what_is_no_number_is_refused_with_its_place(
    tmp_path: Path, number: str
) -> None:
    path = write_changed(tmp_path / "results.json", '"loss_ratio": 1.3', f'"loss_ratio": {number}')
    shown = "NaN" if number == "NaN" else "Infinity"
    told = f"field {TABLES}null.3.loss_ratio: {shown} is not a finite number"
    with pytest.raises(RecordError, match=re.escape(told)):
        read_record(path)


def test_an_error_that_is_not_known_is_an_error_that_is_absent(tmp_path: Path) -> None:
    path = write_changed(tmp_path / "results.json", ERROR, '"induction_stderr": null')
    (head,) = (
        row
        for row in read_record(path).measurements["core/repeats"].heads
        if row["induction"] == 0.90213
    )
    assert "induction_stderr" not in head and head["previous_token"] == 0.0312


def test_a_mark_of_an_editor_is_passed_over(tmp_path: Path) -> None:
    record = make_record()
    path = tmp_path / "results.json"
    path.write_bytes(b"\xef\xbb\xbf" + record.to_json().encode())
    assert read_record(path) == record
    assert read_numbers(path).checks == record.checks


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' + "1" * 5000 + "}"])
def test_what_no_program_wrote_is_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good" / "results.json", tmp_path / "bad" / "results.json"
    make_record().write(good)
    bad.parent.mkdir()
    bad.write_text(text)
    commands = {
        ("compare", str(good), str(bad)): 4,
        ("report", str(tmp_path)): 1,
        ("leaderboard", str(tmp_path)): 1,
    }
    for command, code in commands.items():
        assert main(command) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert str(bad) in line and "not a" in line
    assert (good.parent / "report.md").exists() and (tmp_path / "leaderboard.md").exists()


def test_a_dead_head_that_is_no_number_passes_no_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_record().write(tmp_path / "good.json")
    for place, number in enumerate(("NaN", "null", '"x"')):
        bad = write_changed(tmp_path / f"{place}.json", SCORE, f"{NAME}: {number}")
        assert main(["compare", str(good), str(bad)]) == 4
        assert capsys.readouterr().err.count("\n") == 1
