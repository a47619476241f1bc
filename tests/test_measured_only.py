"""A suite without checks measures; the run is good where all of it was measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest
from conftest import Stage

from icl_bench.cli import main

ONLY = """\
icl_suite: 1
name: only
measure:
  first: {probe: stub}
  second: {probe: stub, tag: second, act: ACT}
"""


@pytest.fixture
def stubbed(stage: Stage) -> Iterator[Stage]:
    """The stage with the stub known to this process."""
    importlib.import_module("stub").install()
    yield stage
    del sys.modules["stub"]


def test_the_command_ends_well_where_all_was_measured(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed.write("only.yaml", ONLY.replace("ACT", "measure"))
    assert main(["run", "stub:good", "--suite=only.yaml"]) == 0
    record = stubbed.record("stub-good")
    assert record.status == "complete" and record.checks == []
    assert list(record.measurements) == ["only/first", "only/second"]
    stubbed.write("only.yaml", ONLY.replace("ACT", "break"))
    assert main(["run", "stub:good", "--suite=only.yaml"]) == 1
    told = capsys.readouterr().err
    assert "icl-bench: not measured: only/second on stub-good (probe 'stub' broke: " in told
    assert main(["run", "stub:broken", "--suite=only.yaml"]) == 1


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_pytest_has_an_item_for_each_measurement(stage: Stage, workers: list[str]) -> None:
    stage.write("only.yaml", ONLY.replace("ACT", "measure"))
    result = stage.run("--icl-model=stub:good", "only.yaml", "-v", *workers)
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*only.yaml::second?stub-good?*"])
    assert list(stage.record("stub-good").measurements) == ["only/first", "only/second"]


def test_one_measurement_can_be_chosen_and_a_broken_one_is_an_error(stage: Stage) -> None:
    stage.write("only.yaml", ONLY.replace("ACT", "break"))
    result = stage.run("--icl-model=stub:good", "only.yaml::first[stub-good]")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result = stage.run("--icl-model=stub:good", "only.yaml")
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == 1
    result = stage.run("only.yaml", "--icl-model=stub:good", "only.yaml::frst")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*has no check 'frst'; did you mean 'first'?*"])


def test_without_a_model_it_is_skipped_or_refused(stage: Stage) -> None:
    stage.write("tests/only.yaml", ONLY.replace("ACT", "measure"))
    stage.run("tests").assert_outcomes(skipped=2)
    assert stage.run("tests/only.yaml").ret == 4
