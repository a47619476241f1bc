"""GitLab: Code Quality and OpenMetrics files, from pytest and from `icl-bench run`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import MINE, Stage
from test_ci_github import finding
from test_render_records import make_record

from icl_bench.ci.findings import Finding, of_comparison
from icl_bench.ci.gitlab import code_quality, openmetrics
from icl_bench.cli import main
from icl_bench.comparing import Comparison, HeadChange
from icl_bench.records.record import RunRecord

BAD = "--icl-model=stub:bad"
GOOD = "--icl-model=stub:good"
SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (\S+)')


def read_metrics(text: str) -> dict[tuple[str, str], float]:
    """Read OpenMetrics text as its grammar says: families in one piece, labels once, an end."""
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""] and lines.count("# EOF") == 1
    family, seen, samples = "", set(), {}
    for line in lines[:-2]:
        if found := re.fullmatch(r"# TYPE (\S+) gauge", line):
            family = found[1]
            assert family not in seen
            seen.add(family)
        elif line.startswith("#"):
            assert re.fullmatch(rf"# HELP {family} \S.*", line)
        else:
            match = SAMPLE.fullmatch(line)
            assert match and match[1] == family and (family, match[2]) not in samples, line
            samples[family, match[2]] = float(match[3])
    return samples


def test_every_checked_metric_is_there_once_with_its_interval() -> None:
    record = make_record()
    samples = read_metrics(openmetrics([record]))
    expected = {}
    for check in record.checks:
        labels = f'model="builtin-tiny",measurement="{check.measurement}",metric="{check.metric}"'
        for family, number in (
            ("icl_metric", check.value),
            ("icl_metric_ci_low", check.ci_low),
            ("icl_metric_ci_high", check.ci_high),
        ):
            if number is not None:
                expected[family, labels] = number
    verdicts = [check.verdict for check in record.checks]
    for verdict in set(verdicts):
        expected["icl_checks", f'model="builtin-tiny",verdict="{verdict}"'] = verdicts.count(
            verdict
        )
    assert samples == expected and len(samples) > 5


def test_what_was_not_measured_is_absent_and_an_empty_run_is_valid() -> None:
    skipped = (
        make_record()
        .checks[0]
        .model_copy(update={"value": None, "ci_low": None, "ci_high": None, "verdict": "skipped"})
    )
    samples = read_metrics(openmetrics([make_record(checks=[skipped])]))
    assert samples == {("icl_checks", 'model="builtin-tiny",verdict="skipped"'): 1}
    assert read_metrics(openmetrics([])) == {}


def test_names_do_not_break_the_format() -> None:
    record = make_record()
    record.model.slug = 'a"b\\c\nd} 1\r\n# EOF'
    samples = read_metrics(openmetrics([record]))
    assert len(samples) > 5


def test_a_code_quality_report_has_the_fields_that_gitlab_asks_for() -> None:
    found = [
        finding(),
        finding("warning", name="s::d"),
        Finding("error", "regression", "core/repeats.induction_max", "gpt2", "worse", suite="core"),
    ]
    issues = json.loads(code_quality(found))
    for issue in issues:
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert issue["location"]["lines"]["begin"] >= 1
        path = issue["location"]["path"]
        assert not path.startswith(("/", "./"))
    assert [issue["severity"] for issue in issues] == ["major", "minor", "major"]
    assert issues[0]["location"] == {"path": "suites/a.yaml", "lines": {"begin": 7}}
    assert issues[2]["location"]["path"] == "suites/core.yaml"
    assert json.loads(code_quality([])) == []


def test_a_fingerprint_is_that_of_the_same_finding_only() -> None:
    def prints(*found: Finding) -> list[str]:
        return [issue["fingerprint"] for issue in json.loads(code_quality(found))]

    same = prints(finding(message="0.1"), finding(message="0.2"), finding("warning"))
    assert len(set(same)) == 1
    other = prints(
        finding(),
        finding(name="s::other"),
        Finding("error", "check", "s::c", "other", "m", suite="s"),
        Finding("error", "regression", "s::c", "gpt2", "m", suite="s"),
    )
    assert len(set(other)) == 4


def test_dead_heads_have_their_own_fingerprints_and_the_path_of_their_suite() -> None:
    heads = [
        HeadChange(key, kind, 1, number, "died", 0.8, 0.1)
        for key in ("core/repeats", "gate/repeats")
        for kind in ("induction", "previous_token")
        for number in (0, 5)
    ]
    issues = json.loads(code_quality(of_comparison(Comparison("a", "b", heads=heads), {})))
    assert len({issue["fingerprint"] for issue in issues}) == 8
    paths = [issue["location"]["path"] for issue in issues]
    assert paths == ["suites/core.yaml"] * 4 + ["suites/gate.yaml"] * 4
    assert issues[5]["description"] == (
        "gate/repeats: induction head 1.5 [b] induction head 1.5 died: 0.800 -> 0.100"
    )


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_pytest_writes_the_files_it_is_asked_for(stage: Stage, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    options = ("--icl-code-quality=out/quality.json", "--icl-openmetrics=metrics.txt")
    assert stage.run(BAD, "mine.yaml", *options, *workers).ret == 1
    [issue] = json.loads((stage.path / "out" / "quality.json").read_text())
    line = next(i for i, text in enumerate(MINE.splitlines(), 1) if "id: high" in text)
    assert issue["location"] == {"path": "mine.yaml", "lines": {"begin": line}}
    assert issue["check_name"] == "icl_bench/check/mine::high"
    samples = read_metrics((stage.path / "metrics.txt").read_text())
    labels = 'model="stub-bad",measurement="mine/first",metric="level"'
    assert samples["icl_metric", labels] == 0
    assert samples["icl_checks", 'model="stub-bad",verdict="pass"'] == 2


def test_a_good_run_writes_an_empty_list(stage: Stage) -> None:
    assert stage.run(GOOD, "mine.yaml", "--icl-code-quality=quality.json").ret == 0
    assert (stage.path / "quality.json").read_text() == "[]\n"


def test_a_run_that_measured_nothing_writes_no_empty_list(stage: Stage) -> None:
    for more in (["--collect-only"], ["-k", "nothing"]):
        stage.run(GOOD, "mine.yaml", "--icl-code-quality=q.json", "--icl-openmetrics=m", *more)
        assert not (stage.path / "q.json").exists() and not (stage.path / "m").exists()


def test_run_writes_them_too(real_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--code-quality=q.json", "--openmetrics=m.txt"]
    assert main(["run", "builtin:handwired", "--suite=tiny.yaml", *options]) == 0
    assert json.loads(Path("q.json").read_text()) == []
    record: RunRecord = real_stage.record("builtin-handwired")
    samples = read_metrics(Path("m.txt").read_text())
    values = {value for (family, _), value in samples.items() if family == "icl_metric"}
    assert values == {check.value for check in record.checks}


@pytest.mark.parametrize("option", ["code-quality", "openmetrics"])
def test_a_file_that_cannot_be_written_is_found_first(
    stage: Stage, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = stage.run(GOOD, "mine.yaml", f"--icl-{option}=mine.yaml/x")
    assert result.ret == 4 and stage.log() == []
    assert f"--icl-{option}=" in str(result.stderr)
    assert stage.run(GOOD, "mine.yaml", f"--icl-{option}=.").ret == 4
    assert stage.run("mine.yaml", f"--icl-{option}=x").ret == 4
    assert main(["run", "builtin:handwired", f"--{option}=mine.yaml/x"]) == 4
    assert f"--{option}=" in capsys.readouterr().err
