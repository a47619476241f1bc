"""Which items of the shipped quiz pass on which model is itself known."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest

import icl_bench
from icl_bench.suite import load_suite, shipped_suites
from icl_bench.suite.document import decode, parse

HANDWIRED, TRAINED, CONTROL = "builtin:handwired", "builtin:induction-2l", "builtin:control-1l"
SHIFTED = "builtin:handwired-shift-2"

P, F, U, S = "pass", "fail", "inconclusive", "skipped"
VERDICTS = {
    # id: (handwired, induction-2l, control-1l, handwired-shift-2)
    "two-heads-in-two-layers": (P, P, F, F),
    "any-repeated-sequence": (P, P, F, F),
    # The shifted circuit copies one token too late, which is now and then right by chance.
    "harry-potter": (P, P, F, P),
    "cat-on-the-mat": (P, P, F, F),
    "names-nobody-knows": (P, P, F, F),
    "without-the-previous-token-head": (P, P, S, S),
    "what-it-does-not-write": (P, P, S, S),
    # No head of the twin looks back: one place is hardly above the others.
    "where-the-head-looks": (P, P, U, U),
    "a-shift-by-two": (S, S, S, P),
    "who-wrote-the-keys": (P, P, S, S),
    "who-wrote-the-queries": (P, P, S, S),
    "the-query-is-the-token": (P, P, S, S),
    "the-heads-write-the-token": (P, P, F, F),
    "nobody-else-writes-it": (P, P, S, S),
    "attending-is-not-copying": (S, S, S, S),
    "through-the-residual-stream": (P, P, S, S),
    "what-a-low-score-means": (P, P, P, P),
    "how-many-heads": (P, P, F, F),
    "five-heads-in-gpt2": (S, S, S, S),
    "ablation-raises-the-loss": (P, P, F, F),
    "random-heads-do-less": (P, P, S, S),
    "the-rest-is-the-mlps": (S, S, S, S),
    "not-all-of-language": (S, S, S, S),
    # What the twin gains from knowing the words is the work of few heads too, of low scores.
    "which-heads-to-keep": (P, P, P, S),
    "the-same-heads-elsewhere": (P, P, P, S),
    "are-there-layers-enough": (P, P, F, F),
    "the-second-layer-writes": (P, P, S, S),
    "the-first-layer-prepares": (P, P, S, S),
    "do-they-emerge": (S, S, S, S),
    "sudden-or-gradual": (S, S, S, S),
    "why-not-one-first": (S, S, S, S),
    "without-looking-at-attention": (S, S, S, S),
    "half-of-copying": (P, P, F, F),
    "half-of-icl-on-text": (S, S, S, S),
    "by-meaning": (S, S, S, S),
    # Where the word itself finds nothing there is no way to go a part of.
    "by-identity": (P, P, U, S),
    "examples-help": (S, S, S, S),
    "examples-need-the-heads": (S, S, S, S),
    "found-by-score": (P, P, F, F),
    "first-hop": (P, P, F, F),
    "second-hop": (P, P, S, S),
    "break-it": (P, P, F, F),
}
MODELS = (HANDWIRED, TRAINED, CONTROL, SHIFTED)


REASONS = (
    "applies only to",
    "does not apply to",
    "it has no MLP",
    "tokenizer does not know",
    "does not fit into the model's context",
    "needs a series of checkpoints",
    "no head has induction above",
    "no head qualifies",
    "gains nothing from repetition",
    "exact repeats do no better than unrelated words",
)
"""What a skipped item says: the kind of model it needs."""


@functools.cache
def run(suite: str, model: str) -> icl_bench.RunRecord:
    return icl_bench.run([suite], model)


def verdicts(suite: str, model: str) -> dict[str, str]:
    return {check.id: check.verdict for check in run(suite, model).checks}


def having(verdict: str, found: dict[str, str]) -> set[str]:
    return {name for name, value in found.items() if value == verdict}


@pytest.mark.parametrize("model", MODELS)
def test_every_item_of_the_quiz_has_its_known_verdict(model: str) -> None:
    place = MODELS.index(model)
    assert verdicts("quiz", model) == {name: row[place] for name, row in VERDICTS.items()}


@pytest.mark.parametrize("model", [HANDWIRED, TRAINED])
def test_no_item_fails_where_the_circuit_is(model: str) -> None:
    assert set(verdicts("quiz", model).values()) == {"pass", "skipped"}


@pytest.mark.parametrize("model", MODELS)
def test_what_is_skipped_says_why(model: str) -> None:
    checks = run("quiz", model).checks
    told = {check.id: str(check.reason) for check in checks if check.verdict == "skipped"}
    assert told
    assert not {name: why for name, why in told.items() if not any(part in why for part in REASONS)}


def test_every_claim_has_its_items() -> None:
    text = shipped_suites()["quiz"].read_text().split("\nquiz:\n")[1]
    parts = re.split(r"^  # claim (\d+)$", text, flags=re.MULTILINE)
    claims = [int(number) for number in parts[1::2]]
    assert claims == sorted(claims) and set(claims) == set(range(1, 26))
    assert all("  - id: " in items for items in parts[2::2])


SERIES = {
    # id: (induction-2l@*, control-1l@*); where nothing changes there is no when and how.
    "do-they-emerge": (P, F),
    "sudden-or-gradual": (P, S),
    "why-not-one-first": (P, S),
    "without-looking-at-attention": (P, S),
}


FORMED = ("induction-forms", "not-by-position", "before-the-cool-down", "the-loss-falls")
"""Checks of the suite `phase-change` that do not ask when or how, so that no change fails them."""


@pytest.mark.parametrize("model", [TRAINED, CONTROL])
def test_training_has_its_known_verdicts_on_a_series(tmp_path, model: str) -> None:
    """Both suites that ask about training, on one run over the shipped checkpoints."""
    quiz = parse(decode(shipped_suites()["quiz"].read_bytes())).data
    quiz["quiz"] = [item for item in quiz["quiz"] if item["id"] in SERIES]
    quiz["measure"] = {name: quiz["measure"][name] for name in ("repeats", "losses", "training")}
    suite = tmp_path / "training.yaml"
    suite.write_text(json.dumps(quiz))
    record = icl_bench.run([suite, "phase-change"], f"{model}@*")
    place = (TRAINED, CONTROL).index(model)
    found = {one.id: one.verdict for one in record.checks if one.suite == "quiz"}
    assert found == {name: row[place] for name, row in SERIES.items()}
    for one in record.checks:
        if one.suite == "phase-change":
            assert one.verdict == (P if model == TRAINED else F if one.id in FORMED else S), one
            if one.verdict != P:
                assert (
                    one.id in FORMED or "no phase change" in one.reason or "no bump" in one.reason
                )
    if model == TRAINED:
        metrics = record.measurements["phase-change/change"].metrics
        assert 700 < metrics["midpoint_step"].value < 750


SHIFTS = """\
icl_suite: 1
name: shift
measure:
  head: {probe: offset_profile, offsets: [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], sequences: 32}
quiz:
  - id: shift
    question: The first head looks SHIFT tokens back. Where does the second one attend?
    options: {one: "k = 1", shift: "k = SHIFT", before: "before the first occurrence, or at it"}
    on: head
    metric: offset_peak
    supports:
      - {option: shift, equals: SHIFT, tolerance: 0.5}
      - {option: one, equals: 1, tolerance: 0.5}
      - {option: before, below: 0.5}
    expected: shift
"""


@pytest.mark.parametrize("shift", range(1, 10))
def test_a_shift_of_the_first_head_moves_the_second_by_as_much(tmp_path, shift: int) -> None:
    suite = tmp_path / "shift.yaml"
    suite.write_text(SHIFTS.replace("SHIFT", str(shift)))
    (item,) = icl_bench.run([suite], f"builtin:handwired-shift-{shift}").checks
    assert (item.verdict, item.supports, item.value) == ("pass", "shift", shift)


@pytest.mark.parametrize("model", ["builtin:handwired", "builtin:induction-2l"])
def test_models_with_the_circuit_pass_core(model: str) -> None:
    assert set(verdicts("core", model).values()) == {"pass"}


def test_the_one_layer_twin_fails_core() -> None:
    found = verdicts("core", "builtin:control-1l")
    # It raises every word seen before, whatever the distance.
    assert having("pass", found) <= {"copies-at-any-distance"}
    assert having("fail", found) >= {
        "has-induction-heads",
        "at-any-distance",
        "copies-from-context",
        "copies-in-order",
        "ablation-collapses-copying",
    }


SMOLLM2 = dict.fromkeys(VERDICTS, P) | {
    "a-shift-by-two": S,
    # The first MLP puts the token into other words before an induction head reads it.
    "who-wrote-the-queries": F,
    "nobody-else-writes-it": S,
    "five-heads-in-gpt2": S,
    "the-second-layer-writes": S,
    "the-first-layer-prepares": S,
    # A fifth of it does, or less.
    "half-of-icl-on-text": F,
    "by-identity": S,
    "do-they-emerge": S,
    "sudden-or-gradual": S,
    "why-not-one-first": S,
    "without-looking-at-attention": S,
}
SAMPLE = Path(__file__).parent.parent / "reports/samples/SmolLM2-135M-Instruct.Q4_1/results.json"


def test_the_sample_of_a_pretrained_model_has_its_known_verdicts() -> None:
    """Minutes of measuring, so the record is read that `make samples` writes."""
    record = icl_bench.read_record(SAMPLE)
    hashes = {suite.name: suite.sha256 for suite in record.suites}
    if hashes.get("quiz") != load_suite(shipped_suites()["quiz"]).sha256:
        pytest.skip("the sample is of another version of the quiz: make samples")
    found = {check.id: check.verdict for check in record.checks if check.suite == "quiz"}
    assert found == SMOLLM2
