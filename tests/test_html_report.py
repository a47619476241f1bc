"""The HTML report as text: whole, safe, small, and true to the record."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from html_pages import HOSTILE, Reader, make_hostile, sample

from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.html import example, heads
from icl_bench.render.html.page import embed, plotly_name
from icl_bench.render.html.report import report_page
from icl_bench.render.writing import numbers
from icl_bench.reports.files import write_reports

NAMES = (
    "builtin-induction-2l",
    "builtin-control-1l",
    "builtin-handwired",
    "SmolLM2-135M-Instruct.Q4_1",
    "builtin-induction-2l--",
    "builtin-control-1l--",
)
LIMIT = 1_500_000


def without_plotly(record: RunRecord) -> str:
    return report_page(record, plotly="x.js")


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_one_whole_page(name: str) -> None:
    page = Reader(without_plotly(sample(name)))
    assert page.faults == []
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in page.attributes("href")]
    assert targets and set(targets) <= set(ids)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_of_a_network(name: str) -> None:
    page = Reader(report_page(sample(name)))
    assert page.attributes("src") == []
    assert not any(tag in ("link", "iframe", "object", "embed") for tag, _ in page.elements)
    policy = [own["content"] for _, own in page.elements if own.get("http-equiv")]
    assert policy and str(policy[0]).startswith("default-src 'none'")


@pytest.mark.parametrize("name", NAMES)
def test_every_check_is_told_with_its_value(name: str) -> None:
    record = sample(name)
    words = " ".join(Reader(without_plotly(record)).words)
    for check in record.checks:
        assert check.id in words
        if check.value is not None and check.kind == "check":
            assert numbers.number(check.value) in words
    for key in record.measurements:
        assert key in words


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_small(name: str) -> None:
    assert len(without_plotly(sample(name)).encode()) < LIMIT


def enlarge(record: RunRecord, layers: int, width: int) -> RunRecord:
    """The record as of a larger model: other numbers for each head, a pattern of 65 positions."""
    large, rng = record.model_copy(deep=True), random.Random(0)
    large.model.layers, large.model.heads = layers, width
    places = [(layer, head) for layer in range(layers) for head in range(width)]
    for one in large.measurements.values():
        if one.heads:
            rows = [row for row in one.heads if row.get("induction") is not None] or one.heads
            one.heads = []
            for place, (layer, head) in enumerate(places):
                row = dict(rows[place % len(rows)])
                for name, value in row.items():
                    if isinstance(value, float):
                        row[name] = value * rng.uniform(0.5, 1)
                one.heads.append({**row, "layer": layer, "head": head})
        kept = one.tables.get("example_patterns")
        if kept:
            one.tables["example_patterns"] = [
                {**kept[i % len(kept)], "layer": layer, "head": head, "pattern": "A" * 2_860}
                for i, (layer, head) in enumerate(places)
            ]
        for name in ("composition", "attention"):
            if name in one.tables:
                one.tables[name] = one.tables[name] * 20
    return large


@pytest.mark.parametrize(("layers", "width"), [(64, 32), (80, 64), (126, 128)])
@pytest.mark.parametrize("name", ["builtin-induction-2l", "SmolLM2-135M-Instruct.Q4_1"])
def test_a_large_model_stays_below_the_limit(name: str, layers: int, width: int) -> None:
    record = enlarge(sample(name), layers, width)
    page = without_plotly(record)
    assert len(page.encode()) < LIMIT
    data = json.loads(page.split('id="icl-data">')[1].split("</script>")[0])
    # The heads of the circuit are among those whose patterns are kept.
    example = data["example"]
    assert {one["head"] for one in example["circuit"]} <= set(example["patterns"])
    # What is left out is said.
    made = heads.section(record)
    assert made is not None
    assert data["heads"]["scores"][0]["name"] == "induction"
    for label in made["left_out"]:
        assert label in " ".join(Reader(page).words)
    assert layers < 100 or made["left_out"]


def test_hostile_text_stays_text() -> None:
    hostile = make_hostile(sample("builtin-induction-2l"))
    page = Reader(without_plotly(hostile))
    assert page.faults == []
    assert not any(tag in ("img", "b") and "onerror" in own for tag, own in page.elements)
    assert "img" not in {tag for tag, _ in page.elements}
    # No attribute runs code, whatever stands in it.
    assert not any(name.startswith("on") for _, own in page.elements for name in own)
    # It is shown as it is, up to its line separator, which names in one line do without.
    assert HOSTILE.split("\u2028")[0] in " ".join(page.words)
    assert "49" not in {word.strip() for word in page.words}


@pytest.mark.parametrize(
    "text", [HOSTILE, "<!--<script>", "\u2028\u2029", "\ud800", "a\\u003cb", "\x00\x1f", "日本語"]
)
def test_embedded_data_is_read_back_and_cannot_end_its_element(text: str) -> None:
    packed = str(embed({"text": text, text: [1, None, 0.5]}))
    assert "<" not in packed and ">" not in packed and "&" not in packed
    packed.encode()
    assert json.loads(packed) == {"text": text, text: [1, None, 0.5]}


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        embed({"value": math.nan})


def test_the_charting_script_is_shared_or_packed(tmp_path: Path) -> None:
    records = [sample("builtin-induction-2l"), sample("builtin-control-1l")]
    written = write_reports(records, tmp_path / "shared", plotly="shared")
    pages = [path for path in written if path.name == "report.html"]
    assert len(pages) == 2
    scripts = list((tmp_path / "shared").rglob("plotly*.js"))
    assert [path.name for path in scripts] == [plotly_name()]
    for path in pages:
        assert f'src="../{plotly_name()}"' in path.read_text(encoding="utf-8")
        assert path.stat().st_size < LIMIT
    packed = write_reports(records[:1], tmp_path / "inline")
    assert not list((tmp_path / "inline").rglob("*.js"))
    page = next(path for path in packed if path.name == "report.html")
    assert "icl-plotly" in page.read_text(encoding="utf-8")


def test_an_empty_record_is_a_page_too() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    record.checks, record.measurements = [], {}
    page = Reader(without_plotly(record))
    assert page.faults == []
    assert "NO CHECKS" in " ".join(page.words)


def test_heads_may_be_an_empty_list_and_names_half_a_sign(tmp_path: Path) -> None:
    record = sample("builtin-control-1l").model_copy(deep=True)
    record.model.heads = []
    record.model.spec = "half \ud83d"
    written = write_reports([record], tmp_path)
    assert all(path.stat().st_size for path in written)
    assert read_record(written[0]).model.spec == "half \ud83d"


def test_what_did_not_pass_is_named_at_the_top_and_linked() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1")
    missed = [one for one in record.checks if one.verdict in ("error", "fail", "inconclusive")]
    page = Reader(without_plotly(record))
    assert missed
    for check in missed:
        place = record.checks.index(check)
        assert f"#check-{place}" in page.attributes("href")
        assert f"check-{place}" in page.attributes("id")
    passed = record.model_copy(update={"checks": [c for c in record.checks if c not in missed]})
    assert 'class="missed"' not in without_plotly(passed)


def test_more_than_a_few_that_did_not_pass_are_counted() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for check in record.checks:
        check.verdict = "fail"
    words = " ".join(Reader(without_plotly(record)).words)
    assert f"and {len(record.checks) - 8} more below" in words


def test_text_that_turns_the_direction_of_reading_is_shown_without_turning() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    record.checks[0].description = "\u202eevil\u200b text"
    page = without_plotly(record)
    assert "evil text" in page and "\u202e" not in page
    assert example.show_token("\u202ea\r\ud800 b") == "\\u202ea\\u000d\\ud800·b"


def test_writing_a_page_leaves_warnings_as_they_were() -> None:
    """Old versions of the charting library change how a process writes all its warnings."""
    code = (
        "import warnings; kept = warnings.formatwarning\n"
        "from icl_bench.render.html.page import plotly_name\n"
        "plotly_name(); assert warnings.formatwarning is kept"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_sections_stand_in_the_order_of_the_navigation_and_curves_of_a_series_first(
    name: str,
) -> None:
    record = sample(name)
    page = Reader(without_plotly(record))
    sections = [own["id"] for tag, own in page.elements if tag == "section"]
    named = [href[1:] for href in page.attributes("href") if href[1:] in sections]
    assert ["glance", *named] == sections
    assert (sections[1] == "training") == bool(record.model.steps)
