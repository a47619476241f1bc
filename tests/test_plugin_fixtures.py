"""The fixtures `icl_model` and `icl` in Python tests."""

from __future__ import annotations

from conftest import Stage

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"
HANDWIRED = "--icl-model=builtin:handwired"

CALLABLES = """\
from pathlib import Path

def blind():
    from icl_bench.reference.handwired import handwired
    return handwired(induction=False)

def broken():
    with open("calls.txt", "a") as stream: print("called", file=stream)
    raise RuntimeError("no weights today")

def stopped():
    raise KeyboardInterrupt
"""


def test_a_test_runs_once_for_every_model(stage: Stage) -> None:
    stage.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_it(icl_model, number): assert icl_model.name == 'good'",
    )
    result = stage.run(GOOD, BAD, "test_it.py", "-v")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        ["test_it.py::test_it?*stub-good* PASSED*", "test_it.py::test_it?*stub-bad* FAILED*"]
    )
    # No check was judged, so there is nothing to report.
    assert not (stage.path / "reports").exists()


def test_without_a_model_tests_are_skipped(stage: Stage) -> None:
    stage.write("test_it.py", "def test_it(icl_model): pass\ndef test_more(icl): pass")
    result = stage.run("test_it.py", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*no model given: use --icl-model=SPEC"])


def test_a_model_that_cannot_be_opened_fails_tests_without_a_traceback(stage: Stage) -> None:
    stage.write("test_it.py", "def test_it(icl_model): pass\ndef test_more(icl_model): pass")
    result = stage.run("--icl-model=stub:broken", "test_it.py")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["model 'stub:broken': calling 'broken' failed: no such luck"])
    result.stdout.no_fnmatch_line("*session.py*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_module_fixtures_can_build_on_the_model(stage: Stage) -> None:
    stage.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.fixture(scope='module')\n"
        "def name(icl_model): return icl_model.name\n"
        "def test_it(name): assert name\n",
    )
    stage.run(GOOD, BAD, "test_it.py").assert_outcomes(passed=2)


def test_the_python_api_is_there_with_the_model_filled_in(real_stage: Stage) -> None:
    real_stage.write(
        "test_it.py",
        "def test_scores(icl):\n"
        "    tokens = icl.repeated_tokens(sequences=2, period=8)\n"
        "    scores = icl.head_scores(tokens)\n"
        "    best = scores.loc[scores.induction.idxmax()]\n"
        "    assert (best.layer, best['head']) == (1, 0) and best.induction > 0.9\n"
        "    clean = icl.token_losses(tokens.input_ids)\n"
        "    off = icl.token_losses(tokens.input_ids, ablate=[(1, 0)])\n"
        "    assert off.mean() > clean.mean() + 1\n"
        "def test_run(icl):\n"
        "    record = icl.run(['tiny.yaml'])\n"
        "    assert [check.verdict for check in record.checks] == ['pass', 'pass']\n"
        "def test_sweep(icl):\n"
        "    tokens = icl.repeated_tokens(sequences=1, period=4)\n"
        "    sweep = icl.ablation_sweep(tokens).set_index(['layer', 'head'])\n"
        "    assert sweep.delta.nlargest(2).min() > 1 > sweep.delta.nlargest(3).min()\n",
    )
    real_stage.run(HANDWIRED, "test_it.py").assert_outcomes(passed=3)


def test_a_model_with_and_one_without_the_circuit_are_told_apart(real_stage: Stage) -> None:
    real_stage.write("my_models.py", CALLABLES)
    result = real_stage.run(HANDWIRED, "--icl-model=my_models:blind", "tiny.yaml")
    assert result.ret == 1
    assert set(real_stage.verdicts("builtin-handwired").values()) == {"pass"}
    assert set(real_stage.verdicts("my_models-blind").values()) == {"fail"}
    record = real_stage.record("builtin-handwired")
    assert record.environment.torch and record.model.fingerprint
    assert record.model.layers == 2 and record.model.attention == "fused"


def test_a_callable_that_raises_is_called_once_and_named(real_stage: Stage) -> None:
    real_stage.write("my_models.py", CALLABLES)
    real_stage.write("test_it.py", "def test_it(icl): pass")
    result = real_stage.run("--icl-model=my_models:broken", "tiny.yaml", "test_it.py")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        ["model 'my_models:broken': calling 'broken' failed: *no weights today *my_models.py:9*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*calling.py*")
    assert (real_stage.path / "calls.txt").read_text() == "called\n"
    assert set(real_stage.verdicts("my_models-broken").values()) == {"error"}


def test_ctrl_c_while_a_model_is_opened_ends_the_run(real_stage: Stage) -> None:
    real_stage.write("my_models.py", CALLABLES)
    result = real_stage.run("--icl-model=my_models:stopped", HANDWIRED, "tiny.yaml")
    assert result.ret == 2
    assert not (real_stage.path / "reports").exists()
