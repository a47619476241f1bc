"""Reports that other packages add, and how their measurements are drawn."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from adding_packages import PROBE, AddPackage, add_package
from html_pages import SAMPLES
from test_render_records import make_record

from icl_bench import probes
from icl_bench.cli import main
from icl_bench.probes import known_probe
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.reading import read_record
from icl_bench.render.html.heads import section as heads_section
from icl_bench.render.html.report import report_page
from icl_bench.render.markdown import report
from icl_bench.reports.files import write_reports

__all__ = ["add_package"]

REPORT = "suffix = 'txt'\ndef write(record):\n    return record.model.slug\n"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (
            REPORT,
            "md",
            "package their-package 1.2 adds a report 'md', but icl_bench has one of that name; "
            "uninstall the package or rename its entry point",
        ),
        (
            REPORT.replace("txt", ".html"),
            "mine",
            "report 'mine' of package their-package 1.2 writes report.html, and so does icl_bench",
        ),
        (
            REPORT.replace("txt", "../x"),
            "mine",
            "report 'mine' of package their-package 1.2: '../x' is no suffix of a file",
        ),
        (
            "suffix = 'txt'",
            "mine",
            "report 'mine' of package their-package 1.2, their_package, has no write",
        ),
        (
            "suffix = 'txt'; write = 3",
            "mine",
            "report 'mine' of package their-package 1.2: its 'write' is no function of a record",
        ),
        (
            "1 / 0",
            "mine",
            "report 'mine' of package their-package 1.2, their_package, cannot be loaded: "
            "ZeroDivisionError: division by zero",
        ),
    ],
    ids=["name", "suffix", "path", "no write", "no function", "import"],
)
def test_each_mistake_about_a_report_is_one_message_and_exit_code_4(
    add_package: AddPackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    name: str,
    message: str,
) -> None:
    add_package(code, name, "reports")
    out = tmp_path / "out"
    for command in (["run", "builtin:handwired", f"--report-dir={out}"], ["report", str(tmp_path)]):
        assert main(command) == 4
        assert capsys.readouterr().err == f"icl-bench: {message}\n"
    assert not out.exists()


def test_a_report_that_raises_is_told_and_all_others_are_written(
    add_package: AddPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_package(REPORT, "mine", "reports")
    troubles: list[str] = []
    (folder,) = {path.parent for path in write_reports([make_record()], tmp_path)}
    assert (folder / "report.txt").read_text() == make_record().model.slug
    add_package(REPORT.replace("record.model.slug", "record.modle"), "mine", "reports")
    paths = write_reports([make_record()], tmp_path, troubles=troubles)
    assert {path.name for path in paths} >= {"results.json", "report.md", "report.html"}
    assert not (folder / "report.txt").exists()
    message = (
        "report 'mine' of package their-package 1.2: report.txt is not written for builtin:tiny: "
        "AttributeError: 'RunRecord' object has no attribute 'modle'"
    )
    assert troubles == [message]
    assert main(["report", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.err == f"icl-bench: {message}\n" and "report.md" in told.out


def measured(probe: str = "theirs", **rest: object) -> Measurement:
    return Measurement(
        probe=probe,
        metrics={"size": Metric(value=1, exact=True)},
        heads=[
            {"layer": 0, "head": head, "spread": head / 4, "spread_stderr": 0.1} for head in (0, 1)
        ],
        tables={"parts": [{"name": "a|b", "size": 0.5}, {"name": "c", "k|ept": [1, True]}]},
    )


def test_a_probe_that_is_not_installed_is_shown_by_its_tables() -> None:
    assert known_probe("theirs") is None
    record = make_record(measurements={"s/it": measured()})
    text, page = report(record), report_page(record, "plotly.js")
    assert "## spread: s/it" in text and "| 0.1    | 0.25 ± 0.1 |" in text
    assert "## parts: s/it" in text and r"| name   |   size |    k\|ept |" in text
    assert r"| a\|b   |    0.5 |           |" in text
    assert "[1, true]" in text and "parts (s/it)" in page and "a|b" in page
    heads = heads_section(record)
    assert heads is not None and [one["name"] for one in heads["data"]["scores"]] == ["spread"]


def test_long_tables_are_cut_with_a_remark_and_those_of_a_series_left_to_it() -> None:
    rows = [{"x": place} for place in range(60)]
    taken = measured()
    taken.tables = {"long": rows, "steps": rows, "empty": []}
    text = report(make_record(measurements={"s/it": taken}))
    assert "The first 50 of 60 rows; results.json has all of them." in text
    assert "## steps" not in text and "## empty" not in text


BLOCKS = (
    PROBE
    + """
from icl_bench.records.blocks import Curve, HeadGrid, Line, Table, Text

def report(measurement):
    rows = [{"x": 1, "y": 2.0}, {"x": 3, "y": 4.0, "z": 0.5}, {"x": 5}]
    return [
        Text(title="In words", text="As <b> it is.", note="A remark."),
        Curve(title="A curve", x="time (s)", y="m", lines=[Line("up", rows, "x", "y"),
              Line("side", rows, "x", "z")]),
        Table(title="A table", columns=["What", "Size"], rows=[["a", 1 / 3], ["b", None]]),
        HeadGrid(title="Spread of heads", score="spread", rows=measurement.heads, unit="m"),
    ]
"""
)


def test_blocks_of_every_kind_are_drawn(add_package: AddPackage) -> None:
    add_package(BLOCKS)
    record = make_record(measurements={"s/it": measured()})
    text, page = report(record), report_page(record, "plotly.js")
    assert "## In words: s/it\n\nAs &lt;b&gt; it is.\n\nA remark." in text
    assert (
        "| time (s)   |   up: m |   side: m |" in text
        and "| 3          |       4 |       0.5 |" in text
    )
    assert "## A table: s/it" in text and "| a      |  0.333 |" in text
    assert "<b>In words (s/it):</b> As &lt;b&gt; it is." in page
    assert '"title": "A curve (s/it)"' in page or '"title":"A curve (s/it)"' in page
    heads = heads_section(record)
    assert heads is not None
    assert [one["label"] for one in heads["data"]["scores"]] == ["Spread of heads (m)"]
    skipped = make_record(
        measurements={"s/it": Measurement(probe="theirs", status="skipped", reason="no heads")}
    )
    assert "In words" not in report(skipped)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("raise ValueError('no rows')", "ValueError: no rows"),
        ("return ['text']", "TypeError: it returned something that is no block"),
        (
            "return [Table(title='t', columns=['a'], rows=[[1, 2]])]",
            "ValueError: table 't': 2 cells in a row of 1 columns",
        ),
        (
            "return [Curve(title='c', x='a', y='b', lines=[[1, 2]])]",
            "TypeError: curve 'c': lines are no Line",
        ),
    ],
)
def test_a_part_that_cannot_be_made_is_told_and_its_tables_shown(
    add_package: AddPackage, part: str, told: str
) -> None:
    add_package(BLOCKS.replace("    rows = [{", f"    {part}\n    rows = [{{"))
    text = report(make_record(measurements={"s/it": measured()}))
    assert f"The report of probe 'theirs' broke: {told}" in text and "## parts: s/it" in text


def test_tables_of_known_names_and_other_columns_are_tables_like_any_other() -> None:
    names = ("composition", "example_tokens", "curves", "positions", "attention_sides", "switches")
    taken = measured()
    taken.tables = {name: [{"colour": "red"}] for name in names}
    record = make_record(measurements={"s/it": taken})
    text, page = report(record), report_page(record, "plotly.js")
    for name in names:
        assert f"## {name}: s/it" in text and f"{name} (s/it)" in page
    assert "Phase change" not in text and 'id="circuit"' not in page and 'id="example"' not in page


def test_blocks_are_plain_data() -> None:
    record = read_record(SAMPLES / "SmolLM2-135M-Instruct.Q4_1" / "results.json")
    blocks = [block for one in record.measurements.values() for block in probes.report_of(one)]
    assert {type(block).__name__ for block in blocks} == {"Curve", "Table"}
    for block in blocks:
        assert json.loads(json.dumps(asdict(block))) == asdict(block)
