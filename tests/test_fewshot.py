"""Few-shot accuracy, its gain and what ablation takes of it, against slow and plain references."""

from __future__ import annotations

import statistics

import pytest
import torch
from pydantic import ValidationError

import icl_bench
from icl_bench import tasks
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.prompts import examples, scoring
from icl_bench.probes.prompts.encoding import encode_choices
from icl_bench.probes.texts import fewshot, fewshot_runs
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer

NOUNS = {"dog": "Blorvek", "cat": "Quimzat", "cow": "Trevask", "fox": "Woombly"}
OWN = ["The", "A", "big", "old", "small"]
RULE = tasks.Task(
    "rule",
    "a name that a noun has here and nowhere else",
    tuple((f"{word} {noun}", name) for noun, name in NOUNS.items() for word in OWN),
)
"""What follows a noun cannot be known without examples, and is copied from them by induction."""
SMALL = {
    "tasks": ["rule"],
    "shots": [0, 10],
    "queries": 12,
    "template": "{input} {output}",
    "separator": " . ",
}


@pytest.fixture(autouse=True)
def rule(monkeypatch):
    def load(name):
        return RULE if name == "rule" else tasks.load_task(name)

    monkeypatch.setattr(fewshot_runs, "load_task", load)
    monkeypatch.setattr(examples, "task_names", lambda: [*tasks.task_names(), "rule"])


def make(**options):
    model = handwired(**options)
    return icl_bench.wrap(model, build_tokenizer(model.config.max_position_embeddings))


def run(model, **settings):
    return fewshot.measure(model, fewshot.Settings(**SMALL | settings), Context())


def value(found, name):
    return found.metrics[name].value


def slow_scores(model, prompt, choices):
    """Log-likelihood of each choice, every choice its own whole pass of the bare module."""
    before = model.tokenizer(prompt)["input_ids"]
    scores = []
    for choice in choices:
        ids = model.tokenizer(prompt + choice)["input_ids"]
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0].double()
        table = logits.log_softmax(-1)
        scores.append(sum(float(table[i - 1, ids[i]]) for i in range(len(before), len(ids))))
    return scores


@pytest.fixture(scope="module")
def model():
    return make()


def test_induction_alone_answers_a_rule_that_the_examples_show(model):
    found = run(model)
    assert value(found, "accuracy_0") < 0.5
    assert value(found, "accuracy_10") > 0.8
    assert value(found, "fewshot_gain") == value(found, "accuracy_10") - value(found, "accuracy_0")
    assert value(found, "chance") == 0.25
    assert value(found, "first_token_gain") > 0.8
    assert [row["shots"] for row in found.tables["curve"]] == [0, 10]
    assert found.unmeasured["accuracy_5"] == "not among the suite's shots"
    assert found.unmeasured["gain_lost"] == "no heads in the suite"


@pytest.mark.parametrize("missing", ["induction", "previous_token"])
def test_without_the_circuit_examples_gain_nothing(missing):
    found = run(make(**{missing: False}))
    assert value(found, "fewshot_gain") == 0
    # One of twelve is met by chance: even attention copies the examples' commonest name.
    assert value(found, "first_token_gain") < 0.1


def test_switching_the_induction_head_off_loses_the_whole_gain(model):
    found = run(model, heads=[[1, 0]], method="zero", uniform_draws=3, null_queries=12)
    assert value(found, "heads") == 1
    assert value(found, "gain_ablated") == 0
    assert value(found, "gain_lost") == value(found, "fewshot_gain")
    assert value(found, "null_max_lost") == 0
    assert value(found, "null_observed_lost") == value(found, "gain_lost")
    assert value(found, "null_p_value") == pytest.approx(1 / 21)
    assert value(found, "null_first_token_p_value") == pytest.approx(1 / 21)
    assert len(found.tables["null"]) == 20 and len(found.tables["uniform_null"]) == 3


def test_random_sets_of_other_layers_have_means_too(model):
    found = run(model, heads=[[1, 0]], method="mean", null_draws=2, uniform_draws=8)
    layers = {heads["heads"].split(".")[0] for heads in found.tables["uniform_null"]}
    assert layers == {"0", "1"}
    assert value(found, "gain_lost") > 0.5


def test_switching_an_idle_head_off_loses_nothing(model):
    found = run(model, heads=[[1, 5]], method="zero", null_draws=4)
    assert value(found, "gain_lost") == 0
    assert "null_p_value" not in found.metrics and "1/" not in found.unmeasured["null_p_value"]
    assert "only 4 sets" in found.unmeasured["null_p_value"]
    mean = run(model, heads=[[1, 0]], null_draws=0)
    assert value(mean, "gain_lost") > 0.5
    assert mean.unmeasured["null_p_value"] == "null_draws: 0 in the suite"


def test_the_sheet_gives_the_scores_of_whole_passes():
    """Rows that many choices share, padding and several answers a position change nothing."""
    model = icl_bench.load_model("builtin:induction-2l")
    questions = [
        ("The dog saw Mary . The dog saw", [" Mary", " John", " John Smith", " Mary Brown ."]),
        ("Harry", [" Potter", " Granger and Ron"]),
    ]
    sheet = scoring.lay_out([encode_choices(model, *one) for one in questions], 7)
    # The first two choices need the prompt alone, which every row holds.
    assert sheet.rows == [2, 3]
    from icl_bench.models.clean_run import run_base

    losses = run_base(model, sheet.input_ids, sheet.targets, answers=sheet.answers).losses
    for (prompt, choices), parts in zip(questions, sheet.log_likelihoods(losses.nll)):
        found = [scoring.score_choice(part, "sum") for part in parts]
        assert found == pytest.approx(slow_scores(model, prompt, choices), abs=1e-4)
        means = [scoring.score_choice(part, "mean") for part in parts]
        assert means == pytest.approx([s / len(p) for s, p in zip(found, parts)])


def test_accuracy_is_that_of_the_prompts_written_out(model):
    found = run(model)
    queries = examples.draw_queries(RULE, 12, 4, 0, "fewshot")
    for shots in (0, 10):
        hits = []
        for query in queries:
            shown = query.examples[len(query.examples) - shots :]
            before = " . ".join(f"{given} {output}" for given, output in shown)
            prompt = f"{before} . {query.given}" if shots else query.given
            scores = slow_scores(model, prompt, [f" {choice}" for choice in query.choices])
            # Equal likelihoods are told apart by rounding only.
            hits.append(scores[0] > max(scores[1:]) + 1e-6)
        assert value(found, f"accuracy_{shots}") == statistics.mean(hits)


def test_several_tasks_are_the_samples_of_the_interval():
    from icl_bench.probes.texts.fewshot_effects import over_tasks

    samples = [torch.tensor(rows).double().numpy() for rows in ([1, 1, 0, 0], [1, 1], [0, 0, 0])]
    metric = over_tasks(samples, (0.0, 1.0))
    assert metric.value == pytest.approx(0.5) and metric.n == 3
    assert metric.stderr == pytest.approx(statistics.stdev([0.5, 1, 0]) / 3**0.5)
    assert over_tasks(samples[:1], (0.0, 1.0)).n == 4


def test_the_interval_within_tasks_is_made_of_each_tasks_own_queries(monkeypatch, model):
    """Each task is measured alone; what its queries give is put together by hand."""
    other = tasks.Task("other", "the same names, drawn anew", RULE.items[::-1])
    monkeypatch.setattr(fewshot_runs, "load_task", {"rule": RULE, "other": other}.__getitem__)
    monkeypatch.setattr(examples, "task_names", lambda: ["rule", "other"])
    more = {"heads": [[1, 0]], "method": "zero", "null_draws": 0, "shots": [0, 2], "queries": 9}
    both = run(model, **more, tasks=["rule", "other"])
    alone = [run(model, **more, tasks=[name]) for name in ("rule", "other")]
    for name in ("fewshot_gain", "first_token_gain", "gain_lost", "first_token_gain_lost"):
        samples = [one.metrics[name].samples for one in alone]
        assert [len(values) for values in samples] == [9, 9]
        found = both.metrics[f"{name}_these_tasks"]
        assert found.value == pytest.approx(value(both, name))
        variances = [statistics.variance(values) / 9 for values in samples]
        assert found.stderr == pytest.approx(sum(variances) ** 0.5 / 2)
        assert (both.metrics[name].n, found.n) == (2, 18)
        for one in alone:
            same = one.metrics[f"{name}_these_tasks"]
            assert (same.ci_low, same.ci_high) == pytest.approx(
                (one.metrics[name].ci_low, one.metrics[name].ci_high)
            )


def test_without_the_circuit_there_is_no_interval_to_pass_by():
    """All queries of a task come out alike: no gain, and no interval that clears anything."""
    found = run(make(induction=False), tasks=["rule"])
    assert value(found, "fewshot_gain") == 0
    assert "all come out alike" in found.unmeasured["fewshot_gain_these_tasks"]


def test_queries_are_nested_and_never_among_their_examples():
    task = tasks.load_task("antonym")
    few = examples.draw_queries(task, 5, 4, 1, "fewshot")
    many = examples.draw_queries(task, 30, 4, 1, "fewshot")
    assert many[:5] == few
    assert len({query.given for query in many}) == 30
    for query in many:
        assert query.given not in [given for given, _ in query.examples]
        assert query.wanted not in query.distractors and len(set(query.choices)) == 4
        text, choices = examples.write_prompt(query, 2, "Q: {input}\nA: {output}", "\n\n")
        assert text.count("Q: ") == 3 and text.endswith(f"Q: {query.given}\nA:")
        assert choices[0] == f" {query.wanted}"


@pytest.mark.parametrize("shots", range(2, 11))
def test_the_outputs_of_the_shots_shown_are_shuffled_and_no_others(shots):
    for index, query in enumerate(
        examples.draw_queries(tasks.load_task("antonym"), 20, 2, 1, "fewshot")
    ):
        shuffled = examples.shuffle_outputs(query, shots, 1, "vectors_shuffled", index)
        right, wrong = (
            examples.write_prompt(one, shots, "{input} = {output}", "\n")[0].split("\n")
            for one in (query, shuffled)
        )
        assert right[-1] == wrong[-1] == f"{query.given} ="
        before, now = ([line.split(" = ") for line in one[:-1]] for one in (right, wrong))
        assert len(before) == shots
        assert all(a[0] == b[0] and a[1] != b[1] for a, b in zip(before, now))
        assert sorted(b for _, b in before) == sorted(b for _, b in now)


def test_ten_shots_are_shuffled_as_ever():
    query = examples.Query("task", "x", "y", tuple((f"in{i}", str(i)) for i in range(10)), ())
    orders = [
        "".join(
            output
            for _, output in examples.shuffle_outputs(query, 10, 3, "vectors_shuffled", i).examples
        )
        for i in range(3)
    ]
    assert orders == ["8532769401", "6571038294", "8371049526"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": [1, 2]}, "0 is not among"),
        ({"shots": [0, 11]}, "less than or equal to 10"),
        ({"shots": [0, 0]}, "named twice"),
        ({"tasks": ["antonyms"]}, "did you mean 'antonym'"),
        ({"tasks": ["antonym", "antonym"]}, "named twice"),
        ({"template": "{input}{output}"}, "then something"),
        ({"template": "{output} {input}"}, "ends with"),
        ({"template": "{input}: {output}."}, "ends with"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        fewshot.Settings(**settings)


def test_unknown_words_and_missing_tokenizers_are_reasons(model):
    with pytest.raises(NotMeasurable, match="does not know every word"):
        fewshot.measure(model, fewshot.Settings(tasks=["antonym"]), Context())
    with pytest.raises(NotMeasurable, match="no tokenizer"):
        run(icl_bench.wrap(model.model))


def test_prompts_longer_than_the_context_are_an_error(monkeypatch, model):
    monkeypatch.setattr(model, "context", 20)
    with pytest.raises(MeasurementError, match="lower the shots"):
        run(model)
