"""Mutated suites: refused with file, line and column, or planned, judged and shown."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from mutations import Hang, Outcome, explain_message, patience
from yaml_mutations import mutate_yaml

from icl_bench.errors import SuiteError
from icl_bench.probes import get_probe
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.records.reading import read_record
from icl_bench.render.html.report import report_page
from icl_bench.render.terminal import summary
from icl_bench.reports.files import REPORTS
from icl_bench.running.checks import evaluate
from icl_bench.running.outcome import Outcome as RunOutcome
from icl_bench.running.results import Results, assemble, explain_undecided
from icl_bench.suite import Suite, load_suite
from icl_bench.suite.plan import Plan, Planned, make_plan

SUITES = Path(__file__).parents[1] / "suites"
SMALL = """\
icl_suite: 1
name: small
version: 2
description: Every kind of entry once.
defaults: {sequences: 16, period: 12, seed: 3}
measure:
  repeats: {probe: induction, until: decided, max_sequences: 64}
  off:
    probe: ablation
    heads:
      from: repeats
      where: {induction: {above: 0.4}}
      or_top: 3
      without: {from: repeats, top: 2, by: previous_token}
    method: mean
    null_sets: 19
  listed: {probe: ablation, heads: [[0, 1], [1, 2]]}
  copying: {probe: losses}
  asked: {probe: choice, items: [{prompt: "a b", choices: [" c", " d"], answer: " c"}]}
checks:
  - {id: has, on: repeats, metric: induction_max, above: 0.4, description: It has them.}
  - {id: near, on: copying, metric: gain, equals: 3, tolerance: 2, models: ["*", "!gpt2"]}
  - {id: within, on: off, metric: copying_lost, between: [0.1, 0.9]}
  - {id: right, on: asked, metric: accuracy, at_least: 0.5}
quiz:
  - {id: potter, prompt: Harry, choices: [" Potter", " Ron"], answer: " Potter"}
  - id: low
    question: What does it say?
    options: {a: much, b: little}
    on: repeats
    metric: induction_max
    supports: [{option: a, above: 0.4}, {option: b, below: 0.1}]
    beside: [previous_token_max]
    expected: a
"""


def mutate_suites(count: int, folder: Path, seed: int = 0, longest: int = 0) -> Outcome:
    """Mutate suites; what is accepted is planned, judged on made-up numbers, and shown.

    Args:
        count: how many.
        folder: an empty one.
        seed: of the mutations.
        longest: seconds that one may take; 0 for no limit.
    """
    draw, outcome = random.Random(seed), Outcome()
    texts = [SMALL] * 6 + [(SUITES / f"{name}.yaml").read_text() for name in ("gate", "fuzzy")]
    path = folder / "odd.yaml"
    for number in range(count):
        path.write_bytes(mutate_yaml(draw.choice(texts), draw))
        outcome.tried += 1
        what = "reading"
        try:
            with patience(longest):
                suite = load_suite(path)
                outcome.accepted += 1
                for what in _use(suite, folder, draw):  # noqa: B007 - read where it fails
                    pass
        except SuiteError as error:
            outcome.refused(number, error, lines=21)
            places = str(error).splitlines()
            if not all(line.startswith(f"{path}:") for line in places):
                outcome.fault(number, "message", f"without file and line: {places[0][:200]!r}")
        except (Exception, Hang) as error:
            outcome.fault(number, what, error)
        if [one.name for one in folder.iterdir()] not in (["odd.yaml"], ["odd.yaml", "r"]):
            outcome.fault(number, "folder", f"holds {sorted(folder.iterdir())}")
    return outcome


def _use(suite: Suite, folder: Path, draw: random.Random) -> Iterator[str]:
    """Do with a suite what a run does, but for measuring; yield what comes next."""
    for warning in suite.warnings:
        if why := explain_message(warning):
            raise AssertionError(f"warning: {why}")
    yield "planning"
    plan = make_plan([suite], seed=draw.choice([None, 7]))
    yield "judging"
    results = Results(ModelInfo(spec="builtin:x", slug="builtin-x"))
    results.environment = Environment(python="3", platform="here")
    results.measurements = {key: stand_in(one, draw) for key, one in plan.measurements.items()}
    _judge(plan, results)
    record = assemble(results, plan)
    yield "writing"
    path = record.write(folder / "r" / "results.json")
    try:
        record = read_record(path)
    finally:
        path.unlink()
    for name, make in REPORTS.items():
        yield name
        make(record)
    yield "report.html"
    report_page(record, "plotly.js")
    yield "terminal"
    summary([record])
    yield "verdict"
    undecided = explain_undecided([(one.verdict, one.reason) for one in record.checks])
    outcome = RunOutcome(records=[record], undecided=undecided)
    decided = any(one.verdict in ("pass", "fail") for one in record.checks)
    if outcome.exit_code == 0 and suite.assertions and not decided:
        raise AssertionError("green, and nothing was decided")
    if any(one.verdict == "fail" for one in record.checks) and outcome.exit_code != 1:
        raise AssertionError("a check failed, and the run is green")


def _judge(plan: Plan, results: Results) -> None:
    for suite, spec in plan.assertions():
        key = suite.key(spec.on)
        taken = results.measurements[key]
        info = get_probe(plan.measurements[key].probe).metrics[spec.metric]
        found = evaluate(spec, suite.name, key, taken, info, *results.model.names)
        results.checks[suite.name, spec.id] = found


def stand_in(planned: Planned, draw: random.Random) -> Measurement:
    """Return a measurement with made-up numbers, some of them missing, huge or without interval.

    Args:
        planned: what is asked for.
        draw: the numbers.
    """
    state = draw.choice(["measured"] * 8 + ["skipped", "error"])
    if state != "measured":
        return Measurement(probe=planned.probe, status=state, reason="why")
    metrics = {}
    for name in get_probe(planned.probe).metrics:
        value = draw.choice([0, 0.5, 1, -1, 0.4, 3.3, 1e99, 5e-324, draw.gauss(0, 1)])
        width = draw.choice([0, 0.01, 1e-300, 10.0, None])
        ends = (None, None) if width is None else (value - width, value + width)
        if draw.random() < 0.95:
            metrics[name] = Metric(
                value=value, stderr=width, ci_low=ends[0], ci_high=ends[1], n=draw.choice([None, 9])
            )
    settings = planned.settings.model_dump(mode="json", by_alias=True)
    return Measurement(probe=planned.probe, settings=settings, metrics=metrics)
