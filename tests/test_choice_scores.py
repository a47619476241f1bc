"""Scores of choices, against lm-evaluation-harness's own code on the same items."""

from __future__ import annotations

from typing import Any

import pytest

import icl_bench
from icl_bench.errors import MeasurementError
from icl_bench.probes.design.context import Context
from icl_bench.probes.texts import choice

ITEMS = [
    ("The capital of France is", [" Paris", " the city of Lyon", " London", " Ouagadougou"], 0),
    ("Two plus two makes", [" five", " four", " twenty-two", " a crowd"], 1),
    ("Q: What do bees make?\nA:", [" honey", " a lot of noise", " milk", " Paris"], 0),
    ("The opposite of hot is", [" warm", " boiling", " cold", " antidisestablishment"], 2),
]
SMALL = [
    ("The dog saw Mary . The dog saw", [" Mary", " John", " John Smith ."], 0),
    ("Harry Potter . Harry", [" Granger and Ron", " Potter"], 1),
]
SPECS = {"real": ITEMS, "builtin:induction-2l": SMALL}


@pytest.fixture(scope="module", params=SPECS)
def case(request):
    if request.param == "real":
        return request.getfixturevalue("smollm2"), ITEMS
    return icl_bench.load_model(request.param), SPECS[request.param]


def run(case, score):
    model, items = case
    settings = choice.Settings(
        items=[
            choice.Item(prompt=prompt, choices=choices, answer=choices[right])
            for prompt, choices, right in items
        ],
        score=score,
    )
    return choice.measure(model, settings, Context())


def ask_harness(case, empty: bool = False) -> list[list[float]]:
    """The harness's log-likelihoods: of each choice after its prompt, or after nothing."""
    huggingface: Any = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    model, items = case
    harness = huggingface.HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1)
    asked = [
        Instance("loglikelihood", {}, ("" if empty else prompt, text), index)
        for index, (prompt, choices, _) in enumerate(items)
        for text in choices
    ]
    flat = [one[0] for one in harness.loglikelihood(asked, disable_tqdm=True)]
    return [[flat.pop(0) for _ in choices] for _, choices, _ in items]


def accuracy(items, scores) -> float:
    hits = [row.index(max(row)) == right for (_, _, right), row in zip(items, scores)]
    return sum(hits) / len(hits)


def test_sums_and_accuracy_are_the_harness_s(case):
    found, expected = run(case, "sum"), ask_harness(case)
    for row, scores in zip(found.tables["answers"], expected):
        assert list(row["log_likelihoods"].values()) == pytest.approx(scores, abs=1e-3)
    assert found.metrics["accuracy"].value == accuracy(case[1], expected)


def test_likelihoods_less_unconditional_ones_are_its_mutual_information(case):
    found = run(case, "unconditional")
    after, alone = ask_harness(case), ask_harness(case, empty=True)
    expected = [[a - b for a, b in zip(*rows)] for rows in zip(after, alone)]
    for row, scores in zip(found.tables["answers"], expected):
        assert list(row["log_likelihoods"].values()) == pytest.approx(scores, abs=2e-3)
    assert found.metrics["accuracy"].value == accuracy(case[1], expected)


def test_the_mean_divides_by_tokens_where_the_harness_divides_by_characters(case):
    model, items = case
    sums, means = run(case, "sum"), run(case, "mean")
    for (prompt, choices, _), a, b in zip(items, sums.tables["answers"], means.tables["answers"]):
        before = len(model.tokenizer(prompt)["input_ids"])
        for text in choices:
            count = len(model.tokenizer(prompt + text)["input_ids"]) - before
            total = a["log_likelihoods"][text]
            assert b["log_likelihoods"][text] == pytest.approx(total / count, abs=1e-5)


def test_without_a_token_to_start_from_there_is_no_unconditional_likelihood():
    model = icl_bench.load_model("builtin:induction-2l")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    with pytest.raises(MeasurementError, match="needs a BOS or an EOS"):
        run((model, SMALL), "unconditional")
