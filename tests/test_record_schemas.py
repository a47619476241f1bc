"""Records of earlier versions are read; what a later version wrote is refused with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icl_bench.comparing import compare
from icl_bench.errors import RecordError
from icl_bench.records.reading import read_numbers, read_record
from icl_bench.records.record import SCHEMA
from icl_bench.records.upgrades import UPGRADES, upgrade
from icl_bench.reports.files import render_again

FROZEN = Path(__file__).parent / "records"


def test_every_schema_that_was_ever_written_has_a_record() -> None:
    assert [path.name for path in sorted(FROZEN.iterdir())] == [
        f"schema-{version}.json" for version in range(1, SCHEMA + 1)
    ]
    assert sorted(UPGRADES) == list(range(1, SCHEMA))


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_the_frozen_record_is_read_with_everything_in_it(version: int) -> None:
    path = FROZEN / f"schema-{version}.json"
    raw = json.loads(path.read_text())
    assert raw["schema"] == version
    record = read_record(path)
    assert record.schema_version == SCHEMA
    assert record.model.spec == "builtin:handwired" and record.status == "complete"
    assert {check.verdict for check in record.checks} == {"pass"} and len(record.checks) == 12
    repeats = record.measurements["core/repeats"]
    assert repeats.metrics["induction_max"].value == pytest.approx(0.9998, abs=1e-3)
    assert repeats.metrics["induction_max"].n == 32
    assert len(repeats.heads) == 48 and repeats.settings["sequences"] == 32
    assert len(record.measurements["core/collapse"].tables["null"]) == 23
    assert len(record.measurements["core/collapse"].tokens_sha256 or "") == 64


def test_no_field_of_the_present_schema_is_lost() -> None:
    path = FROZEN / f"schema-{SCHEMA}.json"

    def missing(old: Any, new: Any, place: str = "") -> list[str]:
        if isinstance(old, dict):
            return [
                text
                for key, value in old.items()
                for text in (
                    missing(value, new[key], f"{place}.{key}")
                    if isinstance(new, dict) and key in new
                    else [f"{place}.{key}"]
                )
            ]
        if isinstance(old, list) and isinstance(new, list):
            pairs = zip(old, new, strict=True)
            return [t for i, (a, b) in enumerate(pairs) for t in missing(a, b, f"{place}[{i}]")]
        return [] if old == new else [place]

    raw = json.loads(path.read_text())
    assert missing(raw, json.loads(read_record(path).to_json())) == []
    raw["model"]["renamed"] = 1
    assert missing(raw, json.loads(read_record(path).to_json())) == [".model.renamed"]


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_the_frozen_record_is_rendered_and_compared(version: int, tmp_path: Path) -> None:
    path = FROZEN / f"schema-{version}.json"
    record = read_record(path)
    written = render_again(record, path, tmp_path)
    assert f"schema-{version}.report.md" in {file.name for file in written}
    text = (tmp_path / f"schema-{version}.report.md").read_text()
    assert "**PASS**: 12 passed" in text and "## Top heads" in text
    found = compare(record, record)
    assert found.passes() and found.count("same") > 20


def older(data: dict[str, Any]) -> dict[str, Any]:
    """Turn a record into one of a schema that never was: 0 called `model` `network`."""
    data = json.loads(json.dumps(data))
    data["network"] = data.pop("model")
    return data


def test_an_upgrade_makes_an_older_record_the_present_one() -> None:
    raw = json.loads((FROZEN / "schema-1.json").read_text())
    # Two versions back: measurements were a list, then `model` was `network`.
    first = older(raw)
    first["measurements"] = [{"key": k, **m} for k, m in first["measurements"].items()]

    def to_second(data: dict[str, Any]) -> dict[str, Any]:
        found = {
            one["key"]: {k: v for k, v in one.items() if k != "key"} for one in data["measurements"]
        }
        return {**data, "measurements": found}

    def to_third(data: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in data.items() if key != "network"}
        return {**rest, "model": data["network"]}

    steps = {1: to_second, 2: to_third}
    assert upgrade(first, 3, steps) == {**raw, "schema": 3}
    assert first["schema"] == 1 and "network" in first
    with pytest.raises(RecordError, match="schema 2 cannot be read any more"):
        upgrade(first, 3, {1: to_second})


def test_reading_applies_the_upgrades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = older(json.loads((FROZEN / "schema-1.json").read_text()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(RecordError, match="field model"):
        read_record(path)
    for module in ("record", "reading"):
        monkeypatch.setattr(f"icl_bench.records.{module}.SCHEMA", 2)

    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "model": data["network"]}

    monkeypatch.setitem(UPGRADES, 1, rename)
    assert read_record(tmp_path).model.spec == "builtin:handwired"
    assert read_numbers(path).model.spec == "builtin:handwired"
    path.write_text('{"schema": 1}')
    with pytest.raises(RecordError, match=r"results\.json: record schema 1: .*KeyError: 'network'"):
        read_record(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"schema": 99, "icl_bench": "9.1"},
            r"version \(icl_bench 9.1\); .*update icl_bench",
        ),
        ({"schema": 99}, "written by a later version; this one reads up to 1"),
        ({"schema": 0}, "record schema 0 is none"),
        ({"schema": "1"}, "record schema '1' is none"),
        ({"schema": True}, "record schema True is none"),
        ({}, "it has no 'schema' field"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=message):
        read_record(path)
