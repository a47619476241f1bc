"""Which items of the shipped suites pass on which built-in model is itself known."""

from __future__ import annotations

import functools

import pytest

import icl_bench

NEEDS_THE_CIRCUIT = {
    "any-repeated-sequence",
    "harry-potter",
    "cat-on-the-mat",
    "names-nobody-knows",
    "how-many-heads",
    "ablation-raises-the-loss",
    "are-there-layers-enough",
}
EVERY = NEEDS_THE_CIRCUIT | {
    "what-a-low-score-means",
    "random-heads-do-less",
    "five-heads-in-gpt2",
}


@functools.cache
def verdicts(suite, model):
    record = icl_bench.run([suite], model)
    return {check.id: check.verdict for check in record.checks}


def having(verdict, found):
    return {name for name, value in found.items() if value == verdict}


@pytest.mark.parametrize("model", ["builtin:handwired", "builtin:induction-2l"])
def test_models_with_the_circuit_pass_the_whole_quiz(model):
    found = verdicts("quiz", model)
    assert having("skipped", found) == {"five-heads-in-gpt2"}
    assert having("pass", found) == EVERY - {"five-heads-in-gpt2"}


def test_the_one_layer_twin_fails_exactly_what_needs_the_circuit():
    found = verdicts("quiz", "builtin:control-1l")
    assert having("fail", found) == NEEDS_THE_CIRCUIT
    assert having("pass", found) == {"what-a-low-score-means"}
    assert having("skipped", found) == {"random-heads-do-less", "five-heads-in-gpt2"}


@pytest.mark.parametrize("model", ["builtin:handwired", "builtin:induction-2l"])
def test_models_with_the_circuit_pass_core(model):
    assert set(verdicts("core", model).values()) == {"pass"}


def test_the_one_layer_twin_fails_core():
    found = verdicts("core", "builtin:control-1l")
    assert having("pass", found) <= {"first-copy-unharmed"}
    assert having("fail", found) >= {
        "has-induction-heads",
        "at-any-distance",
        "copies-from-context",
        "ablation-collapses-copying",
    }
