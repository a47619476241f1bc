"""The probe `losses`: the loss on random tokens, the first time and when they come again."""

from __future__ import annotations

import math

import pytest
import torch

import icl_bench
from icl_bench.errors import MeasurementError
from icl_bench.measures.tokens import draw_repeated
from icl_bench.measures.varied import draw_varied
from icl_bench.probes.ablations import losses
from icl_bench.probes.design.context import Context
from icl_bench.reference.handwired import handwired


def measure(model, **settings):
    given = {"sequences": 4, "period": 12, **settings}
    return losses.measure(model, losses.Settings(**given), Context())


def slow(model, sequences, period, repeats):
    """Every metric of every sequence, one target at a time."""
    bos = model.bos
    ids = draw_repeated(
        model.vocabulary,
        sequences=sequences,
        period=period,
        repeats=repeats,
        bos=bos,
        stream="test",
    ).input_ids
    shift = 0 if bos is None else 1
    table = {name: [] for name in losses.METRICS if name not in ("gain_varied", "order_share")}
    for row in ids:
        with torch.no_grad():
            logits = model.model(row[None]).logits[0].double()
        loss, right = {}, {}
        for target in range(1, period * repeats):
            place = shift + target
            loss[target] = float(-logits[place - 1].log_softmax(-1)[row[place]])
            right[target] = float(logits[place - 1].argmax() == row[place])
        first = [loss[t] for t in range(1, period)]
        later = [t for t in range(period, period * repeats) if t != period]
        last = [loss[t] for t in later if t >= period * (repeats - 1)]
        table["first_loss"].append(sum(first) / len(first))
        table["repeated_loss"].append(sum(loss[t] for t in later) / len(later))
        table["gain"].append(table["first_loss"][-1] - table["repeated_loss"][-1])
        capped = min(table["first_loss"][-1], math.log(logits.shape[-1]))
        table["gain_below_uniform"].append(capped - table["repeated_loss"][-1])
        table["icl_score"].append(sum(last) / len(last) - table["first_loss"][-1])
        table["copy_accuracy"].append(sum(right[t] for t in later) / len(later))
    return table


@pytest.mark.parametrize("spec", ["builtin:induction-2l", "builtin:control-1l"])
@pytest.mark.parametrize("repeats", [2, 3])
def test_losses_are_those_of_one_target_after_the_other(spec, repeats):
    model = icl_bench.load_model(spec)
    result = measure(model, repeats=repeats)
    for name, samples in slow(model, 4, 12, repeats).items():
        assert result.metrics[name].samples == pytest.approx(samples, abs=1e-4), name


def loss_at(model, row, place):
    """Loss of the token at one physical position, the sequence cut off before it."""
    with torch.no_grad():
        logits = model.model(row[None, :place]).logits[0, -1].double()
    return float(-logits.log_softmax(-1)[row[place]])


@pytest.mark.parametrize("spec", ["builtin:induction-2l", "builtin:control-1l"])
def test_varied_distance_and_order_are_those_of_one_target_after_the_other(spec):
    model = icl_bench.load_model(spec)
    result = measure(model)
    varied = draw_varied(
        model.vocabulary, sequences=4, period=12, bos=model.bos, stream="varied_test"
    )
    shuffled = varied.reorder(0)
    gains, by_order = [], []
    for row, other, first, second, block in zip(
        varied.input_ids, shuffled, varied.first, varied.second, varied.block
    ):
        means = [
            sum(loss_at(model, ids, varied.prefix + start + k) for k in range(1, block))
            / (block - 1)
            for ids, start in ((row, first), (row, second), (other, second))
        ]
        gains.append(means[0] - means[1])
        by_order.append(min(means[2], means[0]) - means[1])
    assert result.metrics["gain_varied"].samples == pytest.approx(gains, abs=1e-4)
    share = sum(by_order) / sum(gains)
    assert result.metrics["order_share"].value == pytest.approx(share, abs=1e-4)


def test_the_table_has_the_loss_at_every_position():
    result = measure(icl_bench.load_model("builtin:handwired"))
    rows = result.tables["positions"]
    assert [row["position"] for row in rows] == list(range(1, 24))
    assert [row["copy"] for row in rows] == [1] * 11 + [2] * 12
    # The first token of the second copy cannot be predicted, all others can.
    losses_by_position = [row["loss"] for row in rows]
    assert losses_by_position[:12] == pytest.approx([math.log(400)] * 12, abs=0.02)
    assert max(losses_by_position[12:]) < 0.02
    assert "loss_stderr" in rows[0]
    assert (
        "loss_stderr"
        not in measure(icl_bench.load_model("builtin:handwired"), sequences=1).tables["positions"][
            0
        ]
    )


def test_a_model_without_the_circuit_gains_nothing():
    with_circuit = measure(icl_bench.load_model("builtin:handwired"))
    without = measure(icl_bench.wrap(handwired(previous_token=False)))
    assert with_circuit.metrics["gain"].ci_low > 5
    assert with_circuit.metrics["icl_score"].ci_high < -5
    assert abs(without.metrics["gain"].value) < 0.1
    assert (
        without.metrics["copy_accuracy"].value < 0.3 < with_circuit.metrics["copy_accuracy"].value
    )


def test_sequences_that_do_not_fit_are_an_error():
    with pytest.raises(MeasurementError, match="does not fit into the model's context"):
        measure(icl_bench.load_model("builtin:induction-2l"), period=200)
