"""Plans measure each thing once; a failure stays with its own checks."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest

import icl_bench
from icl_bench.errors import InputError, MeasurementError, ModelError, NotMeasurable
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.records.parts import Measurement, Metric
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.results import counts_as_failure
from icl_bench.running.setup import Setup
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

SUITE = """
    icl_suite: 1
    name: {name}
    defaults: {{sequences: 4, period: 10, seed: 5}}
    measure:
      repeats: {{probe: induction}}
      off: {{probe: ablation, heads: {{from: repeats, top: 1}}, null_sets: 0}}
    checks:
      - {{id: present, on: repeats, metric: induction_max, above: 0.3}}
      - {{id: causal, on: off, metric: loss_ratio, above: 2}}
      - {{id: not-here, on: off, metric: loss_ratio, above: 2, models: ["gpt2"]}}
"""


@pytest.fixture
def make_suite(tmp_path):
    def make(name="small"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(textwrap.dedent(SUITE.format(name=name)))
        return load_suite(path)

    return make


def make_run(plan, text="builtin:handwired"):
    setup = Setup(plan)
    return ModelRun(LazyModel(parse_spec(text), "slug", setup), setup)


@pytest.fixture
def counted(monkeypatch):
    """Count how often each probe is asked to measure, without a model."""
    from icl_bench.probes.ablations import ablation
    from icl_bench.probes.heads import induction

    calls = []

    def fake(name):
        def measure(model, settings, context):
            calls.append((name, settings.seed, context.upstream is not None))
            metric = Metric(value=3, stderr=0.1, ci_low=2.8, ci_high=3.2, n=4)
            names = {"induction": "induction_max", "ablation": "loss_ratio"}
            return Measurement(probe=name, metrics={names[name]: metric})

        return measure

    monkeypatch.setattr(induction, "PROBE", replace(induction.PROBE, measure=fake("induction")))
    monkeypatch.setattr(ablation, "PROBE", replace(ablation.PROBE, measure=fake("ablation")))
    monkeypatch.setattr(ModelRun, "model", property(lambda self: None))
    return calls


def test_equal_measurements_of_two_suites_are_taken_once(make_suite, counted):
    run = make_run(make_plan([make_suite("one"), make_suite("two")]))
    record = run.run()
    assert counted == [("induction", 5, False), ("ablation", 5, True)]
    assert len(record.measurements) == 4 and len(record.checks) == 6


def test_what_a_measurement_is_called_does_not_change_what_it_is(make_suite, tmp_path):
    path = tmp_path / "renamed.yaml"
    text = textwrap.dedent(SUITE.format(name="renamed"))
    path.write_text(text.replace("repeats", "scan").replace("off", "ablated"))
    plan = make_plan([make_suite("one"), load_suite(path)])
    digests = {key: planned.digest for key, planned in plan.measurements.items()}
    assert digests["one/repeats"] == digests["renamed/scan"]
    assert digests["one/off"] == digests["renamed/ablated"] != digests["one/repeats"]
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    other = make_plan([load_suite(path)])
    assert not {p.digest for p in other.measurements.values()} & set(digests.values())


def test_an_option_overrides_the_suites_seed(make_suite, counted):
    make_run(make_plan([make_suite()], seed=9)).run()
    assert {seed for _, seed, _ in counted} == {9}


def test_a_check_for_another_model_measures_nothing(make_suite, counted):
    run = make_run(make_plan([make_suite()]))
    check = run.check("small", "not-here")
    assert (check.verdict, check.reason) == ("skipped", "applies only to gpt2")
    assert counted == []


def add_unread(tmp_path):
    """The suite with a measurement that no check and no other measurement reads."""
    path = tmp_path / "more.yaml"
    text = textwrap.dedent(SUITE.format(name="more"))
    path.write_text(text.replace("checks:", "  shown: {probe: induction, seed: 6}\nchecks:"))
    return load_suite(path)


def test_what_no_check_reads_is_measured_after_the_suites_last_check(counted, tmp_path):
    run = make_run(make_plan([add_unread(tmp_path)]))
    assert run.plan.unread(run.plan.suites[0]) == ["more/shown"]
    assert run.wanted() == {"more/repeats", "more/off", "more/shown"}
    run.check("more", "causal")
    run.check("more", "present")
    assert ("induction", 6, False) not in counted
    run.check("more", "not-here")
    assert counted[-1] == ("induction", 6, False)
    assert "more/shown" in run.record().measurements


def test_what_no_check_reads_is_left_out_where_a_check_is(counted, tmp_path):
    run = make_run(make_plan([add_unread(tmp_path)]))
    run.expect({("more", "present"), ("more", "causal")})
    assert run.wanted() == {"more/repeats", "more/off"}
    run.check("more", "present")
    run.check("more", "causal")
    assert ("induction", 6, False) not in counted


def test_what_no_check_reads_is_left_out_where_no_check_is_for_the_model(counted, tmp_path):
    suite = add_unread(tmp_path)
    suite = replace(suite, checks=suite.checks[2:])
    run = make_run(make_plan([suite]))
    run.run()
    assert run.wanted() == set() and counted == []


def test_heads_chosen_from_it_are_a_reader_too(make_suite):
    plan = make_plan([make_suite()])
    assert plan.unread(plan.suites[0]) == []


def test_two_suites_of_one_name_are_refused(make_suite, tmp_path):
    one = make_suite()
    other = tmp_path / "elsewhere" / "small.yaml"
    other.parent.mkdir()
    other.write_text(textwrap.dedent(SUITE.format(name="small")))
    with pytest.raises(InputError, match="two suites are named 'small'"):
        make_plan([one, load_suite(other)])
    assert len(make_plan([one, load_suite(one.path)]).suites) == 1


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (NotMeasurable("it has no heads"), "skipped", "it has no heads"),
        (MeasurementError("too long"), "error", "too long"),
        (ZeroDivisionError("oh"), "error", "probe 'induction' broke: ZeroDivisionError: oh"),
    ],
)
def test_a_failed_measurement_is_a_verdict_with_its_reason(
    make_suite, counted, monkeypatch, error, verdict, reason
):
    from icl_bench.probes.heads import induction

    def fail(model, settings, context):
        raise error

    monkeypatch.setattr(induction, "PROBE", replace(induction.PROBE, measure=fail))
    record = make_run(make_plan([make_suite()])).run()
    by_id = {check.id: check for check in record.checks}
    assert by_id["present"].verdict == by_id["causal"].verdict == verdict
    assert reason in by_id["present"].reason
    assert by_id["causal"].reason.startswith("small/repeats: ")
    assert by_id["present"].value is None
    assert counts_as_failure(record) == (verdict == "error")


def test_a_model_that_cannot_be_opened_is_tried_once(make_suite, monkeypatch):
    from icl_bench.models.opening import opening

    tries = []

    def fail(*arguments):
        tries.append(1)
        raise ModelError("the disk is gone")

    monkeypatch.setattr(opening, "open_model", fail)
    record = make_run(make_plan([make_suite()])).run()
    assert len(tries) == 1
    assert [c.verdict for c in record.checks] == ["error", "error", "skipped"]
    assert record.checks[0].reason == "the disk is gone"
    assert record.model.fingerprint is None


def test_a_whole_run_through_the_python_api_reads_back(make_suite, tmp_path):
    suite = make_suite()
    record = icl_bench.run([suite.path], "builtin:handwired")
    assert [c.verdict for c in record.checks] == ["pass", "pass", "skipped"]
    path = record.write(tmp_path / "results.json")
    again = icl_bench.read_record(path)
    assert again == record
    assert again.model.attention == "fused" and again.model.layers == 2 and again.model.heads == 24
    assert again.status == "complete"
    assert len(again.measurements["small/repeats"].tokens_sha256) == 64
    opened = icl_bench.load_model("builtin:handwired")
    assert icl_bench.run([suite.path], opened, cache=False).checks == record.checks


def test_a_model_without_heads_keeps_what_needs_none(make_suite):
    import transformers

    config = transformers.MambaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    model = icl_bench.wrap(transformers.AutoModelForCausalLM.from_config(config))
    record = icl_bench.run([make_suite().path], model)
    assert [c.verdict for c in record.checks] == ["skipped"] * 3
    assert "state-space model: it has no attention heads" in record.checks[0].reason
    ids = icl_bench.repeated_tokens(model, sequences=2, period=5).input_ids
    assert icl_bench.token_losses(model, ids).shape == (2, ids.shape[1] - 1)
