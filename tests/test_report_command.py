"""`icl-bench report`: reports of old records, written anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_render_records import make_record

from icl_bench.cli import main
from icl_bench.records.parts import GateVerdict
from icl_bench.records.record import RunRecord
from icl_bench.render.markdown import report
from icl_bench.reports.files import PAGES, REPORTS, write_reports


def record_of(slug: str, **rest: object) -> RunRecord:
    record = make_record(**rest)
    record.model.slug = slug
    return record


def test_reports_are_written_anew_and_records_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = tmp_path / "reports"
    write_reports([record_of("a"), record_of("b")], reports)
    write_reports([record_of("a", status="partial")], reports)
    before = {path: path.read_bytes() for path in reports.glob("*/*")}
    stamps = {path: path.stat().st_mtime_ns for path in reports.glob("*/results*.json")}
    assert len(stamps) == 3
    for path in before:
        if not path.name.startswith("results"):
            path.write_text("old")
    assert main(["report", str(reports)]) == 0
    assert {path: path.read_bytes() for path in reports.glob("*/*")} == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and "report.partial.md" in told[1]


def test_a_folder_or_a_file_is_a_record_too(tmp_path: Path) -> None:
    write_reports([record_of("a")], tmp_path)
    (tmp_path / "a" / "report.md").unlink()
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "a" / "results.json")]) == 0
    assert (tmp_path / "a" / "report.md").exists()


def test_records_of_other_names_do_not_write_over_other_reports(tmp_path: Path) -> None:
    write_reports([record_of("a")], tmp_path)
    before = (tmp_path / "a" / "report.md").read_bytes()
    for name in ("baseline.json", "results-step500.json"):
        record_of("a", step=500).write(tmp_path / "a" / name)
        assert main(["report", str(tmp_path / "a" / name)]) == 0
    assert (tmp_path / "a" / "report.md").read_bytes() == before
    assert "after optimizer step 500" in (tmp_path / "a" / "report-step500.md").read_text()
    assert (tmp_path / "a" / "baseline.checks.csv").exists()


def test_output_goes_to_a_folder_per_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        record_of("same").write(tmp_path / name / "results.json")
    target = tmp_path / "out"
    sources = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["report", *sources, f"--output={target}"]) == 0
    assert {path.name for path in target.iterdir()} == {"same", "same-2"}
    assert {path.name for path in (target / "same").iterdir()} == {*REPORTS, *PAGES}
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"results.json"}


def test_a_broken_record_is_named_and_the_rest_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reports([record_of("a")], tmp_path)
    (tmp_path / "a" / "report.md").unlink()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text('{"schema": 99}')
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "results.json: record schema 99 was written by a later" in error
    )
    assert (tmp_path / "a" / "report.md").exists()
    assert (tmp_path / "b" / "results.json").read_text() == '{"schema": 99}'
    assert main(["report", str(tmp_path / "b"), str(tmp_path / "nowhere")]) == 4
    assert "nowhere: cannot be read" in capsys.readouterr().err


def test_a_folder_without_records_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 4
    assert "results.json: cannot be read" in capsys.readouterr().err
    write_reports([record_of("a")], tmp_path)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert main(["report", str(tmp_path), f"--output={taken}"]) == 4
    assert "--output=" in capsys.readouterr().err


def test_step_and_gates_are_in_the_report() -> None:
    gates = [
        GateVerdict(
            gate="induction_max > 0.4 by step 2,000", verdict="pass", reason="0.6 at 1,500"
        ),
        GateVerdict(
            gate="keeps | induction_max", verdict="inconclusive", reason="<b>too close</b>"
        ),
    ]
    text = report(make_record(step=1500, gates=gates))
    assert "Measured in training, after optimizer step 1,500." in text
    section = text.partition("## Gates\n")[2].partition("\n## ")[0]
    assert "| induction_max > 0.4 by step 2,000 | PASS" in section
    assert "keeps \\| induction_max" in section and "UNCLEAR" in section
    assert "&lt;b>too close" in section or "&lt;b&gt;too close" in section
    plain = report(make_record())
    assert "## Gates" not in plain and "optimizer step" not in plain


def test_the_badge_counts_what_was_judged() -> None:
    from icl_bench.render.badge import badge

    def told(*verdicts: str, **rest: object) -> tuple[str, str]:
        checks = [
            make_record().checks[0].model_copy(update={"verdict": verdict}) for verdict in verdicts
        ]
        data = json.loads(badge(make_record(checks=checks, **rest)))
        # All that shields.io's endpoint badge needs, and nothing that it does not know.
        assert data.keys() == {"schemaVersion", "label", "message", "color"}
        assert data["schemaVersion"] == 1 and data["label"] == "in-context learning"
        return data["message"], data["color"]

    assert told("pass", "pass") == ("2 of 2 checks", "brightgreen")
    assert told("pass", "skipped") == ("1 of 1 checks", "brightgreen")
    assert told("pass", "inconclusive") == ("1 of 2 checks", "yellow")
    assert told("pass", "inconclusive", "fail") == ("1 of 3 checks", "red")
    assert told("pass", "error") == ("1 of 2 checks", "red")
    assert told("skipped") == told() == ("nothing checked", "lightgrey")
    assert told("pass", status="partial") == ("1 of 1 checks (partial)", "brightgreen")


def test_the_shared_script_lies_where_the_page_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reports([record_of("a")], tmp_path)
    monkeypatch.chdir(tmp_path / "a")
    assert main(["report", ".", "--plotly=shared"]) == 0
    found = re.search(r'src="(\.\./plotly-[\d.]+min\.js)"', Path("report.html").read_text())
    assert found is not None and Path(found[1]).is_file()


def test_a_record_that_no_renderer_takes_is_named_and_the_rest_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reports([record_of("a"), record_of("b")], tmp_path)
    (tmp_path / "b" / "report.md").unlink()

    def fail(record: RunRecord) -> str:
        if record.model.slug == "a":
            raise KeyError("induction")
        return report(record)

    monkeypatch.setitem(REPORTS, "report.md", fail)
    assert main(["report", str(tmp_path)]) == 1
    assert "cannot be rendered (KeyError: 'induction')" in capsys.readouterr().err
    assert (tmp_path / "b" / "report.md").is_file()


@pytest.mark.parametrize("plotly", ["inline", "shared"])
def test_a_record_that_cannot_be_rendered_leaves_the_old_reports_as_they_were(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plotly: str,
) -> None:
    record_of("a").write(tmp_path / "a" / "results.json")
    for name in (*REPORTS, *PAGES):
        (tmp_path / "a" / name).write_text("old")

    def fail(record: RunRecord, script: str | None) -> str:
        raise TypeError("the last file of all")

    monkeypatch.setitem(PAGES, "report.html", fail)
    assert main(["report", str(tmp_path), f"--plotly={plotly}"]) == 4
    assert "cannot be rendered (TypeError: the last file of all)" in capsys.readouterr().err
    assert {(tmp_path / "a" / name).read_text() for name in (*REPORTS, *PAGES)} == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
