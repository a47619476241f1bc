from __future__ import annotations

import html

import pytest
from test_render_records import make_check, make_record

from icl_bench.records.parts import Measurement, Metric, SuiteRef
from icl_bench.render.markdown import report
from icl_bench.render.tables import histogram
from icl_bench.render.writing.markup import escape

EVIL = "a|b `c` <script>x</script> [l](http://e) ![i](j) *s* _u_ ~d~ $m$ &lt;\n\n# h\n- <!--"


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_starts_with_the_verdict() -> None:
    assert report(make_record()).startswith(
        "# icl_bench: builtin:tiny\n\n"
        "**ERROR**: 3 passed, 1 failed, 1 unclear, 1 skipped, 1 error\n\n"
        "- suite core: The circuit works.\n"
    )


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["pass", "skipped"], "PASS"),
        (["pass", "inconclusive"], "UNCLEAR"),
        (["inconclusive", "fail"], "FAIL"),
        (["fail", "error"], "ERROR"),
        (["skipped"], "SKIP"),
        ([], "NO CHECKS"),
    ],
)
def test_the_worst_verdict_stands_for_the_run(verdicts: list[str], word: str) -> None:
    checks = [make_check(f"c{i}", verdict=verdict) for i, verdict in enumerate(verdicts)]
    assert f"\n**{word}**: " in report(make_record(checks=checks))


@pytest.mark.parametrize("status", ["partial", "interrupted"])
def test_an_incomplete_run_is_marked(status: str) -> None:
    assert f"This run is **{status}**" in report(make_record(status=status))
    assert "This run is" not in report(make_record())


def test_every_check_has_a_row_with_interval_description_and_reason() -> None:
    text = report(make_record())
    (header,) = lines_of(text, "| Check ")
    assert cells(header) == [
        *["Check", "Metric", "", "Value", "", "Stderr", "95% interval"],
        *["Rule", "Verdict", "Asks", "Reason"],
    ]
    (row,) = lines_of(text, "| has-induction-heads")
    assert cells(row) == [
        *["has-induction-heads", "induction_max", "↑", "0.902", "±", "0.0083"],
        *["[0.885, 0.919]", "> 0.4", "PASS", "A head matches the prefix.", ""],
    ]
    (row,) = lines_of(text, "| five-heads")
    assert cells(row)[-4:] == ["= 5 ± 1", "SKIP", "", "applies only to gpt2"]


def test_checks_of_several_suites_carry_the_suite_name() -> None:
    suites = [SuiteRef(name="core", sha256="1"), SuiteRef(name="olsson", sha256="2")]
    text = report(make_record(suites=suites))
    assert "| core::has-induction-heads" in text
    assert "suite olsson SHA-256" in text


def test_the_quiz_shows_question_options_measurement_and_both_answers() -> None:
    quiz = report(make_record()).split("## Quiz\n")[1].split("\n## ")[0].strip()
    assert quiz == (
        "### PASS: meaning-of-a-low-score\n\n"
        "**Question:** What does a score of 0.02 mean?\n\n"
        "- a: an induction head\n"
        "- b: no more than even attention ← expected, supported by the measurement\n\n"
        "**Measured:** induction_median = 0.0213 ± 0.0011, 95% interval [0.019, 0.0236], "
        "which supports b; expected b"
    )


def test_the_quiz_shows_rules_and_the_numbers_beside() -> None:
    item = make_check(
        "q",
        kind="quiz",
        rule="supports",
        measurement="core/collapse",
        metric="loss_ratio",
        threshold=[
            {"option": "a", "rule": "above", "threshold": 1.5},
            {"option": "b", "rule": "below", "threshold": 1.2},
            {"option": "b", "rule": "between", "threshold": [5, 6]},
        ],
        options={"a": "it rises", "b": "it does not", "c": "nobody knows"},
        expected="a",
        supports="a",
        beside=["repeated_loss", "not_measured", "repeated_loss_ablated"],
    )
    text = report(make_record(checks=[item]))
    assert "- a: it rises ← if loss_ratio > 1.5, expected, supported by the measurement" in text
    assert "- b: it does not ← if loss_ratio < 1.2 or 5 – 6\n- c: nobody knows\n" in text
    assert "**Beside it:** repeated_loss = 2.66 ± 0.11; repeated_loss_ablated = 11.73 ± 0.2" in text


def test_several_quiz_items_come_with_a_table_at_a_glance() -> None:
    quiz = {"kind": "quiz", "rule": "supports", "options": {"a": "A", "b": "B"}, "expected": "a"}
    nothing = {"value": None, "stderr": None, "ci_low": None, "ci_high": None}
    checks = [
        make_check("first", supports="a", **quiz),
        make_check("second", supports=None, verdict="fail", **quiz),
        make_check("third", verdict="skipped", **quiz, **nothing),
    ]
    glance = report(make_record(checks=checks)).split("## Quiz\n")[1].split("###")[0]
    rows = [cells(line) for line in lines_of(glance, "| ")][1:]
    assert rows == [
        ["first", "PASS", "induction_max = 0.902 ± 0.0083", "a: A"],
        ["second", "FAIL", "induction_max = 0.902 ± 0.0083", "none of the options"],
        ["third", "SKIP", "", ""],
    ]


def test_a_quiz_item_that_was_not_measured_says_why() -> None:
    fields = {"value": None, "stderr": None, "ci_low": None, "ci_high": None}
    item = make_check("q", kind="quiz", verdict="skipped", reason="no text", **fields)
    text = report(make_record(checks=[item]))
    assert "**Measured:** induction_max was not measured\n\n**Reason:** no text" in text


def test_the_ablation_is_summed_up_with_its_null() -> None:
    text = report(make_record())
    rows = [cells(line) for line in lines_of(text, "| loss on ") + lines_of(text, "| copy acc")]
    assert rows == [
        ["loss on the first copy (nats)", "13.95 ± 0.21", "13.97 ± 0.22"],
        ["loss on the repeats (nats)", "2.66 ± 0.11", "11.73 ± 0.2"],
        ["copy accuracy", "0.7 ± 0.02", "0.1 ± 0.01"],
    ]
    assert "- switched off: 1.0 (mean)\n" in text
    assert "- loss_ratio: 4.41 ± 0.31, 95% interval [3.82, 5.08]\n" in text
    assert (
        "Null of 9 draws of layer-matched random heads: loss_ratio median 1.4, largest 1.8." in text
    )
    assert "1.00 – 1.10  ████████████ 1\n" in text
    assert "observed: 4.41\n```" in text


def test_the_nulls_own_sequences_are_told() -> None:
    record = make_record()
    measured = next(one for one in record.measurements.values() if one.tables.get("null"))
    measured.metrics["null_observed_ratio"] = Metric(value=4.71, n=4, exact=True)
    assert "observed, on the null's own 4 sequences: 4.71\n```" in report(record)


def test_an_ablation_without_null_shows_no_histogram() -> None:
    metrics = {"heads": Metric(value=0, exact=True)}
    tables: dict[str, list[dict[str, object]]] = {"ablated_heads": [], "chosen_heads": []}
    measured = Measurement(probe="ablation", metrics=metrics, tables=tables)
    record = make_record(measurements={"core/x": measured})
    assert "- heads: 0" in report(record)
    assert "```" not in report(record)


def test_settings_reasons_and_provenance_are_in_the_report() -> None:
    record = make_record()
    record.measurements["core/repeats"].unmeasured["induction_control"] = "controls were off"
    text = report(record)
    for expected in (
        "- period: 50",
        "- heads: [[1, 0]]",
        f"- tokens SHA-256: {'b' * 64}",
        "### core/harry (probe choice): error\n\nReason: the tokenizer failed",
        "| not measured     | controls were off |",
        f"| model fingerprint  | {'f' * 64} |",
        "134,515,008",
        "2.13.0",
        "a" * 64,
    ):
        assert expected in text, expected


def test_a_long_setting_is_cut() -> None:
    record = make_record()
    record.measurements["core/harry"].settings["items"] = ["x" * 1000]
    assert '- items: ["' + "x" * 197 + "…\n" in report(record)


def test_tables_hold_in_spite_of_pipes_and_newlines() -> None:
    checks = [make_check(EVIL, metric=EVIL, description=EVIL, reason=EVIL)]
    (row,) = lines_of(report(make_record(checks=checks)), "| a")
    assert len(row.replace("\\|", "").split("|")) == 11 + 2


def test_nothing_from_a_model_or_suite_becomes_markup() -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    quiz = {"kind": "quiz", "question": EVIL, "options": {EVIL: EVIL}, "expected": EVIL}
    record = make_record(
        suites=[SuiteRef(name=EVIL, sha256=EVIL, description=EVIL)],
        checks=[
            make_check(EVIL, suite=EVIL, metric=EVIL, reason=EVIL, description=EVIL),
            make_check(EVIL, rule="supports", supports=EVIL, description=EVIL, **quiz),
        ],
        measurements={
            EVIL: Measurement(
                probe="ablation",
                reason=EVIL,
                settings={EVIL: EVIL},
                tokens_sha256=EVIL,
                metrics={EVIL: Metric(value=1)},
                unmeasured={EVIL: EVIL},
                heads=[{"layer": 0, "head": 0, "induction": 0.5}],
            )
        },
    )
    record.model.spec = record.model.architecture = EVIL
    page = parser.render(report(record))
    for tag in ("<script", "<a ", "<img", "<em", "<code", "<del", "<s>", "<h1>h", "<!--"):
        assert tag not in page, tag
    assert html.unescape(page).count(" ".join(EVIL.split())) >= 20


def test_rules_stay_legible_in_the_source() -> None:
    assert escape("> 0.4, a_b [1, 2] < 3") == "> 0.4, a_b [1, 2] < 3"


def test_a_histogram_counts_every_value_once() -> None:
    assert histogram([1.0, 1.0, 1.5, 2.0], bins=2, width=4) == [
        "1.00 – 1.50  ████ 2",
        "1.50 – 2.00  ████ 2",
    ]
    assert histogram([1.0001, 1.0002], bins=2, width=2)[0].startswith("1.00010 – 1.00015  ██ 1")
    assert histogram([1.0, 1.0], width=2) == ["1  ██ 2"]
    assert histogram([]) == []
