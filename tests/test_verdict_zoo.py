"""Whole suites say the right thing of models whose answers are known."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from verdict_models import bos_only
from verdict_table import ALL, CASES, CHECKS, SAME_AS, allowed, outcome

import icl_bench
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.suite.loading import find_suite

PAIRS = [(name, suite) for name, case in CASES.items() for suite in case.suites]


@functools.cache
def _model(name: str) -> icl_bench.Model:
    return icl_bench.wrap(CASES[name].build(), build_tokenizer(512))


@pytest.mark.parametrize(("name", "suite"), PAIRS, ids=[f"{n}-{s}" for n, s in PAIRS])
def test_every_verdict_is_right(name: str, suite: str) -> None:
    record = icl_bench.run([suite], _model(name), cache=False)
    wrong = []
    for check in record.checks:
        right = CASES[name].right(suite, check.id)
        if check.verdict not in allowed(right):
            wrong.append(
                f"  {check.id}: right is {right}, got {check.verdict} (value {check.value}, "
                f"interval {check.ci_low} to {check.ci_high}): {check.reason or 'no reason'}"
            )
        if check.verdict == "skipped":
            assert check.reason
    assert not wrong, "\n".join([f"{name}, suite {suite}:", *wrong])
    whole = outcome(CASES[name].rights(suite).values())
    if suite in ALL and whole != "refused":
        assert outcome(check.verdict for check in record.checks) == whole


@pytest.mark.parametrize("name", CASES)
def test_a_docstring_says_how_the_suites_end(name: str) -> None:
    case = CASES[name]
    right = case.texts()[1]
    said = re.split(r"[;,. ]", right)[0]
    for suite in filter(case.suites.__contains__, ALL):
        found = outcome(case.rights(suite).values())
        # A suite that says something else is named.
        assert (found == said) is (f"`{suite}`" not in right), (suite, found)


def test_verdicts_name_checks_that_exist() -> None:
    known = {check.rpartition("/")[2] for check in (*CHECKS, *SAME_AS)}
    known |= {item.id for item in find_suite("quiz").quiz}
    for case in CASES.values():
        assert {name.rpartition("/")[2] for name in case.verdicts} <= known


def test_copying_that_needs_bos_fails_without(tmp_path: Path) -> None:
    suite = tmp_path / "no-bos.yaml"
    suite.write_text(
        "icl_suite: 1\nname: no-bos\ndefaults: {sequences: 8, period: 25, bos: never}\n"
        "measure:\n  losses: {probe: losses}\n"
        "checks:\n  - {id: copies, on: losses, metric: gain, above: 1}\n"
    )
    assert _verdict(suite) == "fail"
    suite.write_text(suite.read_text().replace("never", "auto"))
    assert _verdict(suite) == "pass"


def _verdict(suite: Path) -> Any:
    model = icl_bench.wrap(bos_only(), build_tokenizer(512))
    return icl_bench.run([suite], model, cache=False).checks[0].verdict
