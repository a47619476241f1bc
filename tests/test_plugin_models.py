"""Several models in one run: one is open at a time, nothing is measured twice."""

from __future__ import annotations

import pytest
from conftest import MINE, Stage

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"
FINE = "--icl-model=stub:fine"

SHUFFLE = """\
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    # All models take turns.
    items.sort(key=lambda item: item.name.partition("[")[0])
"""


def test_each_model_is_opened_once_and_let_go_of(stage: Stage) -> None:
    stage.write("more.yaml", MINE.replace("name: mine", "name: more"))
    result = stage.run(GOOD, BAD, FINE, "mine.yaml", "more.yaml")
    result.assert_outcomes(passed=16, failed=2)
    assert stage.log("opened") == ["good", "bad", "fine"]
    assert stage.log("held") == []


def test_a_shuffled_run_gives_the_same_and_measures_nothing_twice(stage: Stage) -> None:
    stage.write("conftest.py", SHUFFLE)
    result = stage.run(GOOD, BAD, "mine.yaml", "-v")
    result.stdout.fnmatch_lines(["*high?stub-good?*", "*high?stub-bad?*", "*low?stub-good?*"])
    result.assert_outcomes(passed=5, failed=1)
    assert sorted(stage.log("measured")) == ["bad", "bad second", "good", "good second"]
    assert stage.log("opened") == ["good", "bad", "good", "bad"]
    assert stage.log("held") == []
    assert stage.verdicts("stub-good") == {"high": "pass", "there": "pass", "low": "pass"}
    assert stage.verdicts("stub-bad") == {"high": "fail", "there": "pass", "low": "pass"}


def test_tests_with_the_fixture_share_the_models_turn(stage: Stage) -> None:
    stage.write("test_it.py", "def test_it(icl_model): assert icl_model.name in ('good', 'bad')")
    for paths in (["mine.yaml", "test_it.py"], ["test_it.py", "mine.yaml"]):
        stage.run(GOOD, BAD, *paths).assert_outcomes(passed=7, failed=1)
    assert stage.log("opened") == ["good", "bad"] * 2
    assert stage.log("held") == []


def test_the_same_model_given_twice_is_one_model(stage: Stage) -> None:
    stage.run(GOOD, GOOD, "mine.yaml").assert_outcomes(passed=3)
    assert stage.log("opened") == ["good"]


@pytest.mark.parametrize("order", [[GOOD, BAD], [BAD, GOOD]])
def test_models_run_in_the_order_given(stage: Stage, order: list[str]) -> None:
    stage.run(*order, "mine.yaml")
    assert stage.log("opened") == [spec.rpartition(":")[2] for spec in order]
