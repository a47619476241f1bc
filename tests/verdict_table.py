"""The right verdicts: which checks of which suites a model passes, fails or does not concern.

They follow from the definitions of the measures (docs/measures.md) and from how a model is made,
never from a run. docs/verdicts.md is written from this table.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import verdict_families as families
import verdict_lookalikes as lookalikes
import verdict_models as models

from icl_bench.suite.loading import find_suite

WORDS: dict[str, set[str]] = {
    "close": {"pass", "inconclusive"},
    "short": {"fail", "inconclusive"},
    "no": {"fail", "inconclusive", "skipped"},
    "refused": {"error", "skipped"},
    "vacuous": {"pass", "skipped"},
    "any": {"pass", "fail", "inconclusive", "skipped"},
}
"""Where the definitions leave a choice. `close`: above the threshold, `short`: below it, whether or
not the interval over 32 sequences reaches it. `no`: anything but a pass, as where a share of a gain
is asked for and there is none. `refused`: not measured, with a reason. `vacuous`: nothing to switch
off or to compare with, so a pass says nothing. `any`: not stated."""

ATTENTION = ("has-induction-heads", "not-by-position", "at-any-distance")
PREVIOUS = "has-previous-token-head"
BEHAVIOUR = ("copies-from-context", "copies-at-any-distance", "copies-in-order")
RATIOS = ("ablation-collapses-copying", "zeroing-does-the-same")
LOST, LOST_VARIED = "copying-is-lost", "copying-is-lost-at-any-distance"
FIRST, BEYOND = "first-copy-unharmed", "beyond-other-heads"
CAUSE = (*RATIOS, LOST, LOST_VARIED, BEYOND)
ANSWERS = ("harry-potter", "cat-on-the-mat")
OV = ("olsson/copying-above-chance", "olsson/copying-by-weights")
CHECKS = (*ATTENTION, PREVIOUS, *BEHAVIOUR, *CAUSE, FIRST, *ANSWERS, *OV)

SAME_AS = {
    "olsson/prefix-matching": "has-induction-heads",
    "olsson/previous-token": PREVIOUS,
    "olsson/writing-carries-copying": LOST,
    "olsson/carries-it-at-any-distance": LOST_VARIED,
}
"""Checks of `olsson` that ask what a check of the others asks."""
ON_TEXT = {"previous-token-on-text", "later-tokens-are-easier", "heads-carry-icl-on-text"}
"""Checks on natural text, which models of four hundred words cannot read: skipped."""


@dataclass(frozen=True)
class Case:
    """A model and the right verdicts.

    Args:
        build: makes the model.
        verdicts: check, or SUITE/CHECK, -> verdict or a word of `WORDS`; all others pass, but for
            those of `quiz`, which are not stated.
        suites: the suites that are run on it.
    """

    build: Callable[[], Any]
    verdicts: dict[str, str] = field(default_factory=dict)
    suites: tuple[str, ...] = ("core", "gate")

    def right(self, suite: str, check: str) -> str:
        """Return the right verdict of a check, or a word of `WORDS`."""
        if check in ON_TEXT:
            return "skipped"
        key = f"{suite}/{check}"
        for name in (key, SAME_AS.get(key, check)):
            if name in self.verdicts:
                return self.verdicts[name]
        return "any" if suite == "quiz" else "pass"

    def rights(self, suite: str) -> dict[str, str]:
        """Return the right verdict of every check and quiz item that a shipped suite has."""
        found = find_suite(suite)
        return {spec.id: self.right(suite, spec.id) for spec in (*found.checks, *found.quiz)}

    def texts(self) -> tuple[str, str]:
        """Return what the model does and what is right, as its builder's docstring has them."""
        build = self.build.func if isinstance(self.build, partial) else self.build
        does, right = (inspect.getdoc(build) or "").split("Right: ")
        return " ".join(does.split()), " ".join(right.split())


def allowed(right: str) -> set[str]:
    """Return the verdicts that a word of the table allows."""
    return WORDS.get(right, {right})


def outcome(verdicts: Iterable[str]) -> str:
    """Return what a suite says as a whole, from verdicts or words of the table.

    It passes if something passes and nothing fails, is inconclusive or an error.
    """
    found = set(verdicts)
    if found & {"fail", "inconclusive", "short"}:
        return "fails"
    if found & {"refused", "error"}:
        return "refused"
    return "passes" if "pass" in found else "decides nothing"


def _all(names: Iterable[str], verdict: str) -> dict[str, str]:
    return dict.fromkeys(names, verdict)


_NOTHING_LOST = {**_all(CAUSE, "no"), LOST_VARIED: "fail"}
_NO_BEHAVIOUR = {**_all(BEHAVIOUR, "fail"), "copies-in-order": "no", **_NOTHING_LOST}
_NOTHING = {
    **_all(ATTENTION, "fail"),
    PREVIOUS: "fail",
    **_NO_BEHAVIOUR,
    **_all(ANSWERS, "fail"),
    FIRST: "vacuous",
    **_all(OV, "any"),
}
_ANY_ANSWER = _all(ANSWERS, "any")
_BY_LUCK = {"copies-at-any-distance": "no", LOST_VARIED: "no", **_ANY_ANSWER}
"""What random weights do: nothing, but not exactly nothing."""
_NO_HEADS = _all([*ATTENTION, PREVIOUS, *CAUSE, FIRST, *OV], "skipped")
_REFUSED = {**_all(CHECKS, "refused"), **_ANY_ANSWER}

_QUIZ_ATTENTION = (
    *("quiz/two-heads-in-two-layers", "quiz/where-the-head-looks", "quiz/who-wrote-the-keys"),
    *("quiz/who-wrote-the-queries", "quiz/the-query-is-the-token", "quiz/first-hop"),
    *("quiz/through-the-residual-stream", "quiz/without-the-previous-token-head"),
    *("quiz/are-there-layers-enough", "quiz/second-hop", "quiz/what-a-low-score-means"),
)
_QUIZ_COPYING = (
    *("quiz/any-repeated-sequence", "quiz/names-nobody-knows", "quiz/the-heads-write-the-token"),
    *("quiz/ablation-raises-the-loss", "quiz/half-of-copying", "quiz/found-by-score"),
    *("quiz/random-heads-do-less", "quiz/break-it", "quiz/the-same-heads-elsewhere"),
    *("quiz/harry-potter", "quiz/cat-on-the-mat", "quiz/which-heads-to-keep"),
)
"""Items of `quiz` that ask how heads attend and what they get from each other, and what comes of
it."""
_QUIZ_TEXTBOOK = {**_all([*_QUIZ_ATTENTION, *_QUIZ_COPYING], "pass"), "quiz/by-meaning": "fail"}
_QUIZ_IDLE = {**_all(_QUIZ_ATTENTION, "pass"), **_all(_QUIZ_COPYING, "no")}
_QUIZ_PREVIOUS = {
    **_all([*_QUIZ_ATTENTION, *_QUIZ_COPYING], "no"),
    **_all(["quiz/first-hop", "quiz/what-a-low-score-means"], "pass"),
}

_FEW = {BEYOND: "vacuous"}
_WEAK = "short"
"""At .36 and .395 an interval over 32 sequences reaches .4, even where all are equal."""
_POSITIONAL = {
    "has-induction-heads": _WEAK,
    "not-by-position": "close",
    **_NO_BEHAVIOUR,
    FIRST: "any",
    **_ANY_ANSWER,
}
_AT_ITS_PERIOD = {"copies-from-context": "pass", FIRST: "pass"}
_FIXED = {**_NOTHING, **_all(["has-induction-heads", FIRST], "any"), **_ANY_ANSWER}
_FIXED_AT_ITS_PERIOD = {**_FIXED, **_all([*RATIOS, LOST], "any"), "copies-from-context": "pass"}
_SHARED = {
    "has-induction-heads": _WEAK,
    "not-by-position": "close",
    "olsson/prefix-matching": "pass",
}
_TWICE = {**_all(RATIOS, "no"), LOST: "fail", BEYOND: "any", **_ANY_ANSWER}
_SHIFTED = {PREVIOUS: "skipped", **_all(OV, "any")}
_IDLE = {**_NO_BEHAVIOUR, **_all(RATIOS, "fail"), **_all(ANSWERS, "fail")}

ALL = ("core", "gate", "olsson")
CORE, GATE, QUIZ = ("core",), ("gate",), ("quiz",)

CASES: dict[str, Case] = {
    **{
        f"textbook-{heads}": Case(partial(models.textbook_circuit, heads), _FEW, GATE)
        for heads in (1, 2)
    },
    "textbook-4": Case(partial(models.textbook_circuit, 4), _QUIZ_TEXTBOOK, ALL + QUIZ),
    **{
        f"textbook-{heads}": Case(partial(models.textbook_circuit, heads), suites=GATE)
        for heads in (8, 12, 16, 19, 24)
    },
    "trained-two-layers": Case(models.trained_two_layers, suites=GATE),
    "positional-copier-20": Case(partial(lookalikes.positional_copier, 20), _POSITIONAL),
    "positional-copier-25": Case(
        partial(lookalikes.positional_copier, 25),
        {**_POSITIONAL, **_AT_ITS_PERIOD, LOST: "fail", "olsson/prefix-matching": "pass"},
        ("gate", "olsson"),
    ),
    "positional-copier-50": Case(
        partial(lookalikes.positional_copier, 50),
        {**_POSITIONAL, **_AT_ITS_PERIOD, **_all([*RATIOS, LOST], "fail")},
        CORE,
    ),
    "shift-by-position-20": Case(partial(lookalikes.shift_by_position, 20), _FIXED),
    "shift-by-position-25": Case(
        partial(lookalikes.shift_by_position, 25), _FIXED_AT_ITS_PERIOD, GATE
    ),
    "shift-by-position-50": Case(
        partial(lookalikes.shift_by_position, 50), _FIXED_AT_ITS_PERIOD, CORE
    ),
    "positional-beside-circuit-25": Case(
        partial(models.positional_beside_circuit, 25), suites=GATE
    ),
    "positional-beside-circuit-50": Case(
        partial(models.positional_beside_circuit, 50), suites=CORE
    ),
    "positional-copies-beside-circuit-25": Case(
        partial(lookalikes.positional_copies_beside_circuit, 25), _TWICE, suites=GATE
    ),
    "positional-copies-beside-circuit-50": Case(
        partial(lookalikes.positional_copies_beside_circuit, 50), _TWICE, suites=CORE
    ),
    "shared-by-2": Case(partial(models.shared_induction, 2, 0.395), _SHARED, GATE),
    "shared-by-3": Case(partial(models.shared_induction, 3, 0.395), _SHARED, ALL),
    "shared-by-5": Case(partial(models.shared_induction, 5, 0.395), _SHARED, GATE),
    "shared-previous-token-3": Case(
        partial(models.shared_previous_token, 3), {PREVIOUS: "fail"}, GATE
    ),
    "crowded-layer": Case(models.crowded_layer, _FEW, GATE),
    "two-layers-copy": Case(models.two_layers_copy, suites=GATE),
    "token-shift": Case(models.token_shift, _SHIFTED, ALL),
    "short-convolution": Case(families.short_convolution, _SHIFTED, CORE),
    "bos-only": Case(models.bos_only, suites=GATE),
    "shift-by-two": Case(lookalikes.shift_by_two, {**_NOTHING, **_ANY_ANSWER}),
    "duplicate-token-idle": Case(lookalikes.duplicate_token_idle, _NOTHING, GATE),
    "duplicate-token-copied": Case(lookalikes.duplicate_token_copied, {**_NOTHING, **_ANY_ANSWER}),
    "idle-induction-alone": Case(
        lookalikes.idle_induction_alone, {**_IDLE, **_QUIZ_IDLE}, CORE + GATE + QUIZ
    ),
    "idle-induction-beside": Case(models.idle_induction_beside),
    "negative-alone": Case(
        lookalikes.negative_alone, {**_IDLE, "olsson/copying-above-chance": "short"}, ALL
    ),
    "negative-beside": Case(models.negative_beside),
    "slightly-negative-beside": Case(models.slightly_negative_beside, suites=GATE),
    "backup-head": Case(
        lookalikes.backup_head,
        {
            **_all([*RATIOS, LOST, LOST_VARIED], "fail"),
            BEYOND: "no",
            "olsson/writing-carries-copying": "pass",
            "olsson/carries-it-at-any-distance": "pass",
            "olsson/beyond-other-heads": "pass",
        },
        ALL,
    ),
    "loud": Case(models.loud, _all(RATIOS, "skipped")),
    "idle-circuit-with-cache": Case(
        lookalikes.idle_circuit_with_cache,
        {"copies-in-order": "fail", **_all(CAUSE, "fail"), BEYOND: "any", **_ANY_ANSWER},
    ),
    "idle-circuit-with-memory": Case(
        lookalikes.idle_circuit_with_memory,
        {**_all(CAUSE, "fail"), BEYOND: "any", **_ANY_ANSWER},
        GATE,
    ),
    "recurrent-memory": Case(families.recurrent_memory, _NO_HEADS, ALL),
    "recurrent-cache": Case(
        families.recurrent_cache,
        {**_NO_HEADS, "copies-in-order": "fail", **_all(ANSWERS, "fail")},
    ),
    "mamba-random": Case(families.mamba, {**_NO_BEHAVIOUR, **_BY_LUCK, **_NO_HEADS}, GATE),
    "rwkv-random": Case(families.rwkv, {**_NO_BEHAVIOUR, **_BY_LUCK, **_NO_HEADS}, GATE),
    "hybrid-random": Case(families.hybrid, {**_NOTHING, **_BY_LUCK}, GATE),
    "window-64": Case(partial(families.window_that_fits, 64), suites=CORE),
    "window-32": Case(partial(families.window_that_fits, 32), suites=GATE),
    "window-too-short-32": Case(partial(families.window_too_short, 32), _REFUSED, suites=CORE),
    "window-too-short-16": Case(partial(families.window_too_short, 16), _REFUSED),
    "previous-token-only": Case(
        lookalikes.previous_token_only,
        {**_NOTHING, PREVIOUS: "pass", **_QUIZ_PREVIOUS},
        CORE + GATE + QUIZ,
    ),
    "unigram": Case(lookalikes.unigram, {**_NOTHING, **_ANY_ANSWER}),
    "bigram": Case(lookalikes.bigram, {**_NOTHING, **_ANY_ANSWER}, GATE),
    "random-weights": Case(lookalikes.random_weights, {**_NOTHING, **_BY_LUCK}),
    "trained-one-layer": Case(
        lookalikes.trained_one_layer,
        {
            **_NOTHING,
            PREVIOUS: "any",
            **_all(["copies-from-context", "copies-at-any-distance", LOST_VARIED], "any"),
            **_all([*RATIOS, LOST, FIRST], "any"),
            "copies-in-order": "fail",
            **_ANY_ANSWER,
        },
    ),
}


def families_of(cases: dict[str, Case]) -> dict[str, dict[str, Case]]:
    """Group models that differ in a number alone: name without it -> number -> model."""
    grouped: dict[str, dict[str, Case]] = {}
    for name, case in cases.items():
        parts = re.fullmatch(r"(.*?)(?:-(\d+))?", name)
        assert parts is not None
        grouped.setdefault(parts[1], {})[parts[2] or ""] = case
    return grouped
