"""The probe `phase_change` on training runs whose changes are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from phase_series import STEPS, make_series, rise
from pydantic import ValidationError

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.statistics import mean_metric
from icl_bench.probes.design.context import Context
from icl_bench.probes.training import phase_change
from icl_bench.records.parts import Measurement
from icl_bench.records.steps import Series


def measure(series, **settings):
    given = {"scores": "repeats", "losses": "losses", "null_draws": 99, **settings}
    return phase_change.measure_series(series, phase_change.Settings(**given), Context())


def sudden(**more):
    """Everything changes within half a doubling around step 650."""
    curve = rise(STEPS, 650)
    return make_series(induction=curve, previous_token=curve, copying=curve, **more)


@pytest.fixture(scope="module")
def found():
    return measure(sudden(), by_step=800)


def value(result, name):
    return result.metrics[name].value


def test_a_sudden_change_is_located_and_called_sharp(found):
    assert value(found, "size") == pytest.approx(0.9, abs=0.02)
    midpoint = found.metrics["midpoint_step"]
    assert 640 < midpoint.value < 660 and (midpoint.ci_low, midpoint.ci_high) == (600, 700)
    assert value(found, "onset_step") < midpoint.value < value(found, "end_step")
    assert found.metrics["sharpness"].ci_low > 0.8
    assert value(found, "null_p_value") <= 0.02
    assert value(found, "null_median_sharpness") < value(found, "sharpness")
    assert found.reason is None


def test_losses_say_the_same_without_attention(found):
    assert value(found, "loss_size") == pytest.approx(6, abs=0.1)
    assert found.metrics["loss_sharpness"].ci_low > 0.8
    assert value(found, "loss_null_p_value") <= 0.02
    assert value(found, "loss_step") == pytest.approx(650, rel=0.03)
    for name in ("loss_distance", "icl_distance", "previous_token_distance"):
        metric = found.metrics[name]
        assert metric.ci_low <= 0 <= metric.ci_high and abs(metric.value) < 0.1


def test_the_rise_until_a_step_counts_the_checkpoints_before_it(found):
    at_800 = STEPS.index(800)
    curve = rise(STEPS, 650)
    assert value(found, "size_by_step") == pytest.approx(0.9 * curve[at_800], abs=0.02)
    early = measure(sudden(), by_step=450, null_draws=0)
    assert value(early, "size_by_step") < 0.05
    assert "until step 2" in measure(sudden(), by_step=2, null_draws=0).unmeasured["size_by_step"]
    assert value(measure(sudden(), null_draws=0), "size_by_step") == value(found, "size")
    beyond = measure(sudden(), by_step=10**6, null_draws=0).unmeasured["size_by_step"]
    assert "before step 1000000" in beyond


def test_step_0_is_shown_and_not_fitted(found):
    assert found.tables["curves"][0]["step"] == 0
    assert len(found.tables["curves"]) == len(STEPS)
    assert value(found, "checkpoints") == len(STEPS) - 1


def test_curves_are_means_with_intervals_over_sequences(found):
    series = sudden()
    row = found.tables["curves"][STEPS.index(700)]
    for name, source, metric, bounds in (
        ("induction", "repeats", "induction_max", (0.0, 1.0)),
        ("repeated_loss", "losses", "repeated_loss", None),
    ):
        taken = series.measurements[source][STEPS.index(700)].metrics[metric]
        alone = mean_metric(taken.samples, bounds=bounds)
        assert row[name] == pytest.approx(taken.value)
        assert row[f"{name}_ci_low"] == pytest.approx(alone.ci_low)


def test_every_curve_has_a_row_with_the_checkpoints_around_its_midpoint(found):
    rows = {row["curve"]: row for row in found.tables["changes"]}
    assert set(rows) == {*phase_change.QUANTITIES} - {"text"}
    after, before = (rows["induction"][f"midpoint_{side}"] for side in ("after", "before"))
    assert STEPS.index(before) - STEPS.index(after) == 1
    assert after <= value(found, "midpoint_step") <= before
    assert rows["induction"]["null_p_value"] == value(found, "null_p_value")
    assert "the fall of the loss on the first copy is " in rows["first_loss"]["reason"]


def test_a_model_that_never_changes_has_a_size_and_no_step():
    result = measure(make_series())
    assert abs(value(result, "size")) < 0.02 and abs(value(result, "loss_size")) < 0.1
    assert result.reason.startswith("no phase change: the rise of the induction score is ")
    for name in ("midpoint_step", "sharpness", "null_p_value", "previous_token_distance"):
        assert name not in result.metrics and "no phase change" in result.unmeasured[name]
    assert "the fall of the loss on repeats is " in result.unmeasured["loss_step"]
    named = set(result.metrics) | set(result.unmeasured)
    assert named == set(phase_change.METRICS)


def test_every_metric_is_there_or_has_a_reason(found):
    assert set(found.metrics) | set(found.unmeasured) == set(phase_change.METRICS)
    assert not set(found.metrics) & set(found.unmeasured)


def test_a_gradual_learner_changes_and_is_not_sharp():
    curve = np.log(np.maximum(STEPS, 1)) / math.log(2000)
    result = measure(make_series(induction=curve, previous_token=curve, copying=curve))
    assert result.metrics["sharpness"].ci_high < 0.5
    assert value(result, "null_p_value") > 0.05 and value(result, "loss_null_p_value") > 0.05


def test_a_score_that_grows_in_proportion_to_the_step_is_gradual():
    """Half of it comes in the last doubling; that alone is no phase change."""
    curve = np.array(STEPS) / 2000
    result = measure(make_series(induction=curve, previous_token=curve, copying=curve))
    assert value(result, "sharpness") > 0.4
    assert value(result, "null_p_value") > 0.05


def test_what_comes_first_has_a_distance_above_0():
    series = make_series(
        induction=rise(STEPS, 850), previous_token=rise(STEPS, 425), copying=rise(STEPS, 1000)
    )
    result = measure(series, null_draws=0)
    ahead = result.metrics["previous_token_distance"]
    assert ahead.value == pytest.approx(1, abs=0.1) and ahead.ci_low > 0.7
    assert result.metrics["previous_token_onset_distance"].ci_low > 0.5
    assert value(result, "icl_distance") == pytest.approx(math.log2(850 / 1000), abs=0.1)
    assert value(result, "loss_distance") < 0


def test_heads_that_never_copy_change_without_the_loss():
    """Attention alone moves: the loss-only detector must not follow it."""
    curve = rise(STEPS, 650)
    result = measure(make_series(induction=curve, previous_token=curve), null_draws=0)
    assert "midpoint_step" in result.metrics
    assert "the fall of the loss on repeats" in result.unmeasured["loss_distance"]
    assert "the rise of the gain" in result.unmeasured["icl_distance"]


def smooth_loss(step):
    return 4.5 + 1.5 * math.exp(-step / 150)


def test_a_bump_in_the_training_loss_is_found_and_compared():
    rng = np.random.default_rng(0)
    drop = rise(range(1, 2001), 700, 0.2)
    losses = {
        step: smooth_loss(step) - drop[step - 1] + 0.1 * rng.normal() for step in range(1, 2001)
    }
    result = measure(sudden(training_loss=losses), null_draws=0)
    assert value(result, "training_loss_step") == pytest.approx(700, rel=0.05)
    assert value(result, "training_loss_bump") > 0.4
    distance = result.metrics["training_loss_distance"]
    assert abs(distance.value) < 0.2 and distance.ci_low < distance.value < distance.ci_high
    points = result.tables["training_loss"]
    assert 50 < len(points) <= phase_change.THINNED
    assert points[-1]["loss"] == pytest.approx(3.5, abs=0.1)


def test_a_convex_training_loss_has_no_bump():
    rng = np.random.default_rng(0)
    losses = {step: smooth_loss(step) + 0.1 * rng.normal() for step in range(1, 2001)}
    result = measure(sudden(training_loss=losses), null_draws=0)
    assert "has no bump" in result.unmeasured["training_loss_step"]
    assert value(result, "training_loss_bump") < 0.2
    few = measure(sudden(training_loss={1: 6.0, 2: 5.0}), null_draws=0)
    assert "needs 12 recorded" in few.unmeasured["training_loss_bump"]


def test_text_is_one_more_curve():
    curve = rise(STEPS, 650)
    series = make_series(induction=curve, previous_token=curve, copying=curve, text=curve)
    result = measure(series, text="text", null_draws=0)
    assert value(result, "text_size") == pytest.approx(1, abs=0.02)
    assert abs(value(result, "text_distance")) < 0.1
    assert result.settings["text"] == "text"
    skipped = Measurement(probe="icl_score", status="skipped", reason="there is no tokenizer")
    lost = {**series.measurements, "text": (skipped,) * len(series.steps)}
    without = measure(dataclasses.replace(series, measurements=lost), text="text", null_draws=0)
    assert without.status == "measured" and value(without, "size") == value(result, "size")
    assert without.unmeasured["text_size"] == "text: there is no tokenizer"


def test_few_checkpoints_are_not_compared_with_gradual_curves():
    steps = (0, 100, 600, 700, 2000)
    curve = rise(steps, 650)
    result = measure(make_series(steps=steps, induction=curve, previous_token=curve, copying=curve))
    assert "8 checkpoints" in result.unmeasured["null_p_value"]
    assert value(result, "checkpoints") == 4
    assert result.metrics["midpoint_step"].ci_low == 600


def test_one_checkpoint_is_no_series():
    with pytest.raises(NotMeasurable, match="two checkpoints or more, from step 1 on"):
        measure(make_series(steps=(0, 100)))


def test_without_controls_there_is_no_excess():
    series = sudden()
    taken = tuple(
        one.model_copy(
            update={
                "metrics": {k: v for k, v in one.metrics.items() if k != "induction_excess_max"}
            }
        )
        for one in series.measurements["repeats"]
    )
    series = dataclasses.replace(series, measurements={**series.measurements, "repeats": taken})
    result = measure(series, null_draws=0)
    assert result.unmeasured["excess_size"] == "the source of 'scores' has no controls"
    assert "midpoint_step" in result.metrics


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, MeasurementError, "'scores: repeats' names no measurement"),
        ({"probe": "sweep"}, MeasurementError, "needs a measurement of the probe 'induction'"),
        ({"status": "skipped", "reason": "no heads"}, NotMeasurable, "repeats: no heads"),
        ({"status": "error", "reason": "broke"}, MeasurementError, "repeats at step 0: broke"),
        ({"tokens_sha256": "b"}, MeasurementError, "not measured on the same tokens"),
        ({"metrics": {}}, MeasurementError, "no samples of induction_max"),
    ],
)
def test_sources_that_cannot_be_read_are_named(change, error, message):
    series = sudden()
    first, *rest = series.measurements["repeats"]
    taken = {"losses": series.measurements["losses"]}
    if change:
        taken["repeats"] = (first.model_copy(update=change), *rest)
    with pytest.raises(error, match=message):
        measure(Series(series.steps, taken), null_draws=0)


def test_settings_name_their_sources():
    settings = phase_change.Settings(scores="a", losses="b")
    assert settings.sources == {"scores": "a", "losses": "b"}
    assert phase_change.Settings(scores="a", losses="b", text="c").sources["text"] == "c"
    with pytest.raises(ValidationError):
        phase_change.Settings(scores="a")


def test_the_same_series_gives_the_same_numbers(found):
    assert measure(sudden(), by_step=800) == found
    assert isinstance(found, Measurement)
