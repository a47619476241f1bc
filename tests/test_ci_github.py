"""GitHub: annotations at the lines of checks, the job's summary, and no orders from names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import MINE, Stage
from test_render_records import make_record

from icl_bench.ci import github
from icl_bench.ci.findings import Finding, Place, find_places, of_comparison, of_records
from icl_bench.ci.publishing import publish
from icl_bench.ci.summary import job_summary
from icl_bench.cli import main
from icl_bench.comparing import compare
from icl_bench.records.record import RunRecord
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.suite import load_suite

BAD = "--icl-model=stub:bad"
HOSTILE = "evil\n::error file=x::boo\r\n::set-env name=A::b%0A##[error]no"


def obeyed(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Return the commands in a log as GitHub's runner reads them, slowly and plainly.

    A line whose first characters after blanks are `::` is one, `::NAME PROPERTIES::MESSAGE`; any
    other is one from `##[NAME ...]MESSAGE` on.
    """
    found = []
    for line in re.split(r"\r\n|\r|\n", text):
        line = line.lstrip()
        end = line.find("::", 2)
        if not line.startswith("::") or end < 0:
            found += [("##[", {}, line)] if "##[" in line else []
            continue
        name, _, rest = line[2:end].partition(" ")
        properties = dict(pair.split("=", 1) for pair in rest.split(",") if "=" in pair)
        for code, sign in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
            properties = {key: value.replace(code, sign) for key, value in properties.items()}
        message = line[end + 2 :]
        for code, sign in (("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
            message = message.replace(code, sign)
        found.append((name, properties, message))
    return found


@pytest.fixture
def on_github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretend to be in a job; returns the file of its summary."""
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    return summary


def finding(level: str = "error", message: str = "m", name: str = "s::c") -> Finding:
    place = Place("suites/a.yaml", 7)
    return Finding(level, "check", name, "gpt2", message, place, suite="s")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["100%", "a\nb\r\nc", "x::y", "a,b=c:d", "%0A%25", HOSTILE])
def test_what_is_escaped_comes_out_as_it_was(text: str) -> None:
    lines = github.annotate([finding(message=text, name=text)])
    assert len(lines) == 1 and len(lines[0].splitlines()) == 1
    [(name, properties, message)] = obeyed(lines[0])
    assert (name, message) == ("error", text)
    assert properties == {"file": "suites/a.yaml", "line": "7", "title": f"{text} [gpt2]"}


def test_no_more_annotations_than_github_shows() -> None:
    many = [finding(message=str(i)) for i in range(25)] + [finding("warning")] * 10
    commands = [one for line in github.annotate(many) for one in obeyed(line)]
    errors = [one for one in commands if one[0] == "error"]
    assert len(errors) == 10 and len(commands) == 20
    assert [one[2] for one in errors[:9]] == [str(i) for i in range(9)]
    assert errors[9][2].startswith("and 16 more")


def test_checks_are_found_at_their_lines(tmp_path: Path) -> None:
    inside = tmp_path / "repo" / "suites" / "mine.yaml"
    inside.parent.mkdir(parents=True)
    text = Path(__file__).parents[1].joinpath("suites", "gate.yaml").read_text()
    inside.write_text(text)
    suite = load_suite(inside)
    places = find_places([suite], tmp_path / "repo")
    for (name, identity), place in places.items():
        assert name == "gate" and place.file == "suites/mine.yaml"
        assert re.search(rf"\bid: *{identity}\b", text.splitlines()[place.line - 1])
    assert len(places) == len(suite.checks) + len(suite.quiz) > 3
    assert find_places([suite], tmp_path / "other") == {}
    installed = tmp_path / "repo" / ".venv" / "site-packages" / "gate.yaml"
    installed.parent.mkdir(parents=True)
    installed.write_text(text)
    assert find_places([load_suite(installed)], tmp_path / "repo") == {}


def test_what_fails_the_run_is_an_error_and_the_rest_a_warning() -> None:
    check = make_record().checks[0]
    verdicts = ("pass", "fail", "inconclusive", "skipped", "error")
    checks = [check.model_copy(update={"id": v, "verdict": v, "suite": "s"}) for v in verdicts]
    record = make_record(checks=checks)
    strict = [(one.name, one.level) for one in of_records([record], {})]
    assert strict == [("s::fail", "error"), ("s::inconclusive", "error"), ("s::error", "error")]
    lenient = [(one.name, one.level) for one in of_records([record], {}, strict=False)]
    assert lenient[1] == ("s::inconclusive", "warning") and len(lenient) == 3


def worse_pair() -> tuple[RunRecord, RunRecord]:
    from test_comparing import BEFORE, record

    return record(heads=[(1, 0, 0.9)]), record(BEFORE - 0.6, verdict="fail", heads=[(1, 0, 0.0)])


def test_regressions_are_findings_at_the_check_that_reads_the_metric() -> None:
    before, now = worse_pair()
    comparison = compare(before, now)
    assert not comparison.passes()
    check = now.checks[0]
    places = {(check.suite, check.id): Place("mine.yaml", 3)}
    found = of_comparison(comparison, places, records=[now])
    by_name = {one.name: one for one in found}
    assert by_name[f"{check.suite}::{check.id}"].place == Place("mine.yaml", 3)
    metric = by_name[f"{check.measurement}.{check.metric}"]
    assert metric.place == Place("mine.yaml", 3) and "is worse than the baseline" in metric.message
    died = by_name["mine/repeats: induction head 1.0"]
    assert died.message.startswith("induction head 1.0 died") and died.level == "error"
    assert of_comparison(compare(before, before), places) == []
    # A check that fails now and passed before is one thing to look at, with what it reads.
    once = of_comparison(comparison, places, records=[now], told=[f"{check.suite}::{check.id}"])
    left_out = {f"{check.suite}::{check.id}", f"{check.measurement}.{check.metric}"}
    assert {one.name for one in once} == by_name.keys() - left_out


def test_a_run_is_annotated_and_summed_up(stage: Stage, on_github: Path) -> None:
    on_github.write_text("before\n")
    result = stage.run(BAD, "mine.yaml")
    assert result.ret == 1
    [(name, properties, message)] = obeyed(result.stdout.str())
    line = MINE.splitlines().index(next(x for x in MINE.splitlines() if "id: high" in x)) + 1
    assert name == "error" and properties["title"] == "mine::high [stub-bad]"
    assert (properties["file"], properties["line"]) == ("mine.yaml", str(line))
    assert message.startswith("FAIL: ") and "Is it high?" in message
    text = on_github.read_text()
    assert text.startswith("before\n# icl_bench: stub:bad\n\n**FAIL**: 2 passed, 1 failed")
    assert "| high" in text


@pytest.mark.parametrize("arguments", [["-n", "2"], ["-q"], ["-p", "no:terminal"]])
def test_however_pytest_runs_the_summary_is_written_once(
    stage: Stage, on_github: Path, arguments: list[str]
) -> None:
    if "-n" in arguments:
        pytest.importorskip("xdist")
    result = stage.run(BAD, "mine.yaml", *arguments)
    assert on_github.read_text().count("# icl_bench: stub:bad") == 1
    if "no:terminal" not in arguments:
        assert len(obeyed(result.stdout.str())) == 1


def test_elsewhere_nothing_is_said(stage: Stage) -> None:
    assert obeyed(stage.run(BAD, "mine.yaml").stdout.str()) == []


def test_run_and_compare_do_the_same(
    stage: Stage, on_github: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = worse_pair()
    before.write(stage.path / "before.json")
    now.write(stage.path / "now.json")
    assert main(["compare", "before.json", "now.json"]) == 1
    commands = obeyed(capsys.readouterr().out)
    assert len(commands) >= 3 and {name for name, _, _ in commands} == {"error"}
    assert "**REGRESSION" in on_github.read_text()
    stage.write(
        "sure.yaml",
        "icl_suite: 1\nname: sure\nmeasure:\n"
        "  r: {probe: induction, sequences: 2, period: 5, control: false}\n"
        "checks:\n  - {id: never, on: r, metric: uniform_level, above: 2}\n",
    )
    assert main(["run", "builtin:handwired", "--suite=sure.yaml"]) == 1
    [(name, properties, _)] = obeyed(capsys.readouterr().out)
    assert name == "error" and (properties["file"], properties["line"]) == ("sure.yaml", "6")
    assert "never" in on_github.read_text()


def test_a_long_summary_is_shortened_with_a_word(on_github: Path) -> None:
    text = "".join(f"line {i} ÿ\n" for i in range(200_000))
    github.append_summary(text)
    written = on_github.read_bytes()
    assert len(written) <= github.SUMMARY_BYTES
    last = written.decode().splitlines()[-1]
    kept = written.decode().count("line ") - 0
    assert last == f"Shortened: {200_000 - kept} more lines are in the report."
    github.append_summary("more\n")
    assert on_github.stat().st_size <= github.SUMMARY_BYTES
    assert github.shorten_summary("a\nb\n", 4) == "a\nb\n"
    assert github.shorten_summary("a\nb\n", 3) == ""


def test_a_summary_that_cannot_be_written_fails_the_run_with_a_message(
    stage: Stage, on_github: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(stage.path))
    result = stage.run(BAD, "mine.yaml", "--icl-openmetrics=metrics.txt")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*cannot be written (Is a directory)*", "::error *high*"])
    assert (stage.path / "metrics.txt").exists()
    assert stage.run("--icl-model=stub:good", "mine.yaml").ret == 1


@pytest.mark.parametrize(
    "text", ["::error::x", "a\n  ::warning file=a::x", "a ##[error]x", "##vso[task.complete]x"]
)
def test_text_is_defused_line_by_line(text: str) -> None:
    safe = escape_ci_commands(text)
    assert obeyed(safe) == [] and "##vso[" not in safe
    assert len(safe.splitlines()) == len(text.splitlines())


def test_other_text_is_left_alone() -> None:
    for text in ("suites/core.yaml::check[gpt2]", "a: b", "## title", "# [x]", "x :: y"):
        assert escape_ci_commands(text) == text


def test_names_give_no_orders(
    on_github: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from icl_bench.render.terminal import summary

    record = make_record()
    record.model = record.model.model_copy(update={"spec": HOSTILE, "slug": HOSTILE})
    record.checks = [
        check.model_copy(update={"verdict": "fail", "reason": HOSTILE, "description": HOSTILE})
        for check in record.checks
    ]
    for line in publish([record]).commands:
        [(name, _, message)] = obeyed(line)
        assert name == "error" and "\n" not in message
    # A word in the wrapped text comes to stand at the start of a line, at some width.
    record.checks[0] = record.checks[0].model_copy(update={"reason": "word " * 30 + "::error::x"})
    for width in range(40, 100):
        assert obeyed(escape_ci_commands(summary([record], width=width))) == []
    assert obeyed("x\n" + "word " * 3 + "\n::error::x")  # What is looked for can be found.
    assert "\n::" not in job_summary([record])
    record.write(tmp_path / "a.json")
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    main(["report", f"no\n::error::{HOSTILE}"])
    told = capsys.readouterr()
    assert obeyed(told.out) == [] and obeyed(told.err) == []


def test_a_failing_check_gives_no_orders_under_pytest(stage: Stage, on_github: Path) -> None:
    stage.write("mine.yaml", MINE.replace("Is it high?", r"Is it?\n::error::planted ##[error]x"))
    result = stage.run(BAD, "mine.yaml")
    [command] = obeyed(result.stdout.str())
    assert "planted" in command[2] and command[1]["title"] == "mine::high [stub-bad]"
