from __future__ import annotations

import re

import pytest
from test_render_records import all_verdicts, make_check, make_heads, make_record

from icl_bench.records.parts import Measurement, Metric, ModelInfo, SuiteRef
from icl_bench.records.record import RunRecord
from icl_bench.render.terminal import summary
from icl_bench.render.writing.text import columns, printable

GOLDEN = """\
builtin:tiny — TinyForCausalLM, 2 layers × 6 heads, fused attention, float32

Check                 Metric                Value   Stderr  Rule        Verdict
───────────────────────────────────────────────────────────────────────────────
has-induction-heads   induction_max      ↑  0.902 ± 0.0083  > 0.4       PASS
ablation-collapses-   loss_ratio         ↑   4.41 ± 0.31    > 2         PASS
copying
beyond-random-heads   null_p_value       ↓    0.2           < 0.05      FAIL
some-head-looks-back  previous_token_max ↑   0.41 ± 0.03    > 0.4       UNCLEAR
five-heads            induction_heads    ↑                  = 5 ± 1     SKIP
meaning-of-a-low-     induction_median     0.0213 ± 0.0011  supports b  PASS
score
answers-harry-potter  margin             ↑                  > 0         ERROR

Top heads of core/repeats
Head  Induction   Stderr  Control  Excess  Previous  Duplicate  First
─────────────────────────────────────────────────────────────────────
1.0       0.902 ± 0.0083    0.020   0.882     0.031      0.050  0.300
1.5       0.032 ± 0.0011    0.020   0.012     0.031      0.050  0.300
1.4       0.031 ± 0.0011    0.020   0.011     0.031      0.050  0.300
1.3       0.030 ± 0.0011    0.020   0.010     0.031      0.050  0.300
1.2       0.029 ± 0.0011    0.020   0.009     0.031      0.050  0.300
1.1       0.028 ± 0.0011    0.020   0.008     0.031      0.050  0.300
0.5       0.026 ± 0.0011    0.020   0.006     0.031      0.050  0.300
0.4       0.025 ± 0.0011    0.020   0.005     0.031      0.050  0.300
0.3       0.024 ± 0.0011    0.020   0.004     0.988      0.050  0.300
0.0       0.021 ± 0.0011    0.020   0.001     0.031      0.050  0.300
0.1       0.022 ± 0.0011    0.020   0.002     0.031      0.050  0.300

3 passed, 1 failed, 1 unclear, 1 skipped, 1 error
FAIL     beyond-random-heads: required < 0.05, measured 0.2
UNCLEAR  some-head-looks-back: 0.41 ± 0.03: the 95% interval [0.35, 0.47]
         straddles 0.4
SKIP     five-heads: applies only to gpt2
ERROR    answers-harry-potter: the tokenizer failed

Reports in reports/builtin-tiny/
  results.json, report.md"""

MATRIX = """\
Check                       Rule           [1]            [2]
──────────────────────────────────────────────────────────────────
has-induction-heads         > 0.4        0.902 PASS     0.902 PASS
ablation-collapses-copying  > 2           4.41 PASS      4.41 PASS
beyond-random-heads         < 0.05         0.2 FAIL       0.2 FAIL
some-head-looks-back        > 0.4         0.41 UNCLEAR        –
five-heads                  = 5 ± 1            SKIP           –
meaning-of-a-low-score      supports b  0.0213 PASS           –
answers-harry-potter        > 0                ERROR          –
"""


def of_model(spec: str, **fields: object) -> RunRecord:
    return make_record(model=ModelInfo(spec=spec, slug=spec), **fields)


def widest(text: str) -> int:
    return max(len(line) for line in text.splitlines())


def test_the_summary_of_one_model_fits_80_columns() -> None:
    folder = "reports/builtin-tiny"
    text = summary([make_record()], paths=[f"{folder}/results.json", f"{folder}/report.md"])
    assert text == GOLDEN
    assert widest(text) <= 80


def test_models_stand_side_by_side_in_one_table() -> None:
    text = summary([make_record(), of_model("gpt2", checks=all_verdicts()[:3])])
    assert MATRIX in text
    assert text.startswith("[1] builtin:tiny — TinyForCausalLM")
    assert "\n[2] gpt2\n" in text
    assert widest(text) <= 80


def test_more_models_than_fit_side_by_side_get_a_table_each() -> None:
    text = summary([of_model(f"model-{index}") for index in range(5)])
    assert text.count("Verdict") == 5
    assert "[1]" not in text
    assert widest(text) <= 80


@pytest.mark.parametrize("width", [54, 60, 66])
def test_on_a_narrow_terminal_words_give_way_and_no_number_does(width: int) -> None:
    record = make_record()
    whole, narrow = (summary([record], width=columns) for columns in (80, width))
    assert widest(narrow) <= width < widest(whole)

    def numbers(text: str) -> list[str]:
        return re.findall(r"[\d.]+", re.sub(r"\S*[^\W\d]\S*", "", text.partition("Reports")[0]))

    assert numbers(narrow) == numbers(whole)


def test_models_get_a_table_each_when_the_width_is_too_small_for_one() -> None:
    text = summary([of_model(f"model-{index}") for index in range(4)], width=60)
    assert text.count("Verdict") == 4


@pytest.mark.parametrize("unicode", [True, False])
def test_long_ids_names_and_reasons_stay_within_the_width(unicode: bool) -> None:
    long = "-".join(["a-rather-long-name"] * 6)
    checks = [
        make_check(long, metric=long.replace("-", "_"), verdict="fail", reason=long * 2),
        make_check("x" * 90, rule="supports", kind="quiz", expected="option-" * 6),
    ]
    record = make_record(checks=checks, measurements={f"core/{long}": heads_only(make_heads())})
    record.model.spec = long
    text = summary([record], unicode=unicode)
    assert widest(text) <= 80
    assert "x" * 18 in text
    assert widest(summary([record, record, record], unicode=unicode)) <= 80


def heads_only(heads: list[dict[str, object]]) -> Measurement:
    return Measurement(probe="induction", heads=heads)


def test_without_unicode_the_text_is_ascii() -> None:
    text = summary([make_record()], unicode=False)
    assert text.isascii()
    assert "0.902 +- 0.0083" in text
    assert "induction_max      ^" in text
    assert widest(text) <= 80


def test_colour_changes_nothing_but_colour() -> None:
    plain, colored = (summary([make_record()], color=color) for color in (False, True))
    assert "\033" not in plain
    assert "\033[31mFAIL\033[0m" in colored
    assert re.sub(r"\033\[[0-9;]*m", "", colored) == plain


def test_control_characters_of_a_model_or_suite_do_not_reach_the_terminal() -> None:
    evil = "gpt\x1b[2J\n\r2\u202e"
    record = of_model(evil, checks=[make_check(evil, verdict="fail", reason=evil)])
    record.model.architecture = evil
    text = summary([record, record], paths=[f"reports/{evil}/report.md"])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    assert "\n\r" not in text and "\n2" not in text


def test_checks_that_share_a_reason_share_a_line() -> None:
    checks = [make_check(name, verdict="skipped", reason="deselected") for name in "ab"]
    assert "SKIP     a, b: deselected" in summary([make_record(checks=checks)])


def test_a_verdict_without_a_reason_says_so() -> None:
    record = make_record(checks=[make_check("a", verdict="error")])
    assert "ERROR    a: no reason was recorded" in summary([record])


def test_suites_get_a_table_each_with_their_name() -> None:
    record = make_record(checks=[make_check("a"), make_check("b", suite="olsson")])
    text = summary([record])
    assert "\n  suite core\nCheck" in text
    assert "\n  suite olsson\nCheck" in text
    both = summary([record, record])
    assert "\ncore::a " in both and "\nolsson::b " in both


def test_the_header_tells_what_is_unusual_about_a_model() -> None:
    model = ModelInfo(
        spec="org/hybrid",
        slug="org-hybrid",
        revision="abc",
        layers=4,
        heads=[8, 4],
        attention="eager",
        attention_note="no attention interface",
    )
    text = summary([make_record(model=model, status="interrupted")])
    assert text.startswith(
        "org/hybrid@abc — 4 layers × 4–8 heads, eager attention, interrupted run\n"
        "  attention: no attention interface\n"
    )
    same = ModelInfo(spec="m", slug="m", layers=2, heads=[4, 4], attention="none")
    first = summary([make_record(model=same)]).splitlines()[0]
    assert first == "m — 2 layers × 4 heads, no attention heads"


def test_heads_without_scores_give_no_table() -> None:
    record = make_record(measurements={"core/sweep": heads_only([{"layer": 0, "head": 1}])})
    assert "Top heads" not in summary([record])


def test_head_columns_without_values_are_left_out() -> None:
    rows = [{"layer": 0, "head": 1, "induction": 0.5}]
    text = summary([make_record(measurements={"core/repeats": heads_only(rows)})])
    assert "Head  Induction\n" in text
    assert "0.1       0.500\n" in text


def test_heads_measured_twice_are_shown_once() -> None:
    same, other = make_heads(), make_heads()[:3]
    measurements = {
        "core/repeats": heads_only(same),
        "olsson/repeats": heads_only(same),
        "olsson/longer": heads_only(other),
    }
    text = summary([make_record(measurements=measurements)])
    assert "Top heads of core/repeats, olsson/repeats (1 more in heads.csv)" in text


def test_a_run_without_checks_says_so() -> None:
    record = make_record(checks=[], measurements={}, suites=[SuiteRef(name="core", sha256="0")])
    assert summary([record]).endswith("\n\nno checks")
    assert summary([record, record]).count("no checks") == 2


def test_no_records_give_no_text() -> None:
    assert summary([]) == ""


def test_from_120_columns_on_checks_show_interval_samples_and_seconds() -> None:
    record = make_record()
    for check in record.checks:
        check.description = "Some head attends to what followed the last time, says " + check.id
    narrow, wide, wider = (summary([record], width=width) for width in (119, 120, 180))
    assert "  95% interval" not in narrow and "Seconds" not in narrow
    header = next(line for line in wide.splitlines() if line.startswith("Check "))
    titles = ["Metric", "Value", "Stderr", "95% interval", "n", "Seconds", "Rule", "Verdict"]
    places = [header.index(title) for title in titles]
    assert places == sorted(places) and "Asks" not in header
    assert "Asks" in next(line for line in wider.splitlines() if line.startswith("Check "))
    row = next(line for line in wider.splitlines() if line.startswith("some-head-looks-back"))
    assert "[0.350, 0.470]" in row or "[0.35, 0.47]" in row
    assert "Some head attends to what followed" in row
    assert widest(wide) <= 120 and widest(wider) <= 180


def test_a_wide_table_has_the_samples_and_the_time_of_the_measurement() -> None:
    check = make_check("a", measurement="core/repeats")
    taken = Measurement(
        probe="induction", seconds=12.34, metrics={check.metric: Metric(value=0.9, n=1234)}
    )
    text = summary([make_record(checks=[check], measurements={"core/repeats": taken})], width=130)
    row = next(line for line in text.splitlines() if line.startswith("a  "))
    assert "  1,234     12.3  " in row


def test_on_a_wide_page_more_models_stand_side_by_side_in_blocks() -> None:
    records = [of_model(f"model-{index}") for index in range(9)]
    text = summary(records, width=160)
    assert widest(text) <= 160
    headers = [line for line in text.splitlines() if line.startswith("Check ")]
    assert sum(line.count("[") for line in headers) == 9 and len(headers) == 2
    assert "[9]" in headers[1] and "[9]" not in headers[0]
    # Each block has every check.
    assert text.count("\nhas-induction-heads ") == 2


@pytest.mark.parametrize("width", [80, 120, 140])
def test_east_asian_signs_keep_columns_and_width(width: int) -> None:
    checks = [
        make_check("有归纳头吗-这是一个很长的名字-用来换行", verdict="fail", reason="原因" * 60),
        make_check("plain", metric="测量值" * 9),
    ]
    record = make_record(checks=checks)
    record.model.spec = "模型/" + "名字" * 50
    text = summary([record], width=width)
    assert max(columns(line) for line in text.splitlines()) <= width
    lines = text.splitlines()
    rows = [line for line in lines if line.endswith(("FAIL", "PASS")) and not line.startswith("F")]
    assert len({columns(row.rpartition(" ")[0]) for row in rows}) == 1
    both = summary([record, record], width=width)
    assert max(columns(line) for line in both.splitlines()) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_a_quiz_of_many_items_fits(width: int) -> None:
    checks = [
        make_check(f"question-{index}-about-something", kind="quiz", rule="supports", expected="a")
        for index in range(42)
    ]
    record = make_record(checks=checks)
    for records in ([record], [record] * 3, [record] * 7):
        text = summary(records, width=width)
        assert widest(text) <= width
        assert "question-41-" in text


COMMANDS = ("::error file=a::b", "##[group]x", "##vso[task.setvariable]x", "##teamcity[x]")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_a_command_of_a_ci_system(command: str, width: int) -> None:
    checks = [
        make_check(command, verdict="fail", metric=command, reason=f"{'x' * 33} {command}"),
        make_check(f"{'y' * 18}{command}", verdict="error", reason=command),
    ]
    record = of_model(command, checks=checks)
    for records in ([record], [record, record]):
        text = summary(records, width=width, paths=[f"{command}/report.md"])
        assert not re.search(r"^\s*::", text, re.MULTILINE)
        assert not re.search(r"##(vso|teamcity)?\[", text)
    # Without its first sign it would be one; what is left can still be read.
    assert command[2:6] in text


def test_text_of_several_lines_keeps_its_layout_and_nothing_else() -> None:
    text = printable("fail: a\x1b[2Jb\r\n  option   (a) x\u202ey\n  ::error::z\n##[group]")
    assert text == "fail: a[2Jb\n  option   (a) xy\n  ·:error::z\n#·[group]"
