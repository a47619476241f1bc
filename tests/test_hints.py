"""What a run says at its end: how its models rank, and what to try next."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Stage
from test_render_records import make_check, make_record

from icl_bench.records.record import RunRecord
from icl_bench.render.advice import CONTROL, DEMO, advise
from icl_bench.reports.brief import describe_ranking


def passed(spec: str = "gpt2", suite: str = "core", verdict: str = "pass") -> RunRecord:
    record = make_record(checks=[make_check("a", verdict=verdict)])
    record.model.spec = spec
    record.suites = [record.suites[0].model_copy(update={"name": suite})]
    return record


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("--icl-", f"pytest --icl-model={CONTROL} --icl-suite=core"),
        ("--", f"icl-bench run {CONTROL} --suite=core"),
    ],
)
def test_after_the_demo_its_passes_are_explained_and_a_failing_model_named(
    prefix: str, command: str
) -> None:
    words = advise([passed(DEMO)], prefix, compared=False)
    assert "attends to the token after" in words[0]
    assert words[-1].strip() == command


def test_the_demo_has_a_suite_beside_core_that_changes_nothing_of_that() -> None:
    record = passed(DEMO)
    record.suites.append(record.suites[0].model_copy(update={"name": "circuit"}))
    assert advise([record], "--", compared=False) == advise([passed(DEMO)], "--", compared=False)


@pytest.mark.parametrize(
    "record", [passed(), passed(DEMO, suite="quiz"), passed(DEMO, suite="circuit")]
)
def test_after_passes_of_another_model_or_suite_a_baseline_is_next(record: RunRecord) -> None:
    [line] = advise([record], "--", compared=False)
    assert "--save-baseline=good.json" in line and "--baseline=good.json" in line
    assert advise([record], "--", compared=True) == []


@pytest.mark.parametrize("verdict", ["fail", "error", "inconclusive", "skipped"])
def test_what_did_not_pass_is_not_to_be_kept(verdict: str) -> None:
    assert advise([passed(verdict=verdict)], "--", compared=False) == []
    assert advise([passed(DEMO, verdict=verdict)], "--", compared=False) == []


def test_several_models_an_unfinished_run_and_no_checks_get_no_advice() -> None:
    assert advise([passed(), passed()], "--", compared=False) == []
    cut = passed().model_copy(update={"status": "interrupted"})
    assert advise([cut], "--", compared=False) == []
    assert advise([passed().model_copy(update={"checks": []})], "--", compared=False) == []


def test_the_models_of_a_run_are_ranked_in_a_line(stage: Stage) -> None:
    result = stage.run("--icl-model=stub:bad", "--icl-model=stub:good", "mine.yaml")
    [line] = [one for one in result.outlines if one.startswith("Ranking by")]
    assert line.startswith("Ranking by level of mine: 1–2 stub:good (1), ")
    assert line.index("stub:good") < line.index("stub:bad")
    records = [stage.path / "reports" / name / "results.json" for name in ("stub-bad", "stub-good")]
    assert list(describe_ranking(records)) == [line]
    quiet = stage.run("--icl-model=stub:bad", "--icl-model=stub:good", "mine.yaml", "-q")
    assert "Ranking by" not in quiet.stdout.str()


def test_one_model_and_files_that_are_no_records_rank_nothing(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert list(describe_ranking([tmp_path / "results.json"])) == []
    assert list(describe_ranking([tmp_path / "results.json"] * 2)) == []
