"""The shipped suites pass on models that have the circuit and fail on those that lack it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import icl_bench
from icl_bench.records.record import RunRecord
from icl_bench.render.html import circuit

WITH = ("builtin:handwired", "builtin:induction-2l")
WITHOUT = "builtin:control-1l"
# What the one-layer twin may pass: unharmed first copies, numbers that are shown and not judged,
# and its own way of using earlier text (it raises every word seen before).
HARMLESS = {
    "copying-by-weights",
    "first-copy-unharmed",
    "copying-above-chance",
    "copies-at-any-distance",
    "later-tokens-are-easier",
}


@cache
def run(suite: str, spec: str) -> RunRecord:
    return icl_bench.run([suite], spec, cache=False)


def verdicts(suite: str, spec: str) -> dict[str, str]:
    return {check.id: check.verdict for check in run(suite, spec).checks}


@pytest.mark.parametrize("spec", WITH)
@pytest.mark.parametrize("suite", ["gate", "circuit", "olsson"])
def test_models_with_the_circuit_fail_no_check_on_random_tokens(suite, spec):
    found = verdicts(suite, spec)
    texts = {check.id for check in run(suite, spec).checks if check.measurement == "text"}
    wrong = {name: verdict for name, verdict in found.items() if verdict not in ("pass", "skipped")}
    assert not wrong.keys() - texts
    assert sum(verdict == "pass" for verdict in found.values()) >= 6


@pytest.mark.parametrize("suite", ["gate", "circuit", "olsson"])
def test_the_one_layer_twin_passes_nothing_that_asks_for_the_circuit(suite):
    found = verdicts(suite, WITHOUT)
    assert {name for name, verdict in found.items() if verdict == "pass"} <= HARMLESS
    assert "fail" in found.values()


def test_tasks_of_unknown_words_are_skipped_with_the_reason():
    checks = run("fewshot", WITH[1]).checks
    told = {check.reason for check in checks if check.verdict == "skipped"}
    assert told and all("tokenizer does not know" in str(reason) for reason in told)


def test_a_model_that_matches_by_identity_passes_for_the_word_and_fails_for_its_synonym():
    found = verdicts("fuzzy", WITH[1])
    assert found["the-word-itself-finds-it"] == found["the-heads-carry-the-copy"] == "pass"
    assert found["a-near-synonym-finds-it"] != "pass"
    assert found["by-a-tenth-of-the-way"] == "fail"
    # Of 12 items that fit its tokenizer, a share of a quarter may have gone unseen.
    assert found["the-heads-attend-to-it"] != "pass"


def test_the_demo_passes_every_check_and_draws_the_circuit_with_its_edges():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    command = makefile.partition("\ndemo: ")[2].partition("\n\n")[0]
    record = icl_bench.run(re.findall(r"--icl-suite=(\S+)", command) or ["core"], WITH[1])
    assert {check.verdict for check in record.checks} == {"pass"}
    drawn = circuit.section(record)
    assert drawn is not None and 'class="edge key"' in drawn["drawing"]
