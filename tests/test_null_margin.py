"""The margin of the chosen heads' damage over that of other heads, beside plain recomputation."""

from __future__ import annotations

import math

import families
import numpy as np
import pytest
from handset import add_induction, blank, textbook
from scipy import stats

import icl_bench
from icl_bench.measures.null import disjoint_sets
from icl_bench.measures.tokens import draw_repeated
from icl_bench.measures.varied import draw_varied
from icl_bench.probes.ablations import ablation
from icl_bench.probes.ablations.margins import FIRST_LOOK, measure_margins
from icl_bench.probes.ablations.null_margin import EDGES, MARGIN_METRICS
from icl_bench.probes.design.context import Context
from icl_bench.records.parts import Measurement

SEQUENCES, PERIOD = 9, 12


def measure(model, heads, upstream=None, **settings):
    given = {"sequences": SEQUENCES, "period": PERIOD, "method": "zero", "heads": heads}
    context = Context(upstream=upstream)
    return ablation.measure(model, ablation.Settings(**{**given, **settings}), context)


def scored(*previous):
    """Return a measurement in which these heads attend to the token before."""
    rows = [
        {"layer": layer, "head": head, "induction": 0.0, "previous_token": float(on)}
        for layer in (0, 1)
        for head in range(4)
        for on in [(layer, head) in previous]
    ]
    return Measurement(probe="induction", settings={}, heads=rows)


def draw(model):
    return draw_varied(
        model.vocabulary, sequences=SEQUENCES, period=PERIOD, bos=model.bos, stream="varied_test"
    )


def loss_of_second(varied, nll):
    """Mean loss of a block's tokens but the first when it comes again, one sequence at a time."""
    means = []
    for row, second, block in zip(nll.tolist(), varied.second, varied.block):
        places = [varied.prefix + second + k for k in range(1, block)]
        means.append(sum(row[place - 1] for place in places) / len(places))
    return np.array(means)


def slow_margins(model, heads, sets):
    """Return the margin over each set, shares of the gain, (sets, sequences)."""
    varied = draw(model)
    clean = icl_bench.token_losses(model, varied.input_ids).double()
    second, first = loss_of_second(varied, clean), []
    for row, start, block in zip(clean.tolist(), varied.first, varied.block):
        places = [varied.prefix + start + k for k in range(1, block)]
        first.append(sum(row[place - 1] for place in places) / len(places))
    gain = (np.array(first) - second).mean()

    def rise(some):
        off = icl_bench.token_losses(model, varied.input_ids, ablate=some, method="zero")
        return loss_of_second(varied, off.double()) - second

    chosen = rise(heads)
    return np.array([(chosen - rise(some)) / gain for some in sets])


def end(values, side, confidence):
    """One end of the interval: the wider of Student's t and of Hall's, by their formulas."""
    n, tail = len(values), 1 - confidence
    stderr = values.std(ddof=1) / math.sqrt(n)
    skewness = stats.skew(values, bias=False) / math.sqrt(n)
    student = stats.t.ppf(1 - tail / 2, n - 1)
    quantile = -side * stats.t.ppf(1 - 0.4 * tail, n - 1)
    # The lower end is the mean minus what undoes the upper quantile, and the other way round.
    undone = 3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1)
    return values.mean() + side * stderr * max(student, -side * undone)


def heads_of(row):
    return [tuple(map(int, one.split("."))) for one in row["heads"].split(", ")]


@pytest.mark.parametrize("feeders", [[], [(1, 1)]])
def test_margins_are_those_of_one_ablation_after_the_other(feeders):
    model = icl_bench.load_model("builtin:induction-2l")
    found = measure(model, [[1, 0], [1, 2]], scored(*feeders))
    rows = found.tables["null_margins"]
    plain = [row for row in rows if not row["note"]]
    expected = slow_margins(model, [(1, 0), (1, 2)], [heads_of(row) for row in rows])
    for row, values in zip(rows, expected):
        seen = values[: row["sequences"]]
        assert row["margin"] == pytest.approx(seen.mean(), abs=1e-4)
        # Two looks: each has half of the error; upper ends share it among all sets too.
        assert row["ci_low"] == pytest.approx(end(seen, -1, 0.975), abs=1e-3)
        assert row["ci_high"] == pytest.approx(end(seen, 1, 1 - 0.05 / len(plain) / 2), abs=1e-3)
        assert not row["note"] or row["sequences"] == FIRST_LOOK
    margin, fed = (found.metrics[name] for name in MARGIN_METRICS)
    assert margin.value == min(row["margin"] for row in plain)
    assert margin.ci_low == min(row["ci_low"] for row in plain)
    assert fed.value == min(row["margin"] for row in rows)
    assert [row["note"] for row in rows if set(heads_of(row)) & set(feeders)] == [
        row["note"] for row in rows if row["note"]
    ]
    assert all(heads_of(row)[0] not in [(1, 0), (1, 2)] for row in rows)


def test_margins_are_of_the_gain_at_one_distance_where_others_are_not_measured():
    model = icl_bench.load_model("builtin:induction-2l")
    found = measure(model, [[1, 0]], scored(), varied=False)
    tokens = draw_repeated(
        model.vocabulary, sequences=SEQUENCES, period=PERIOD, bos=model.bos, stream="test"
    )
    later = slice(tokens.prefix + PERIOD, None)

    def losses(some):
        return (
            icl_bench.token_losses(model, tokens.input_ids, ablate=some)[:, later].double().numpy()
        )

    gain = found.metrics["gain"].value
    for row in found.tables["null_margins"]:
        other = tuple(map(int, row["heads"].split(".")))
        margins = (losses([(1, 0)]) - losses([other])).mean(axis=1) / gain
        assert row["margin"] == pytest.approx(margins[: row["sequences"]].mean(), abs=1e-4)


def test_a_head_that_does_nothing_beside_one_that_does_all_fails():
    model = icl_bench.wrap(textbook())
    idle, causal = (measure(model, [[1, head]], scored((0, 0))) for head in (1, 0))
    assert idle.metrics["null_margin"].ci_high < 0
    assert idle.metrics["null_margin"].value == pytest.approx(-1, abs=0.05)
    assert idle.metrics["null_margin"].n == FIRST_LOOK
    assert causal.metrics["null_margin"].ci_low > 0.9


@pytest.mark.parametrize("write", [0.0, -0.1])
def test_a_second_head_that_attends_alike_does_no_harm(write):
    built = textbook()
    add_induction(built, index=1, write=write)
    found = measure(icl_bench.wrap(built), [[1, 0], [1, 1]], scored((0, 0)))
    assert found.metrics["null_margin"].ci_low > 0


# The looks, on given damages.


class Rises:
    """Damages of sets, and what was asked of them."""

    def __init__(self, values):
        self.values, self.asked = np.array(values, dtype=float), []

    def __call__(self, numbers, start, stop):
        self.asked.append((list(numbers), start, stop))
        return self.values[numbers, start:stop]


def noisy(mean, spread, sequences=20, seed=0):
    return mean + spread * np.random.default_rng(seed).standard_normal(sequences)


def test_a_set_that_is_decided_is_not_measured_again():
    rises = Rises([noisy(0, 0.01), noisy(0.85, 0.2, seed=1), noisy(0.1, 0.01, seed=2)])
    found = measure_margins(np.full(20, 1.0), 1.0, 3, rises)
    assert rises.asked == [([0, 1, 2], 0, 6), ([1], 6, 20)]
    assert [len(one.margins) for one in found.sets] == [6, 20, 6]
    worst = found.metric()
    assert (worst.value, worst.n) == (pytest.approx(1 - rises.values[1].mean()), 20)


def test_an_upper_end_below_0_ends_the_comparison():
    rises = Rises([noisy(0, 0.01), noisy(0.99, 0.05), noisy(2, 0.01)])
    found = measure_margins(np.full(20, 1.0), 1.0, 3, rises)
    assert rises.asked == [([0, 1, 2], 0, 6)]
    assert found.metric().ci_high < 0


def test_few_sequences_are_looked_at_once_and_a_single_one_has_no_interval():
    rises = Rises(np.zeros((2, 1)))
    single = measure_margins(np.full(1, 0.5), 2.0, 2, rises).metric()
    assert (single.value, single.ci_low, single.n) == (0.25, None, 1)
    rises = Rises([noisy(0, 0.2, 6), noisy(0.9, 0.3, 6)])
    found = measure_margins(np.full(6, 1.0), 1.0, 2, rises)
    assert rises.asked == [([0, 1], 0, 6)] and found.low_confidence == pytest.approx(0.95)
    assert found.high_confidence == pytest.approx(1 - 0.05 / 2)


# Where there is nothing to compare with, or nothing to compare.


def test_no_other_heads_and_the_edges_are_compared():
    model = icl_bench.wrap(textbook(heads=1))
    found = measure(model, [[1, 0]], scored((0, 0)), sequences=6)
    margin = found.metrics["null_margin"]
    assert margin.ci_low > 0.5 and "no other heads" in found.remarks["null_margin"]
    assert "no other heads" in found.unmeasured["null_margin_fed"]
    named = [row["heads"] for row in found.tables["null_margins"]]
    assert named == [f"edges at offset {offset}" for offset in EDGES]
    varied = draw_varied(
        model.vocabulary, sequences=6, period=PERIOD, bos=model.bos, stream="varied_test"
    )
    gain = found.metrics["gain_varied"].value
    for row, other in zip(found.tables["null_margins"], EDGES):
        margins = []
        for at in range(6):
            one = varied.rows(at, at + 1)
            losses = [
                loss_of_second(
                    one,
                    icl_bench.token_losses(
                        model,
                        one.input_ids,
                        ablate=[(1, 0)],
                        method="edge_knockout",
                        edges=[
                            (one.prefix + s + k, one.prefix + f + k + offset)
                            for s, f, block in zip(one.second, one.first, one.block)
                            for k in range(block)
                        ],
                    ).double(),
                )[0]
                for offset in (1, other)
            ]
            margins.append((losses[0] - losses[1]) / gain)
        assert row["margin"] == pytest.approx(np.mean(margins), abs=1e-3)


def test_neither_other_heads_nor_edges_is_said_with_both_reasons():
    model = icl_bench.wrap(families.build("bloom"))
    found = measure(model, [[layer, head] for layer in range(3) for head in range(4)], sequences=3)
    assert found.metrics["gain"].value > 0, "these weights gain a little by chance"
    why = found.unmeasured["null_margin"]
    assert "no other heads" in why and "single edges cannot be removed" in why


def test_without_a_gain_there_is_no_share_of_it():
    found = measure(icl_bench.wrap(blank()), [[1, 0]], scored(), sequences=3)
    assert all("gains nothing" in found.unmeasured[name] for name in MARGIN_METRICS)


def test_no_sets_are_wanted():
    model = icl_bench.wrap(textbook())
    found = measure(model, [[1, 0]], scored((0, 0)), sequences=3, null_sets=0)
    assert all("null_sets: 0" in found.unmeasured[name] for name in MARGIN_METRICS)
    assert not {"null_margins", "thresholds"} & found.tables.keys()


def test_heads_of_near_layers_come_in_without_those_that_feed():
    model = icl_bench.wrap(textbook(heads=2, layers=4))
    found = measure(model, [[1, 0]], scored((0, 0)), sequences=3)
    sets = disjoint_sets([(1, 0)], model.heads, 19, without=[(0, 0)])
    rows = found.tables["null_margins"]
    assert [row["heads"] for row in rows if not row["note"]] == [
        f"{layer}.{head}" for ((layer, head),) in sets.sets
    ]
    assert [row["heads"] for row in rows if row["note"]] == ["0.0"]
    assert sets.radius and f"up to {sets.radius} layers away" in (found.reason or "")


def test_heads_that_feed_are_counted_apart():
    built = textbook(heads=5)
    # As a head of another layer would, it does all: without what it feeds nothing is copied.
    add_induction(built, index=1)
    found = measure(icl_bench.wrap(built), [[1, 0]], scored((0, 0), (1, 1)))
    notes = {row["heads"]: row["note"] for row in found.tables["null_margins"]}
    assert notes == {"1.2": "", "1.3": "", "1.4": "", "1.1": "feeds them"}
    rows = {row["heads"]: row["margin"] for row in found.tables["null_margins"]}
    assert found.metrics["null_margin"].value == min(rows[f"1.{head}"] for head in (2, 3, 4))
    assert found.metrics["null_margin_fed"].value == rows["1.1"] < min(rows["1.2"], rows["1.3"])


def test_scores_are_taken_where_no_measurement_has_them():
    found = measure(icl_bench.wrap(textbook(heads=1)), [[1, 0]], sequences=3)
    assert "no other heads" in found.remarks["null_margin"]


def test_heads_that_copy_a_little_are_shown_with_their_scores():
    upstream = scored((0, 0))
    upstream.heads[6]["induction"] = 0.21
    found = measure(icl_bench.wrap(textbook()), [[1, 0]], upstream, sequences=3)
    told = {row["heads"]: row["scores"] for row in found.tables["null_margins"]}
    assert told == {"1.1": "", "1.2": "1.2 0.21", "1.3": ""}
