"""Each mistake in a suite is named with its place, and nothing else happens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from suite_texts import CHECKS, EXAMPLE, HEAD, MEASURE, PROMPT, check, measured, rule, write

from icl_bench.errors import InputError, SuiteError
from icl_bench.suite import load_suite
from icl_bench.suite import problems as suite_problems


def problems(folder: Path, text: str | bytes) -> list[str]:
    """Return the lines of the SuiteError that `text` gives, without the path."""
    path = write(folder, text)
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    prefix = f"{path}:"
    lines = str(caught.value).splitlines()
    assert all(line.startswith(prefix) for line in lines), lines
    return [line.removeprefix(prefix) for line in lines]


# What does not load


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        # the file as a whole
        ("", "1:1", "the file is empty"),
        ("# nothing\n", "1:1", "the file is empty"),
        ("- 1\n", "1:1", "the top level must be a mapping"),
        ("hello\n", "1:1", "the top level must be a mapping"),
        ("name: x\n", "1:1", "the first key must be icl_suite: 1"),
        ("icl_suite: 2\nwhatever: 3\n", "1:12", "version 2 cannot be read; this icl_bench reads 1"),
        ("icl_suite: '1'\n", "1:12", "version '1' cannot be read"),
        ("icl_suite: true\n", "1:12", "version true cannot be read"),
        ("icl_suite: 1.0\n", "1:12", "version 1.0 cannot be read"),
        ("icl_suite:\n", "1:11", "version (no value) cannot be read"),
        ("name: x\nicl_suite: 1\n" + PROMPT, "2:1", "icl_suite must be the first key"),
        (HEAD, "1:1", "empty suite: it has no measurement, check or quiz item"),
        (HEAD + "checks: []\n", "3:1", "empty suite: it has no measurement, check or quiz item"),
        (HEAD + "checks: []\nquiz: []\n", "3:1", "empty suite"),
        (HEAD + "chekcs: []\n" + PROMPT, "3:1", "unknown key 'chekcs'; did you mean 'checks'?"),
        ("icl_suite: 1\n" + PROMPT, "1:1", "'name' is missing"),
        (
            "icl_suite: 1\nname: Core\n" + PROMPT,
            "2:7",
            "name 'Core' is not usable: it may hold a-z",
        ),
        ("icl_suite: 1\nname: 5\n" + PROMPT, "2:7", 'name 5 is not text; put it in quotes: "5"'),
        ("icl_suite: 1\nname: true\n" + PROMPT, "2:7", 'put it in quotes: "true"'),
        (HEAD + "description: ''\n" + PROMPT, "3:14", "description is empty"),
        (HEAD + "version: 0\n" + PROMPT, "3:10", "version 0 must be at least 1"),
        (HEAD + "version: -1\n" + PROMPT, "3:10", "version -1 must be at least 1"),
        (HEAD + "version: 1.5\n" + PROMPT, "3:10", "version 1.5 is not a whole number"),
        (HEAD + "version: '2'\n" + PROMPT, "3:10", "version '2' is not a whole number"),
        (HEAD + "version: true\n" + PROMPT, "3:10", "version true is not a whole number"),
        (HEAD + "version:\n" + PROMPT, "3:9", "version has no value"),
        (HEAD + "measure: [r]\n" + PROMPT, "3:10", "measure (a list) is not a mapping"),
        (HEAD + "measure:\n" + PROMPT, "3:9", "measure has no value; it must be a mapping"),
        (HEAD + "checks: {a: 1}\n" + PROMPT, "3:9", "checks (a mapping) is not a list"),
        (HEAD + "defaults: 4\n" + PROMPT, "3:11", "defaults 4 is not a mapping"),
        # defaults
        (HEAD + "defaults: {perod: 5}\n" + PROMPT, "3:12", "no probe has the setting 'perod'; did"),
        (HEAD + "defaults: {period: 1}\n" + PROMPT, "3:20", "period 1 must be at least 3"),
        (HEAD + "defaults: {period: x}\n" + MEASURE + PROMPT, "3:20", "period 'x' is not a whole"),
        # measure
        (HEAD + "measure: {r: {}}\n" + PROMPT, "3:14", "'probe' is missing; valid names: ablation"),
        (HEAD + "measure: {r: }\n" + PROMPT, "3:13", "r has no value; it must be a mapping"),
        (HEAD + "measure: {r: induction}\n" + PROMPT, "3:14", "r 'induction' is not a mapping"),
        (HEAD + "measure: {r: {probe: 1}}\n" + PROMPT, "3:22", "probe 1 is not a name"),
        (
            HEAD + "measure: {r: {probe: inductoin}}\n" + PROMPT,
            "3:22",
            "unknown probe 'inductoin'; did you mean 'induction'?",
        ),
        (
            HEAD + "measure: {r: {prob: induction}}\n" + PROMPT,
            "3:14",
            "'probe' is missing",
        ),
        (
            HEAD + "measure: {r: {probe: induction, sequnces: 4}}\n" + PROMPT,
            "3:33",
            "unknown key 'sequnces'; did you mean 'sequences'?",
        ),
        (
            HEAD + "measure: {r: {probe: induction, sequences: '4'}}\n" + PROMPT,
            "3:44",
            "sequences '4' is not a whole number; leave out the quotes",
        ),
        (
            HEAD + "measure: {r: {probe: induction, sequences: 4.5}}\n" + PROMPT,
            "3:44",
            "sequences 4.5 is not a whole number",
        ),
        (
            HEAD + "measure: {r: {probe: induction, sequences: true}}\n" + PROMPT,
            "3:44",
            "sequences true is not a whole number",
        ),
        (
            HEAD + "measure: {r: {probe: induction, sequences: 0}}\n" + PROMPT,
            "3:44",
            "sequences 0 must be at least 1",
        ),
        (
            HEAD + "measure: {r: {probe: induction, threshold: 1}}\n" + PROMPT,
            "3:44",
            "threshold 1 must be less than 1",
        ),
        (
            HEAD + "measure: {r: {probe: induction, threshold: .inf}}\n" + PROMPT,
            "3:44",
            "threshold inf is not a finite number",
        ),
        (
            HEAD + "measure: {r: {probe: induction, control: yes}}\n" + PROMPT,
            "3:42",
            "control 'yes' is not true or false",
        ),
        (
            HEAD + "measure: {r: {probe: induction, bos: alway}}\n" + PROMPT,
            "3:38",
            "bos 'alway' is unknown; did you mean 'always'?",
        ),
        (
            HEAD + "measure: {r: {probe: induction, bos: true}}\n" + PROMPT,
            "3:38",
            "bos true is not 'auto' or 'always' or 'never'",
        ),
        (
            HEAD + "measure: {'a b': {probe: induction}}\n" + PROMPT,
            "3:11",
            "name 'a b' is not usable: it may hold letters, digits",
        ),
        (HEAD + "measure: {quiz/q: {probe: induction}}\n" + PROMPT, "3:11", "is not usable"),
        # heads
        (
            HEAD + "measure: {a: {probe: ablation}}\n" + PROMPT,
            "3:14",
            "give 'heads', 'mlps' or 'layers': what to switch off",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: 5}}\n" + PROMPT,
            "3:39",
            "heads 5 is not a mapping or a list",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: [[1, 2, 3]]}}\n" + PROMPT,
            "3:40",
            "entry 1 of heads needs at most 2 entries, not 3",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: [[1, x]]}}\n" + PROMPT,
            "3:44",
            "entry 2 of entry 1 of heads is 'x', not a whole number",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: {random: 2, top: 3}}}\n" + PROMPT,
            "3:39",
            "give 'where', 'top' or both, or 'random' alone",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: {from: a, whre: 3}}}\n" + PROMPT,
            "3:49",
            "unknown key 'whre'; did you mean 'where'?",
        ),
        (
            HEAD
            + "measure: {a: {probe: ablation, heads: {from: r, where: {inductoin: {above: 1}}}}, "
            + "r: {probe: induction}}\n"
            + PROMPT,
            "3:57",
            "unknown key 'inductoin'; did you mean 'induction'?",
        ),
        (
            HEAD
            + "measure: {a: {probe: ablation, heads: {from: rr, top: 1}}, r: {probe: induction}}\n"
            + PROMPT,
            "3:46",
            "no measurement 'rr' in this suite; did you mean 'r'?",
        ),
        (
            HEAD + "measure: {a: {probe: ablation, heads: {from: a, top: 1}}}\n" + PROMPT,
            "3:46",
            "heads come from an 'induction', 'sweep', 'function_vectors', 'logit_attribution' or "
            "'copying' measurement; 'a' is 'ablation'",
        ),
        (
            HEAD
            + "defaults: {heads: {from: q, top: 1}}\nmeasure: {a: {probe: ablation}}\n"
            + PROMPT,
            "3:26",
            "no measurement 'q' in this suite",
        ),
        # checks
        (HEAD + MEASURE + "checks: [5]\n", "4:10", "entry 1 of checks is 5, not a mapping"),
        (check("on: r, metric: induction_max"), "4:10", "no rule; give one of above, below"),
        (check("metric: induction_max, above: 1"), "4:10", "'on' is missing"),
        (check("on: r, above: 1"), "4:10", "'metric' is missing"),
        (check("on: r, metric: 3, above: 1"), "4:33", "metric 3 is not text"),
        (check("on: q, metric: m, above: 1"), "4:22", "no measurement 'q' in this suite"),
        (HEAD + CHECKS, "3:22", "no measurement 'r' in this suite; 'measure' is empty"),
        (
            check("on: r, metric: induction_mx, above: 1"),
            "4:33",
            "probe 'induction' has no metric 'induction_mx'; did you mean 'induction_max'?",
        ),
        (rule("above: high"), "4:55", "threshold 'high' is not a number; write e.g. above: 0.4"),
        (rule("above: '0.4'"), "4:55", "threshold '0.4' is not a number; leave out the quotes"),
        (rule("above: true"), "4:55", "threshold true is not a number"),
        (rule("above: yes"), "4:55", "threshold 'yes' is not a number"),
        (rule("above: 1_000"), "4:55", "threshold '1_000' is not a number"),
        (rule("above: "), "4:54", "above has no value; it must be a number; write e.g. above: 0.4"),
        (rule("above: .nan"), "4:55", "threshold nan is not a finite number"),
        (rule("above: 1e999"), "4:55", "1e999 is too large; at most 1e+100"),
        (rule("above: [1]"), "4:55", "threshold (a list) is not a number"),
        (rule("above: 1, at_most: 2"), "4:58", "'at_most' is a second rule beside 'above'"),
        (rule("abve: 1"), "4:48", "unknown key 'abve'; did you mean 'above'?"),
        (rule("between: 1"), "4:57", "between 1 is not a list"),
        (rule("between: [1]"), "4:57", "between needs at least 2 entries, not 1"),
        (rule("between: [1, 2, 3]"), "4:57", "between needs at most 2 entries, not 3"),
        (rule("between: [1, x]"), "4:61", "entry 2 of between is 'x', not a number"),
        (rule("between: [2, 1]"), "4:57", "between [2, 1]: the first must be the lower number"),
        (rule("between: [1, 1]"), "4:57", "the first must be the lower number"),
        (rule("equals: 1, tolerance: -1"), "4:70", "tolerance -1 must be at least 0"),
        (rule("equals: 1, tolerance: x"), "4:70", "tolerance 'x' is not a number"),
        (rule("above: 1, tolerance: 1"), "4:58", "'tolerance' goes with 'equals' only, not with"),
        (rule("above: 1, models: gpt2"), "4:66", "models 'gpt2' is not a list; write e.g. models:"),
        (rule("above: 1, models: []"), "4:66", "models needs at least 1 entry, not 0"),
        (rule("above: 1, models: [3]"), "4:67", "entry 1 of models is 3, not text"),
        (rule("above: 1, above: 2"), "4:58", "duplicate key 'above'; it was given on line 4:48"),
        (
            check("on: r, metric: induction_max, above: 1").replace("id: c", "id: 'a b'"),
            "4:15",
            "id 'a b' is not usable",
        ),
        (HEAD + MEASURE + CHECKS + PROMPT.replace("id: q", "id: c"), "5:13", "is taken by line 4"),
        # quiz: the model answers
        (HEAD + "quiz: [5]\n", "3:8", "entry 1 of quiz is 5, not a mapping"),
        (HEAD + "quiz: [{id: q}]\n", "3:8", "this item lacks its question: give prompt, choices"),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a, b], answer: a, on: r}]\n",
            "3:8",
            (
                "mixes two forms: give prompt, choices, answer (the model answers) or question, "
                "options, on, metric, supports, expected (a measurement answers)"
            ),
        ),
        (HEAD + "quiz: [{id: q, prompt: P, choices: [a, b]}]\n", "3:8", "'answer' is missing"),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a, b], answr: a}]\n",
            "3:44",
            "unknown key 'answr'; did you mean 'answer'?",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [' Ron', ' Potter'], answer: Potter}]\n",
            "3:65",
            "answer 'Potter' is not one of the choices; did you mean ' Potter'?",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a], answer: a}]\n",
            "3:36",
            "choices needs at least 2 entries, not 1",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a, 1], answer: a}]\n",
            "3:40",
            "entry 2 of choices is 1, not text; put it in quotes",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a, a], answer: a}]\n",
            "3:40",
            "choice 'a' is given twice",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: '', choices: [a, b], answer: a}]\n",
            "3:24",
            "prompt is empty",
        ),
        (
            HEAD + "quiz: [{id: q, prompt: P, choices: [a, b], answer: a, score: sum}]\n",
            "3:55",
            "unknown key 'score'",
        ),
        # quiz: a measurement answers
        (
            measured("options: {a: A}, supports: [{option: a, above: 0.5}], expected: a"),
            "5:65",
            "options needs at least 2 entries, not 1",
        ),
        (
            measured("options: {a: A, b: 2}, supports: [{option: a, above: 0.5}], expected: a"),
            "5:75",
            'b 2 is not text; put it in quotes: "2"',
        ),
        (
            measured("options: {a: A, b: B}, supports: [{option: c, above: 1}], expected: a"),
            "5:99",
            "option 'c' is not one of the options; valid names: a, b",
        ),
        (
            measured("options: {a: A, b: B}, supports: [{option: a, above: 1}], expected: c"),
            "5:124",
            "expected 'c' is not one of the options; valid names: a, b",
        ),
        (
            measured("options: {a: A, b: B}, supports: [{option: a, above: 1}], expected: b"),
            "5:124",
            "nothing in 'supports' can speak for the expected option 'b'",
        ),
        (
            measured("options: {a: A, b: B}, supports: [{option: a}], expected: a"),
            "5:90",
            "no rule; give one of above",
        ),
        (
            measured("options: {a: A, b: B}, supports: [{option: a, above: x}], expected: a"),
            "5:109",
            "threshold 'x' is not a number",
        ),
        (
            measured("options: {a: A, b: B}, supports: [a], expected: a"),
            "5:90",
            "entry 1 of supports is 'a', not a mapping",
        ),
        (
            measured("options: {a: A, b: B}, supports: [], expected: a"),
            "5:89",
            "supports needs at least 1 entry, not 0",
        ),
        (
            measured("options: {1: A, b: B}, supports: [{option: 1, above: 1}], expected: 1"),
            "5:124",
            'expected 1 is not text; put it in quotes: "1"',
        ),
        (
            measured(
                "options: {a: A, b: B}, supports: [{option: a, above: 0.5}], expected: a"
            ).replace("metric: induction_max", "metric: induction_mxx"),
            "5:41",
            "probe 'induction' has no metric 'induction_mxx'",
        ),
        (
            measured(
                "options: {a: A, b: B}, supports: [{option: a, above: 0.5}], expected: a"
            ).replace("metric: induction_max", "metric: induction_max, beside: [uniform_lvel]"),
            "5:65",
            "probe 'induction' has no metric 'uniform_lvel'; did you mean 'uniform_level'?",
        ),
        (
            measured(
                "options: {a: A, b: B}, supports: [{option: a, above: 0.5}], expected: a"
            ).replace("metric: induction_max", "metric: induction_max, beside: []"),
            "5:64",
            "beside needs at least 1 entry, not 0",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_column(
    tmp_path: Path, text: str, place: str, part: str
) -> None:
    found = problems(tmp_path, text)
    assert any(line.startswith(f"{place}: ") and part in line for line in found), found


def test_a_broken_prompt_item_does_not_make_its_measurement_unknown(tmp_path: Path) -> None:
    text = (
        f"{HEAD}quiz: [{{id: q, prompt: P, choices: [a, b], answer: c}}]\n"
        "checks: [{id: k, on: quiz/q, metric: accuracy, above: 0}]\n"
    )
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert "answer 'c' is not one of the choices" in found[0]


def test_a_measurement_with_a_mistake_is_still_known_to_checks(tmp_path: Path) -> None:
    text = (HEAD + MEASURE + CHECKS).replace("induction}", "induction, period: x}")
    assert len(problems(tmp_path, text)) == 1


def test_a_wrong_default_is_reported_once_however_many_measurements_use_it(tmp_path: Path) -> None:
    text = (
        f"{HEAD}defaults: {{period: 1}}\n"
        "measure: {r: {probe: induction}, s: {probe: induction}}\n"
        f"{CHECKS}"
    )
    assert problems(tmp_path, text) == ["3:20: period 1 must be at least 3"]


def test_all_problems_come_together_in_order_of_their_lines(tmp_path: Path) -> None:
    text = (
        "icl_suite: 1\nname: X\ndefaults: {perod: 5}\nmeasure:\n  r: {probe: induct}\n"
        "  a: {probe: ablation, heads: {from: zz, top: 0}}\n"
        "checks:\n  - {id: c, on: q, metric: m, above: x}\nquiz:\n  - {id: c, promt: P}\n"
    )
    found = problems(tmp_path, text)
    places = [tuple(map(int, line.split(":")[:2])) for line in found]
    assert places == sorted(places)
    assert [line for line, _ in places] == [2, 3, 5, 6, 6, 8, 8, 10, 10]


def test_of_very_many_problems_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    lines = "".join(f"key{i}: 1\n" for i in range(30))
    found = problems(tmp_path, HEAD + lines + PROMPT)
    assert len(found) == suite_problems.SHOWN + 1
    assert found[-1] == " and 10 more problems"


def test_the_path_is_relative_inside_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "icl_suite: 3\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SuiteError, match=r"^x\.yaml:1:12: "):
        load_suite(path)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(SuiteError) as caught:
        load_suite("../x.yaml")
    assert str(caught.value).startswith(f"{path}:1:12: ")


def test_no_message_speaks_pydantic(tmp_path: Path) -> None:
    text = (
        EXAMPLE.replace("0.4", "high")
        .replace("32", "'many'")
        .replace("mean", "7")
        .replace("99", "-1")
    )
    found = "\n".join(problems(tmp_path, text))
    for jargon in ("Input should", "type=", "pydantic", "http", "Value error", "function-after"):
        assert jargon not in found


@pytest.mark.parametrize(
    ("name", "part"),
    [("missing.yaml", "no such suite file"), (".", "a folder; a suite is one YAML file")],
)
def test_a_path_that_is_no_file_is_an_input_error(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        load_suite(tmp_path / name)


def test_a_path_that_no_file_system_takes_is_an_input_error() -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        load_suite("a\0b.yaml")


def test_randomly_damaged_suites_give_suite_errors_and_nothing_else(tmp_path: Path) -> None:
    source = random.Random(0)
    pieces = [*"{}[]:,-&*!|>'\"#%@`?\n\t \0\ud800é1.", "<<: ", "*a", "&a ", "true", "- ", "~"]
    for _ in range(150):
        text = EXAMPLE
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(text))
            text = text[:at] + source.choice(pieces) + text[at + source.randint(0, 3) :]
        path = write(tmp_path, text.encode("utf-8", "surrogatepass"))
        try:
            load_suite(path)
        except SuiteError as error:
            assert str(error).startswith(str(path))
