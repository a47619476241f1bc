"""What can never hold is warned of, with its place; what may hold is not."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Stage

import icl_bench
from icl_bench.errors import SuiteError
from icl_bench.probes import get_probe, probe_names
from icl_bench.suite import load_suite, shipped_suites
from icl_bench.suite.guide import example_of

HEAD = "icl_suite: 1\nname: x\nmeasure:\n"
ONE = HEAD + "  r: {probe: PROBE}\nchecks:\n  - {id: c, on: r, RULE}\n"
QUIZ = (
    HEAD + "  r: {probe: induction}\nquiz:\n"
    "  - {id: q, question: Q, options: {a: A, b: B, c: C}, on: r, METRIC, expected: b,\n"
    "     supports: [RULES]}\n"
)
HEADS = (
    HEAD + "  s: {probe: SOURCE}\n"
    "  r: {probe: ablation, heads: {from: s, where: WHERE}}\n"
    "checks:\n  - {id: c, on: r, metric: copying_lost, above: 0.2}\n"
)


def warnings_of(folder: Path, text: str) -> list[str]:
    path = folder / "x.yaml"
    path.write_text(text)
    return [warning.replace(f"{path}:", "") for warning in load_suite(path).warnings]


def check(probe: str, rule: str) -> str:
    return ONE.replace("PROBE", probe).replace("RULE", rule)


@pytest.mark.parametrize(
    ("probe", "rule", "says"),
    [
        ("induction", "metric: uniform_level, above: 1", "lies between -1 and 1, so"),
        ("losses", "metric: repeated_loss, below: 0", "repeated_loss is never below 0, so"),
        ("losses", "metric: first_loss, between: [-2, -1]", "first_loss is never below 0"),
        ("induction", "metric: induction_heads, at_most: -1", "is never below 0"),
        (
            "phase_change, scores: s, losses: l",
            "metric: null_p_value, above: 1.5",
            "null_p_value lies between 0 and 1",
        ),
        ("losses", "metric: gain, equals: 3", "gain is an estimate, and never surely one number"),
        (
            "induction, control: false",
            "metric: induction_control, below: 0.4",
            "induction_control is never measured here: control: false in the suite",
        ),
        (
            "fewshot, shots: [0, 2]",
            "metric: accuracy_3, above: 0.2",
            "accuracy_3 is never measured here: not among the suite's shots",
        ),
        ("fewshot", "metric: gain_lost, above: 0.2", "no heads in the suite"),
        ("icl_score", "metric: text_delta, above: 0.2", "the suite names no 'heads' to ablate"),
        (
            "icl_score, heads: [[0, 1]]",
            "metric: null_p_value, below: 0.2",
            "null_p_value is never measured here: null_draws: 0 in the suite",
        ),
        ("fuzzy", "metric: fuzzy_effect_lost, above: 0.2", "no heads in the suite"),
        ("offset_profile, offsets: [0, 2]", "metric: height_at_one, above: 0.2", "1 is not among"),
        (
            "composition, heads: [[1, 0]], sides: [key]",
            "metric: query_drop, above: 0.2",
            "the suite leaves this side out",
        ),
        (
            "phase_change, scores: s, losses: l",
            "metric: text_size, above: 0.2",
            "text_size is never measured here",
        ),
        (
            "ablation, heads: [[0, 1]], null_draws: 9",
            "metric: null_p_value, below: 0.2",
            "with null_draws: 9 no p-value is below 0.1, and alpha is 0.05",
        ),
    ],
)
def test_a_check_that_never_holds_is_named(
    tmp_path: Path, probe: str, rule: str, says: str
) -> None:
    text = check(probe, rule)
    lines = 6
    if "scores: s" in probe:
        text = text.replace(
            "measure:\n", "measure:\n  s: {probe: induction}\n  l: {probe: losses}\n"
        )
        lines = 8
    (warning,) = warnings_of(tmp_path, text)
    line, column = warning.split(":")[:2]
    at = text.splitlines()[int(line) - 1][int(column) - 1 :]
    assert says in warning and int(line) == lines and rule.split(": ")[-1].startswith(at[:1])


@pytest.mark.parametrize(
    ("probe", "rule"),
    [
        ("induction", "metric: uniform_level, above: 0.99"),
        ("induction", "metric: induction_heads, equals: 3"),
        ("losses", "metric: repeated_loss, at_most: 0"),
        ("losses", "metric: gain, below: -1"),
        ("losses", "metric: gain, equals: 3, tolerance: 0.5"),
        ("fewshot, shots: [0, 2]", "metric: accuracy_2, above: 0.2"),
        ("fewshot, heads: [[0, 1]]", "metric: null_p_value, at_most: 0.05"),
        ("icl_score, heads: [[0, 1]], null_draws: 19", "metric: null_p_value, at_most: 0.05"),
        ("offset_profile", "metric: height_at_one, above: 0.2"),
        ("composition, heads: [[1, 0]], sides: [key]", "metric: key_drop, above: 0.2"),
        ("ablation, heads: [[0, 1]]", "metric: loss_ratio, above: 9"),
    ],
)
def test_a_check_that_may_hold_is_not(tmp_path: Path, probe: str, rule: str) -> None:
    assert warnings_of(tmp_path, check(probe, rule)) == []


@pytest.mark.parametrize(
    ("metric", "rules", "says"),
    [
        (
            "induction_max",
            "{option: a, above: 0.1}, {option: b, above: 0.4}",
            "7:*: option 'b' can never be supported: entry 1 holds wherever this one does, and *",
        ),
        (
            "uniform_level",
            "{option: a, above: 1}, {option: b, below: -1}",
            "6:5: no option can ever be supported: uniform_level lies between -1 and 1, *",
        ),
        (
            "induction_max",
            "{option: a, above: 0.99}, {option: b, below: 0.4}",
            "7:*: option 'a' can never be supported: induction_max can never pass above: 0.99: *",
        ),
        ("induction_max", "{option: a, above: 0.4}, {option: b, at_least: 0.4}", ""),
        ("induction_max", "{option: a, at_least: 0.4}, {option: b, above: 0.4}", "7:*entry 1 *"),
        ("induction_max", "{option: a, between: [0.2, 0.4]}, {option: b, above: 0.3}", ""),
        ("induction_max", "{option: b, above: 0.1}, {option: b, above: 0.4}", ""),
    ],
)
def test_an_option_that_nothing_speaks_for_is_named(
    tmp_path: Path, metric: str, rules: str, says: str
) -> None:
    text = QUIZ.replace("METRIC", f"metric: {metric}").replace("RULES", rules)
    found = warnings_of(tmp_path, text)
    assert len(found) == bool(says)
    assert all(fnmatch.fnmatchcase(line, says.replace("[", "[[]")) for line in found), found


@pytest.mark.parametrize(
    ("source", "where", "says"),
    [
        (
            "induction",
            "{induction: {above: 1}}",
            "5:60: induction lies between 0 and 1",
        ),
        (
            "induction",
            "{induction: {above: 0.4, below: 0.2}}",
            "no induction is above 0.4",
        ),
        ("induction", "{previous_token: {below: 0}}", "previous_token lies between 0 and 1"),
        ("induction", "{induction: {above: 0.4}, induction_excess: {below: -1}}", "-1 and 1"),
        ("induction", "{induction_excess: {below: 0}}", ""),
        ("sweep", "{delta: {above: 5}}", ""),
    ],
)
def test_heads_that_are_never_chosen_are_named(
    tmp_path: Path, source: str, where: str, says: str
) -> None:
    found = warnings_of(tmp_path, HEADS.replace("SOURCE", source).replace("WHERE", where))
    assert len(found) == bool(says) and all(says in line for line in found), found


def test_a_threshold_that_no_data_can_pass_and_a_wrong_range_are_mistakes(tmp_path: Path) -> None:
    for rule in ("above: 1.2", "between: [0.5, 0.1]"):
        with pytest.raises(SuiteError):
            warnings_of(tmp_path, check("induction", f"metric: induction_max, {rule}"))


def test_shipped_suites_and_examples_have_no_warning(tmp_path: Path) -> None:
    assert [w for path in shipped_suites().values() for w in load_suite(path).warnings] == []
    for name in probe_names():
        data = {"icl_suite": 1, "name": "x", "measure": example_of(get_probe(name))}
        assert warnings_of(tmp_path, yaml.safe_dump(data, sort_keys=False)) == []


def test_what_settings_leave_out_is_left_out_when_it_is_measured(tmp_path: Path) -> None:
    measured = {
        "induction": "control: false",
        "choice": 'items: [{prompt: "A dog", choices: [" sat", " mat"], answer: " sat"}]',
        "offset_profile": "offsets: [0, 2]",
        "composition": "heads: [[1, 4]], senders: [[0, 9]], sides: [key]",
        "ablation": "heads: [[1, 4]], null_sets: 0, null_draws: 3, varied: false",
        "fuzzy": "items: 12",
    }
    path = tmp_path / "x.yaml"
    path.write_text(
        "icl_suite: 1\nname: x\ndefaults: {sequences: 2, period: 8}\nmeasure:\n"
        + "".join(f"  {name}: {{probe: {name}, {text}}}\n" for name, text in measured.items())
    )
    record = icl_bench.run([path], "builtin:induction-2l", cache=False)
    suite = load_suite(path)
    for name in measured:
        settings: Any = suite.measure[name].settings
        taken = record.measurements[f"x/{name}"]
        assert taken.status == "measured", taken.reason
        assert settings.absent and not settings.absent.keys() & taken.metrics.keys()
        assert settings.absent.keys() <= taken.unmeasured.keys()


def test_pytest_shows_the_warning(stage: Stage) -> None:
    stage.write("mine.yaml", check("losses", "metric: repeated_loss, below: 0"))
    result = stage.run("--icl-model=builtin:induction-2l", "mine.yaml", "--collect-only")
    result.stdout.fnmatch_lines(["*SuiteWarning: *mine.yaml:6:*repeated_loss is never below 0*"])
