"""A threshold that no data could pass is a mistake in the suite, told where it stands."""

from __future__ import annotations

import pytest

from icl_bench.errors import SuiteError
from icl_bench.suite import load_suite
from icl_bench.suite.reach import region_of
from icl_bench.suite.specs import Support

HEAD = """\
icl_suite: 1
name: x
measure:
  few: {probe: induction, sequences: 8}
  plain: {probe: induction}
  looked: {probe: induction, until: decided, max_sequences: 256}
  one: {probe: induction, sequences: 1}
  losses: {probe: losses, sequences: 8}
  off: {probe: ablation, heads: [[0, 0]], null_draws: 19, sequences: 8}
  bare: {probe: ablation, heads: [[0, 0]], null_sets: 0}
  brief: {probe: losses, varied: false}
  text: {probe: fuzzy}
  tasks: {probe: fewshot, tasks: [antonym, comparative]}
  asked: {probe: choice, items: [ITEM, ITEM, ITEM, ITEM]}
""".replace("ITEM", "{prompt: p, choices: [' a', ' b'], answer: ' a'}")


def load(folder, line):
    path = folder / "x.yaml"
    path.write_text(HEAD + line + "\n")
    return load_suite(path)


def check(text):
    return f"checks: [{{id: c, {text}}}]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "on: plain, metric: previous_token_max, above: 0.9",
            "previous_token_max can never pass above: 0.9: with sequences: 32 its 95% interval "
            "reaches down to 0.891 even where every value is 1; give sequences: 36 or more, or a "
            "threshold below 0.891",
        ),
        (
            "on: plain, metric: induction_control, at_most: 0.05",
            "induction_control can never pass at_most: 0.05: with sequences: 32 its 95% interval "
            "reaches up to 0.109 even where every value is 0; give sequences: 72 or more, or a "
            "threshold above 0.109",
        ),
        (
            "on: looked, metric: previous_token_max, above: 0.99",
            "previous_token_max can never pass above: 0.99: with max_sequences: 256 its 98.75% "
            "interval reaches down to 0.98 even where every value is 1; give max_sequences: 505 "
            "or more, or a threshold below 0.98",
        ),
        (
            "on: bare, metric: null_p_value, at_most: 0.05",
            "null_p_value is not measured without null_draws: give null_draws: 19",
        ),
        (
            "on: bare, metric: null_margin, above: 0",
            "null_margin is not measured without null_sets: give null_sets: 19",
        ),
        (
            "on: brief, metric: order_share, above: 0.5",
            "order_share is not measured without varied: give varied: true",
        ),
        (
            "on: losses, metric: copy_accuracy, at_least: 1",
            "copy_accuracy can never pass at_least: 1: with sequences: 8 its 95% interval reaches "
            "down to 0.63 even where every value is 1; give a threshold below 0.63",
        ),
        (
            "on: losses, metric: copy_accuracy, between: [0.4, 0.6]",
            "copy_accuracy can never pass between: [0.4, 0.6]: with sequences: 8 its 95% interval "
            "is 0.369 wide or wider, too wide to lie within; give sequences: 17 or more, or a "
            "wider range",
        ),
        (
            "on: few, metric: induction_excess_max, above: 0.3",
            "induction_excess_max can never pass above: 0.3: with sequences: 8 its 95% interval "
            "reaches down to 0.261 even where every value is 1; give sequences: 9 or more, or a "
            "threshold below 0.261",
        ),
        (
            "on: asked, metric: accuracy, above: 0.4",
            "accuracy can never pass above: 0.4: with items: 4 its 95% interval reaches down to "
            "0.397 even where every value is 1; give items: 5 or more, or a threshold below 0.397",
        ),
        (
            "on: tasks, metric: fewshot_gain, above: 0",
            "fewshot_gain can never pass above: 0: with tasks: 2 its 95% interval reaches down to "
            "-0.684 even where every value is 1; give tasks: 6 or more, or a threshold below "
            "-0.684",
        ),
    ],
)
def test_it_is_refused_with_its_place_and_what_would_be_right(tmp_path, text, said):
    line = check(text)
    with pytest.raises(SuiteError) as error:
        load(tmp_path, line)
    place = f"{tmp_path}/x.yaml:15:{line.rindex(':') + 3}"
    assert str(error.value) == f"{place}: {said}"


@pytest.mark.parametrize(("sequences", "good"), [(35, False), (36, True)])
def test_what_a_message_asks_for_is_enough_and_one_fewer_is_not(tmp_path, sequences, good):
    path = tmp_path / "x.yaml"
    line = check("on: few, metric: previous_token_max, above: 0.9")
    path.write_text(HEAD.replace("sequences: 8", f"sequences: {sequences}") + line)
    if good:
        assert load_suite(path).checks
    else:
        with pytest.raises(SuiteError, match="give sequences: 36 or more"):
            load_suite(path)


@pytest.mark.parametrize(
    "text",
    [
        "on: plain, metric: previous_token_max, above: 0.89",
        "on: looked, metric: previous_token_max, above: 0.9",
        "on: plain, metric: induction_max, below: 0.2",
        "on: plain, metric: induction_max, between: [0, 1]",
        "on: plain, metric: uniform_level, above: 2",  # exact
        "on: off, metric: null_p_value, at_most: 0.05",  # exact
        "on: losses, metric: gain, above: 20",  # nats
        "on: off, metric: loss_ratio, above: 100",
        "on: few, metric: induction_heads, above: 3",  # a count
        "on: one, metric: induction_max, above: 0.9",  # one sequence has no interval at all
        "on: text, metric: fuzzy_attention, above: 0.999",  # all items that fit
        "on: tasks, metric: fewshot_gain_these_tasks, above: 0",  # by queries
    ],
)
def test_what_can_pass_or_is_not_known_is_taken(tmp_path, text):
    assert load(tmp_path, check(text)).checks


QUIZ = (
    "quiz: [{{id: q, question: Q, options: {{a: A, b: B}}, on: plain, metric: induction_median, "
    "supports: [{{option: a, above: 0.4}}, {{option: b, below: {below}}}], expected: {expected}}}]"
)


def test_the_expected_option_of_a_quiz_item_has_to_be_in_reach(tmp_path):
    line = QUIZ.format(below=0.1, expected="b")
    with pytest.raises(SuiteError) as error:
        load(tmp_path, line)
    assert f"x.yaml:15:{line.index('0.1') + 1}: induction_median can never pass below: 0.1" in str(
        error.value
    )
    assert load(tmp_path, QUIZ.format(below=0.1, expected="a")).quiz
    assert load(tmp_path, QUIZ.format(below=0.15, expected="b")).quiz


def test_bounds_are_those_of_what_probes_report():
    """Every metric of a probe that is a score, a probability or a share of hits has them."""
    from icl_bench.probes import PROBES, get_probe

    free = {"uniform_level"}
    for probe in (get_probe(name) for name in PROBES if name != "phase_change"):
        for name, info in probe.metrics.items():
            if info.exact or "these_tasks" in name or name in free:
                assert info.bounds is None, name
            elif info.unit == "probability" or ("accuracy" in name and name != "excess_accuracy"):
                assert info.bounds is not None, name
            elif info.unit in ("nats", "logits", "heads", "tokens"):
                assert info.bounds is None, name


@pytest.mark.parametrize("tolerance, bounds", [(None, (3, 3)), (0.0, (3, 3)), (0.5, (2.5, 3.5))])
def test_equals_reaches_as_far_as_its_tolerance(tolerance, bounds):
    assert region_of(Support("a", "equals", 3, tolerance)) == bounds
