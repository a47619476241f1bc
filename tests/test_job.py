"""One request, one outcome: for pytest, for the command and for Python."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest

import icl_bench
from icl_bench.commands import run as run_command
from icl_bench.errors import IclError, SettingsError
from icl_bench.options import OPTIONS, RunOptions, declare
from icl_bench.plugin import pytest_addoption
from icl_bench.running.job import Job
from icl_bench.running.outcome import Outcome
from icl_bench.running.request import Request
from icl_bench.suite import find_suite

MODEL = "builtin:handwired"
SMALL = """\
icl_suite: 1
name: small
measure:
  repeats: {probe: induction, sequences: 16, period: 8, control: false}
checks:
  - {id: has-heads, on: repeats, metric: induction_max, above: 0.4}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def given(**values: Any) -> Any:
    """What a command line gives for each option."""
    told = {option.dest: option.default for option in OPTIONS.values()} | values
    return told.__getitem__


def test_pytest_and_the_command_have_the_options_of_the_table(pytester: pytest.Pytester) -> None:
    added: list[str] = []

    class Parser:
        def getgroup(self, *_: str) -> Any:
            return self

        def addoption(self, name: str, **_: Any) -> None:
            added.append(name)

    pytest_addoption(Parser())  # type: ignore[arg-type]
    assert added == [f"--icl-{name}" for name in OPTIONS]
    parser = argparse.ArgumentParser()
    run_command.add_parser(parser.add_subparsers())
    [subparsers] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    actions = subparsers.choices["run"]._actions
    found = {text for action in actions for text in action.option_strings}
    assert found == {f"--{name}" for name in OPTIONS if name != "model"} | {
        *("--color", "--help", "-h")
    }
    told = {action.dest: action.default for action in actions}
    assert all(told[option.dest] == option.default or option.kind == "flag"
               for option in OPTIONS.values() if option.name != "model")  # fmt: skip


@pytest.mark.parametrize("function", [icl_bench.run, icl_bench.load_model])
def test_arguments_of_python_are_options_of_the_table(function: Any) -> None:
    known = {option.dest for option in OPTIONS.values()} | {"cache", "progress"}
    options = RunOptions()
    jobs = {"jobs": Request([], []).jobs}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        assert name in known
        # What an option that may be repeated is without one is empty here, and None there.
        assert (parameter.default or None) == (jobs.get(name, getattr(options, name, None)) or None)


def test_what_is_not_given_means_the_same_everywhere() -> None:
    assert RunOptions.read(given(), "--") == RunOptions()


def test_help_shows_a_percent_sign() -> None:
    parser = argparse.ArgumentParser()
    declare(parser.add_argument, "--", ["limit"])
    assert "N%, or noise" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "x"}, "--icl-seed=x: must be a whole number"),
        ({"batch_size": "1.5"}, "--icl-batch-size=1.5: must be a whole number"),
        ({"batch_size": "0"}, "batch size 0: must be at least 1"),
        ({"inconclusive": "maybe"}, "--icl-inconclusive=maybe: use fail or warn"),
        ({"plotly": "no"}, "--icl-plotly=no: use inline or shared"),
        ({"cache_limit": "big"}, "--icl-cache-limit=big: must be a size"),
        ({"cache_dir": "s3://b"}, "--icl-cache-dir=s3://b: a URL"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_option(values: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        Request.read(given(**values), [], prefix="--icl-")


def test_a_run_from_python_writes_reports_where_it_is_told_to(small: Path) -> None:
    record = icl_bench.run([small], MODEL, report_dir="out", cache=False)
    assert icl_bench.read_record("out/builtin-handwired/results.json") == record
    assert {"report.md", "report.html"} <= {one.name for one in Path("out").glob("*/*")}
    assert not Path("reports").exists()


def test_a_run_from_python_writes_nothing_unless_it_is_told_to(small: Path) -> None:
    icl_bench.run([small], icl_bench.load_model(MODEL), cache=False)
    assert [path.name for path in Path().iterdir()] == ["small.yaml"]


def test_a_run_from_python_names_the_argument_that_is_wrong(small: Path) -> None:
    with pytest.raises(SettingsError, match=r"^report_dir=s3://b/r: a URL"):
        icl_bench.run([small], MODEL, report_dir="s3://b/r")
    with pytest.raises(SettingsError, match=r"^cache_limit=big: must be a size"):
        icl_bench.run([small], MODEL, cache_limit="big")
    with pytest.raises(SettingsError, match="unknown dtype 'int3'"):
        icl_bench.run([small], MODEL, dtype="int3")


def test_reports_that_cannot_be_written_are_an_error_in_python(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SettingsError("report folder out: cannot be written (the disk is full)")

    monkeypatch.setattr("icl_bench.running.job.write_reports", fail)
    with pytest.raises(IclError, match="the reports were not written: .*the disk is full"):
        icl_bench.run([small], MODEL, report_dir="out", cache=False)


def test_a_device_of_a_model_that_is_opened_is_that_of_the_argument(small: Path) -> None:
    record = icl_bench.run([small], MODEL, dtype="bfloat16", cache=False)
    assert record.model.dtype == "bfloat16"


def test_interrupted_in_python_leaves_what_was_measured(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icl_bench.running.judging import CheckedRun

    original = CheckedRun._judge

    def judge(run: CheckedRun, *name: str) -> Any:
        original(run, *name)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckedRun, "_judge", judge)
    with pytest.raises(KeyboardInterrupt):
        icl_bench.run([small], MODEL, report_dir="out", cache=False)
    left = icl_bench.read_record("out/builtin-handwired/results.json")
    assert left.status == "interrupted" and "small/repeats" in left.measurements


def test_a_request_is_checked_before_anything_is_measured(small: Path) -> None:
    suites = [find_suite(str(small))]
    with pytest.raises(SettingsError, match="no model is given for 'small': --model=SPEC"):
        Job(Request([], suites)).check()
    with pytest.raises(SettingsError, match="--openmetrics needs a model"):
        Job(Request([], suites, openmetrics="metrics.txt")).check()
    Job(Request([], suites)).check(only_looks=True)
    with pytest.raises(SettingsError, match="--report-dir=small.yaml: .* is a file"):
        Job(Request([MODEL], suites, report_dir="small.yaml")).check()


def test_an_outcome_ends_a_command() -> None:
    assert Outcome().exit_code == 0
    assert Outcome(troubles=["cannot be written"]).exit_code == 1
    assert Outcome(undecided="no check was decided").exit_code == 1
    assert Outcome(no_worse=False).exit_code == 1
    assert Outcome(interrupted=True).exit_code == 2
