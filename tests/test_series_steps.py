"""A series dealt in parts: plain data, in any process, and the same record."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions
from icl_bench.records.record import RunRecord
from icl_bench.running.series_run import SeriesRun
from icl_bench.running.series_steps import Part, StepResult, measure_steps
from icl_bench.running.setup import Setup
from icl_bench.suite import find_suite
from icl_bench.suite.plan import make_plan

SPEC = "builtin:induction-2l@1,500,2000"
OPTIONS = RunOptions(cache=False)


@pytest.fixture(scope="module")
def series() -> tuple[SeriesRun, list[str]]:
    spec = parse_spec(SPEC)
    found = check_spec(spec)
    assert isinstance(found, tuple)
    plan = make_plan([find_suite("phase-change")])
    run = SeriesRun(spec, "series", Setup(plan, OPTIONS), found)
    return run, plan.on_each_model(run.wanted())


def deal(run: SeriesRun, keys: list[str], *places: int) -> Part:
    steps = tuple(run.checkpoints[place] for place in places)
    return Part(run.slug, run.plan, OPTIONS, steps, tuple(keys))


def content(record: RunRecord) -> object:
    told = record.model_dump(mode="json", exclude={"created": True, "environment": True})
    for measurement in told["measurements"].values():
        measurement["seconds"] = None
        for row in measurement["tables"].get("steps", []):
            row.pop("seconds", None)
    return told


def test_parts_measured_in_other_processes_make_the_record_of_a_serial_run(series) -> None:
    run, keys = series
    parts = [deal(run, keys, 0, 2), deal(run, keys, 1)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        dealt = [result for results in executor.map(measure_steps, parts) for result in results]
    assert sorted(result.step for result in dealt) == [1, 500, 2000]
    again = SeriesRun(run.spec, run.slug, run.setup, run.checkpoints)
    for result in dealt:
        again.take(result)
    assert again.missing(keys) == []
    again._measurer.measure = None  # type: ignore[assignment]  # nothing is left to be measured
    assert content(again.run()) == content(run.run())


def test_what_is_missing_is_told_by_checkpoint(series) -> None:
    run, keys = series
    fresh = SeriesRun(run.spec, run.slug, run.setup, run.checkpoints)
    assert fresh.missing(keys) == [(one, tuple(keys)) for one in run.checkpoints]
    [result] = measure_steps(deal(run, keys[:1], 0))
    fresh.take(result)
    first, *rest = fresh.missing(keys)
    assert first == (run.checkpoints[0], tuple(keys[1:])) and len(rest) == 2


def test_a_checkpoint_that_cannot_be_opened_comes_back_as_data(series) -> None:
    run, keys = series
    options = RunOptions(cache=False, device="cuda:99")
    part = Part(run.slug, run.plan, options, run.checkpoints[:1], tuple(keys))
    [result] = measure_steps(part)
    assert {one.status for one in result.measurements.values()} == {"error"}
    assert result.environment is None
    assert pickle.loads(pickle.dumps(result)) == result and isinstance(result, StepResult)
