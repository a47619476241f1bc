"""`until: decided`: more sequences where a check is open, and no check is open for want of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import icl_bench
from icl_bench.errors import SuiteError
from icl_bench.measures import statistics as st
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import induction
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

SUITE = """\
icl_suite: 1
name: mine
defaults: {{period: 12}}
measure:
  repeats: {{probe: induction, control: false, sequences: 4, until: decided, max_sequences: 30}}
  collapse: {{probe: ablation, sequences: 4, heads: {{from: repeats, top: 1}}, null_draws: 0}}
checks:
  - {{id: c, on: repeats, metric: previous_token_max, {rule}}}
  - {{id: d, on: collapse, metric: gain, above: 0}}
"""
MODEL = "builtin:induction-2l"


def load(folder, rule="above: 0.01", text=SUITE):
    path = folder / "mine.yaml"
    path.write_text(text.format(rule=rule))
    return load_suite(path)


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model(MODEL)


@pytest.fixture(scope="module")
def last(model):
    settings = induction.Settings(sequences=30, period=12, control=False, looks=4)
    return induction.measure(model, settings, Context())


@pytest.fixture
def taken(monkeypatch):
    """Sequences of every measurement that is really taken."""
    found = []
    original = induction.measure

    def count(model, settings, context):
        found.append(settings.sequences)
        return original(model, settings, context)

    monkeypatch.setattr(induction, "PROBE", replace(induction.PROBE, measure=count))
    return found


def test_what_is_decided_at_once_costs_the_first_look_only(tmp_path, taken):
    record = icl_bench.run([load(tmp_path).path], MODEL)
    assert taken == [4] and record.checks[0].verdict == "pass"
    repeats = record.measurements["mine/repeats"]
    asked = {name: repeats.settings[name] for name in ("sequences", "until", "max_sequences")}
    assert asked == {"sequences": 4, "until": "decided", "max_sequences": 30}
    assert repeats.settings["looks"] == 4
    metric = repeats.metrics["previous_token_max"]
    half = st.student_t(3, confidence=1 - 0.05 / 4) * metric.stderr
    assert metric.ci_low <= max(0, metric.value - half) + 1e-12


def test_an_open_gate_draws_to_the_last_look_and_stays_open(tmp_path, taken, last):
    value = last.metrics["previous_token_max"].value
    record = icl_bench.run([load(tmp_path, f"below: {value}").path], MODEL)
    assert taken[-1] == 30 and taken == [4, 8, 16, 30][-len(taken) :]
    assert record.checks[0].verdict == "inconclusive"
    repeats = record.measurements["mine/repeats"]
    assert repeats.metrics == last.metrics


def test_another_threshold_measures_no_look_again(tmp_path, taken, last, openings):
    value = last.metrics["previous_token_max"].value
    icl_bench.run([load(tmp_path, f"below: {value}").path], MODEL)
    assert taken == [4, 8, 16, 30]
    record = icl_bench.run([load(tmp_path, "above: 0.01").path], MODEL)
    assert taken == [4, 8, 16, 30]
    assert record.measurements["mine/repeats"].settings["sequences"] == 4
    opened = len(openings)
    again = icl_bench.run([load(tmp_path, f"below: {value}").path], MODEL)
    assert again.measurements["mine/repeats"].settings["sequences"] == 30
    assert len(openings) == opened and len(taken) == 4


def test_heads_chosen_from_it_belong_to_its_rules(tmp_path):
    """How far the source goes depends on the checks on it, so what is made of it does too."""

    def digests(rule):
        return {
            key: planned.digest
            for key, planned in make_plan([load(tmp_path, rule)]).measurements.items()
        }

    low, high = digests("above: 0.01"), digests("above: 0.8")
    assert low["mine/collapse"] != high["mine/collapse"]
    looks = make_plan([load(tmp_path, "above: 0.8")]).measurements["mine/repeats"].looks
    others = make_plan([load(tmp_path, "above: 0.01")]).measurements["mine/repeats"].looks
    assert [look.digest for look in looks] == [look.digest for look in others]
    renamed = SUITE.replace("id: c", "id: other")
    assert (
        make_plan([load(tmp_path, "above: 0.01", renamed)]).measurements["mine/repeats"].digest
        == low["mine/repeats"]
    )


def test_ablation_draws_on_as_well(tmp_path, model):
    text = SUITE.replace("null_draws: 0", "null_draws: 0, until: decided, max_sequences: 8")
    settings = ablation.Settings(
        sequences=8, period=12, heads=[[1, 0]], method="zero", null_draws=0, looks=2
    )
    found = ablation.measure(model, settings, Context())
    for name in ("gain", "copying_lost", "loss_ratio", "copy_accuracy_ablated"):
        metric = found.metrics[name]
        narrow = ablation.measure(
            model, settings.model_copy(update={"looks": 1}), Context()
        ).metrics[name]
        assert metric.value == narrow.value
        assert metric.ci_high - metric.ci_low > narrow.ci_high - narrow.ci_low
    record = icl_bench.run([load(tmp_path, text=text).path], MODEL)
    assert record.measurements["mine/collapse"].settings["looks"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("max_sequences: 8", "'max_sequences' is for 'until: decided'"),
        ("until: decided", "'until: decided' needs 'max_sequences'"),
        ("until: decided, max_sequences: 3", "'max_sequences' 3 is below 'sequences' 4"),
        ("until: decided, max_sequences: 8, looks: 2", "leave 'looks' out"),
    ],
)
def test_settings_that_do_not_agree_are_refused(tmp_path, settings, message):
    text = SUITE.replace("until: decided, max_sequences: 30", settings)
    with pytest.raises(SuiteError, match=message):
        load(tmp_path, text=text)


def test_a_null_is_not_drawn_at_every_look(tmp_path):
    text = SUITE.replace("null_draws: 0", "until: decided, max_sequences: 8")
    with pytest.raises(SuiteError, match="set null_draws: 0"):
        load(tmp_path, text=text)
