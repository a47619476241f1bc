"""Suites load into what they say; whatever is wrong is named with line and column."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from suite_texts import CHECKS, EXAMPLE, HEAD, MEASURE, PROMPT, measured, rule, write

from icl_bench.suite import CheckSpec, QuizSpec, Support, load_suite

# What loads


def test_the_example_loads_into_measurements_checks_and_quiz(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, EXAMPLE))
    assert suite.path == tmp_path / "x.yaml"
    assert (suite.name, suite.description, suite.shipped) == (
        "core",
        "Induction circuit present, causal, and used.",
        False,
    )
    assert list(suite.measure) == ["repeats", "collapse", "quiz/harry-potter"]
    assert suite.checks[1] == CheckSpec(
        "ablation-collapses-copying", "collapse", "loss_ratio", "above", 2.0
    )
    assert isinstance(suite.checks[1].threshold, float)
    assert suite.quiz[1] == QuizSpec(
        id="meaning-of-a-low-score",
        question="What does a low score mean?",
        options={"a": "it has the circuit", "b": "it has not"},
        on="repeats",
        metric="induction_max",
        supports=(Support("a", "above", 0.4), Support("b", "below", 0.2)),
        expected="b",
    )


def test_defaults_reach_the_probes_that_have_the_setting_and_own_settings_win(
    tmp_path: Path,
) -> None:
    text = (
        f"{HEAD}defaults: {{period: 20, null_draws: 19, score: mean}}\n"
        "measure:\n"
        "  r: {probe: induction}\n"
        "  a: {probe: ablation, heads: [[0, 1]], period: 30}\n"
        f"{PROMPT}"
    )
    measure = load_suite(write(tmp_path, text)).measure
    assert measure["r"].settings.period == 20  # type: ignore[attr-defined]
    assert measure["r"].given == {"period"}
    assert measure["a"].settings.period == 30  # type: ignore[attr-defined]
    assert measure["a"].settings.null_draws == 19  # type: ignore[attr-defined]
    assert measure["a"].given == {"period", "null_draws", "heads"}
    assert measure["quiz/q"].settings.score == "mean"  # type: ignore[attr-defined]
    assert measure["quiz/q"].given == {"items", "score"}


def test_a_required_setting_may_come_from_the_defaults(tmp_path: Path) -> None:
    text = f"{HEAD}defaults: {{heads: [[0, 1]]}}\nmeasure: {{a: {{probe: ablation}}}}\n{PROMPT}"
    assert load_suite(write(tmp_path, text)).measure["a"].given == {"heads"}


def test_a_prompt_item_becomes_a_choice_measurement_decided_by_its_margin(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, EXAMPLE))
    assert suite.quiz[0] == QuizSpec(
        id="harry-potter",
        question="Harry Potter met Ron. Harry",
        options={"a": " Ron", "b": " Potter"},
        on="quiz/harry-potter",
        metric="margin",
        supports=(Support("b", "above", 0.0),),
        expected="b",
    )
    spec = suite.measure["quiz/harry-potter"]
    assert spec.probe == "choice"
    assert spec.settings.model_dump()["items"] == [
        {
            "prompt": "Harry Potter met Ron. Harry",
            "choices": [" Ron", " Potter"],
            "answer": " Potter",
        }
    ]


def test_choices_beyond_the_alphabet_get_two_letters(tmp_path: Path) -> None:
    choices = ", ".join(f"w{i}" for i in range(28))
    text = f"{HEAD}quiz: [{{id: q, prompt: P, choices: [{choices}], answer: w27}}]\n"
    item = load_suite(write(tmp_path, text)).quiz[0]
    assert item.expected == "ab"
    assert list(item.options)[24:] == ["y", "z", "aa", "ab"]


def test_a_check_may_look_at_the_measurement_of_a_prompt_item(tmp_path: Path) -> None:
    text = f"{HEAD}{PROMPT}checks: [{{id: c, on: quiz/q, metric: accuracy, at_least: 1}}]\n"
    assert load_suite(write(tmp_path, text)).checks[0].on == "quiz/q"


@pytest.mark.parametrize(
    ("text", "name", "threshold"),
    [
        ("above: 0.4", "above", 0.4),
        ("below: 1e-3", "below", 0.001),
        ("above: 2", "above", 2.0),
        ("at_least: -1.5E+2", "at_least", -150.0),
        ("at_most: .5", "at_most", 0.5),
        ("between: [0.1, 1]", "between", [0.1, 1.0]),
        ("equals: 010", "equals", 10.0),
    ],
)
def test_every_rule_takes_its_number(
    tmp_path: Path, text: str, name: str, threshold: object
) -> None:
    spec = load_suite(write(tmp_path, rule(text))).checks[0]
    assert (spec.rule, spec.threshold, spec.tolerance) == (name, threshold, None)


def test_equals_takes_a_tolerance_and_checks_take_models_and_description(tmp_path: Path) -> None:
    text = rule("equals: 0.9, tolerance: 0.05, models: [gpt2, '*pythia*'], description: Published")
    spec = load_suite(write(tmp_path, text)).checks[0]
    assert (spec.rule, spec.threshold, spec.tolerance) == ("equals", 0.9, 0.05)
    assert (spec.models, spec.description) == (("gpt2", "*pythia*"), "Published")


@pytest.mark.parametrize(
    "item",
    [
        "prompt: P, choices: [a, b], answer: a",
        (
            "question: Q, options: {a: A, b: B}, on: r, metric: induction_max, "
            "supports: [{option: a, above: 0.5}], expected: a"
        ),
    ],
)
def test_quiz_items_of_both_forms_take_models_and_description(tmp_path: Path, item: str) -> None:
    text = f"{HEAD}{MEASURE}quiz: [{{id: q, {item}, models: ['builtin:*'], description: D}}]\n"
    spec = load_suite(write(tmp_path, text)).quiz[0]
    assert (spec.models, spec.description) == (("builtin:*",), "D")


def test_a_measurement_that_nothing_uses_is_allowed(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, HEAD + MEASURE + PROMPT))
    assert set(suite.measure) == {"r", "quiz/q"}


def test_option_keys_that_look_like_other_things_are_names(tmp_path: Path) -> None:
    text = measured('options: {yes: A, 1: B}, supports: [{option: "1", above: 0.5}], expected: "1"')
    assert load_suite(write(tmp_path, text)).quiz[0].options == {"yes": "A", "1": "B"}


def test_the_digest_ignores_comments_layout_and_key_order_and_sees_every_value(
    tmp_path: Path,
) -> None:
    plain = load_suite(write(tmp_path, HEAD + MEASURE + CHECKS)).sha256
    other = (
        "# a comment\nicl_suite: 1\nmeasure:\n  r:\n    probe: induction\nchecks:\n"
        "  - metric: 'induction_max'\n    above: 4e-1\n    on: r\n    id: c\nname: x\n"
    )
    changed = (HEAD + MEASURE + CHECKS).replace("0.4", "0.5")
    assert load_suite(write(tmp_path, other)).sha256 == plain
    assert load_suite(write(tmp_path, changed)).sha256 != plain
    assert len(plain) == 64


def test_a_suite_has_version_1_unless_it_states_another(tmp_path: Path) -> None:
    text = HEAD + MEASURE + CHECKS
    plain = load_suite(write(tmp_path, text))
    # As it was before suites had versions.
    assert (plain.version, plain.sha256[:16]) == (1, "43cdc23f75e621f9")
    second = load_suite(write(tmp_path, text.replace("name: x", "name: x\nversion: 2")))
    assert second.version == 2 and second.sha256 != plain.sha256


def test_a_suite_in_the_shipped_folder_is_marked_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icl_bench.suite.catalog.shipped_folder", lambda: tmp_path)
    assert load_suite(write(tmp_path, EXAMPLE)).shipped


# What it costs

COST = """
import sys
{first}
from icl_bench.suite import is_suite
assert is_suite(sys.argv[1]) and "icl_bench.suite.loading" not in sys.modules
from icl_bench.suite import find_suite, json_schema, load_suite
find_suite(sys.argv[1]), load_suite(sys.argv[1]), json_schema()
print("heavy:", *sorted({{"torch", "transformers", "pandas"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("first", "printed"), [("", "heavy:"), ("sys.modules['pandas'] = sys", "heavy: pandas")]
)
def test_loading_a_suite_imports_nothing_heavy_and_this_test_can_tell(
    tmp_path: Path, first: str, printed: str
) -> None:
    path = write(tmp_path, EXAMPLE)
    command = [sys.executable, "-c", COST.format(first=first), str(path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert (done.stdout.strip(), done.stderr) == (printed, "")


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import icl_bench.suite

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        icl_bench.suite.nothing  # noqa: B018
