"""Texts of small suites, and what loading them says."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = """\
icl_suite: 1
name: core
description: Induction circuit present, causal, and used.
defaults: {sequences: 32, period: 50}
measure:
  repeats: {probe: induction}
  collapse:
    probe: ablation
    heads: {from: repeats, where: {induction: {above: 0.4}}}
    method: mean
    null_draws: 99
checks:
  - {id: has-induction-heads, on: repeats, metric: induction_max, above: 0.4}
  - {id: ablation-collapses-copying, on: collapse, metric: loss_ratio, above: 2}
  - {id: beyond-random-heads, on: collapse, metric: null_p_value, below: 0.05}
quiz:
  - id: harry-potter            # the model answers
    prompt: "Harry Potter met Ron. Harry"
    choices: [" Ron", " Potter"]
    answer: " Potter"
  - id: meaning-of-a-low-score  # the measurement answers
    question: "What does a low score mean?"
    options: {a: "it has the circuit", b: "it has not"}
    on: repeats
    metric: induction_max
    supports: [{option: a, above: 0.4}, {option: b, below: 0.2}]
    expected: b
"""

HEAD = "icl_suite: 1\nname: x\n"
MEASURE = "measure: {r: {probe: induction}}\n"
CHECKS = "checks: [{id: c, on: r, metric: induction_max, above: 0.4}]\n"
PROMPT = 'quiz: [{id: q, prompt: P, choices: [" a", " b"], answer: " b"}]\n'


def check(text: str) -> str:
    """Return a suite whose line 4 is one check with this text after its id."""
    return f"{HEAD}{MEASURE}checks: [{{id: c, {text}}}]\n"


def rule(text: str) -> str:
    """Return a suite whose line 4 is one check with this rule, from column 48 on.

    The metric is exact, so that any number can be a threshold.
    """
    return check(f"on: r, metric: uniform_level, {text}")


def measured(text: str) -> str:
    """Return a suite whose line 5 is one quiz item that a measurement answers."""
    item = f"id: q, question: Q, on: r, metric: induction_max, {text}"
    return f"{HEAD}{MEASURE}quiz:\n  - {{{item}}}\n"


def write(folder: Path, text: str | bytes, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
