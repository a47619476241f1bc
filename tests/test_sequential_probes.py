"""`until: decided` of every probe that draws samples: a look finds what a plain run finds."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats
from slow_intervals import ends, reach

import icl_bench
from icl_bench.errors import SuiteError
from icl_bench.measures.cross_fitting import TIE_WIDTH
from icl_bench.probes import get_probe
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import NOT_SEQUENTIAL
from icl_bench.probes.heads import offset_profile
from icl_bench.probes.texts import fuzzy, icl_score
from icl_bench.reference.words import SPECIALS, WORDS
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan
from icl_bench.tasks import load_fuzzy_items

MODEL = "builtin:induction-2l"
HEADS = "heads: [[1, 0], [1, 2]]"
DRAWN = {
    "induction": ("control: false", "previous_token_max"),
    "losses": ("repeats: 2", "gain"),
    "ablation": (f"{HEADS}, null_sets: 0", "copying_lost"),
    "logit_attribution": (HEADS, "selected_logit"),
    "attention_attribution": (HEADS, "logit_difference"),
    "offset_profile": ("heads: [[1, 0]]", "height_at_one"),
    "composition": (f"{HEADS}, senders: [[0, 0], [0, 1]]", "key_drop"),
    "copying": (HEADS, "ov_behaviour_mean"),
    "sweep": ("method: mean", "delta_median"),
}
"""Probe that draws sequences -> settings, and a metric to put a gate on."""


def load(folder, measure, checks=""):
    path = folder / "mine.yaml"
    head = f"icl_suite: 1\nname: mine\nmeasure: {{{measure}}}"
    quiz = "quiz: [{id: q, prompt: a, choices: [' b', ' c'], answer: ' b'}]"
    path.write_text(f"{head}\nchecks: [{checks}]\n{'' if checks else quiz}\n")
    return load_suite(path)


def measure(model, suite, name="m", upstream=None, **more):
    """Measure plainly what a suite would measure by looks."""
    spec = suite.measure[name]
    settings = spec.settings.model_copy(update={"until": None, spec.settings.budget: None, **more})
    return get_probe(spec.probe).measure(model, settings, Context(upstream))


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model(MODEL)


def same(one, other):
    assert one.metrics.keys() == other.metrics.keys() and one.unmeasured == other.unmeasured
    assert one.tokens_sha256 == other.tokens_sha256 and one.heads == other.heads
    for name, metric in one.metrics.items():
        plain = other.metrics[name]
        assert metric.value == pytest.approx(plain.value, abs=1e-6), name
        if metric.samples:
            assert metric.samples == pytest.approx(plain.samples, abs=1e-6), name


@pytest.mark.parametrize("probe", DRAWN)
def test_what_the_last_look_finds_is_what_as_many_sequences_give(tmp_path, model, probe):
    settings, metric = DRAWN[probe]
    drawn = f"m: {{probe: {probe}, period: 8, sequences: 3, {settings}"
    drawn = f"{drawn}, until: decided, max_sequences: 7}}"
    plain = {n: measure(model, load(tmp_path, drawn), sequences=n) for n in (3, 6, 7)}
    # A gate at what a look finds is one that it cannot decide; a side that 7 could show at best.
    side = "below" if get_probe(probe).metrics[metric].bounds == (0, 1) else "above"
    gates = [
        f"{{id: c{n}, on: m, metric: {metric}, {side}: {found.metrics[metric].value}}}"
        for n, found in plain.items()
    ]
    record = icl_bench.run([load(tmp_path, drawn, ", ".join(gates)).path], MODEL)
    last = record.measurements["mine/m"]
    assert last.settings["sequences"] == 7 and last.settings["looks"] == 3
    assert (last.settings["until"], last.settings["max_sequences"]) == ("decided", 7)
    assert record.checks[2].verdict == "inconclusive"
    low = plain[3].metrics[metric].value - 1000
    rule = f"{{id: c, on: m, metric: {metric}, above: {low}}}"
    first = icl_bench.run([load(tmp_path, drawn, rule).path], MODEL)
    assert first.measurements["mine/m"].settings["sequences"] == 3
    assert first.checks[0].verdict == "pass"
    for look, whole in ((last, plain[7]), (first.measurements["mine/m"], plain[3])):
        if probe == "induction":
            # The intervals in its rows are those of a look.
            for row in [*look.heads, *whole.heads]:
                row.pop("induction_ci_low"), row.pop("induction_ci_high")
        same(look, whole)


@pytest.mark.parametrize("probe", DRAWN)
def test_every_interval_of_a_look_is_the_rules(tmp_path, model, probe):
    """Means are recomputed from their samples; all others are wider than with one look."""
    settings, _ = DRAWN[probe]
    suite = load(tmp_path, f"m: {{probe: {probe}, period: 8, sequences: 6, {settings}}}")
    plain, look = measure(model, suite), measure(model, suite, looks=4)
    info = get_probe(probe).metrics
    checked = 0
    for name, metric in look.metrics.items():
        one = plain.metrics[name]
        if metric.exact:
            assert info[name].exact or metric == one
            continue
        assert metric.value == one.value and metric.stderr == one.stderr
        if metric.samples:
            low, high = ends(metric.samples, 1 - 0.05 / 4, info[name].bounds)
            if name == "loss_ratio":  # Its interval is that of its logarithm.
                below, above = reach([one / metric.value for one in metric.samples], 1 - 0.05 / 4)
                low, high = metric.value * np.exp(-below), metric.value * np.exp(above)
            # Where a second head may be as good as the best one, all is as much wider.
            width = metric.stderr / stats.sem(metric.samples) if metric.stderr else 1.0
            assert width == pytest.approx(1) or width == pytest.approx(TIE_WIDTH), name
            least, most = info[name].bounds or (-np.inf, np.inf)
            low = max(metric.value - width * (metric.value - low), least)
            high = min(metric.value + width * (high - metric.value), most)
            assert (metric.ci_low, metric.ci_high) == pytest.approx((low, high), abs=1e-6), name
            checked += 1
        else:
            assert metric.ci_low <= one.ci_low and metric.ci_high >= one.ci_high, name
            if metric.stderr:
                assert metric.ci_high - metric.ci_low > one.ci_high - one.ci_low, name
    assert checked


def test_the_place_of_a_peak_is_surer_than_a_look_alone_would_have_it():
    rng = np.random.default_rng(3)
    profile = rng.normal([0.4, 0.5, 0.48, 0.1], 0.15, (24, 4))
    found = offset_profile.locate_peak(profile, [0, 1, 2, 3], 1 - 0.05 / 4)
    best = int(profile.mean(0).argmax())
    kept = [best]
    for offset in {*range(4)} - {best}:
        behind = [float(row[best] - row[offset]) for row in profile]
        if ends(behind, 1 - 0.05 / 4 / 3, (-1.0, 1.0))[0] <= 0:
            kept.append(offset)
    assert (found.value, found.ci_low, found.ci_high) == (best, min(kept), max(kept))
    assert len(kept) > 1


def test_a_model_that_cannot_copy_fails_at_once(tmp_path):
    drawn = "m: {probe: losses, period: 12, sequences: 16, until: decided, max_sequences: 128}"
    suite = load(tmp_path, drawn, "{id: c, on: m, metric: copy_accuracy, above: 0.5}")
    verdicts = {}
    for spec in (MODEL, "builtin:control-1l"):
        record = icl_bench.run([suite.path], spec)
        assert record.measurements["mine/m"].settings["sequences"] == 16
        verdicts[spec] = record.checks[0].verdict
    assert verdicts == {MODEL: "pass", "builtin:control-1l": "fail"}


# Pools: documents and items.


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Eleven documents; the later they are in the text, the more they repeat."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    for number in range(11):
        block = rng.sample(WORDS[len(SPECIALS) :], 100 - 8 * number)
        (folder / f"{number:02}.txt").write_text(" ".join((block * 20)[:150]), encoding="utf-8")
    return folder


def documents(text, more):
    return f"m: {{probe: icl_score, text: {text}, window: 128, {more}}}"


GROWING = "order: random, documents: 3, until: decided, max_documents: {most}"


def test_documents_are_taken_in_a_random_order_of_the_seed(tmp_path, model, text):
    suite = load(tmp_path, documents(text, "documents: 4"))
    given = measure(model, suite)
    assert [row["document"] for row in given.tables["documents"]] == [
        f"{number:02}.txt" for number in range(4)
    ]
    orders = []
    for seed in (0, 0, 1):
        found = measure(model, suite, order="random", seed=seed, documents=11)
        orders.append([row["document"] for row in found.tables["documents"]])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{number:02}.txt" for number in range(11)]
    some = measure(model, suite, order="random", documents=5)
    assert [row["document"] for row in some.tables["documents"]] == orders[0][:5]


def test_a_random_order_is_uniform():
    """Every document comes first about as often as any other."""
    settings = icl_score.Settings(order="random")
    counts = np.zeros((5, 5))
    for seed in range(2000):
        for place, one in enumerate(settings.arrange(range(5), seed)):
            counts[place, one] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 0.001


@pytest.mark.parametrize("heads", ["", ", heads: [[1, 0]], method: zero"])
def test_a_look_at_documents_is_a_plain_run_of_them(tmp_path, model, text, heads):
    drawn = documents(text, GROWING.format(most=8) + heads)
    metric = "text_delta" if heads else "text_loss"
    plain = measure(model, load(tmp_path, drawn), documents=8)
    rule = f"{{id: c, on: m, metric: {metric}, above: {plain.metrics[metric].value}}}"
    found = icl_bench.run([load(tmp_path, drawn, rule).path], MODEL).measurements["mine/m"]
    assert found.settings["documents"] == 8 and found.settings["max_documents"] == 8
    assert found.settings["looks"] == 3
    same(found, plain)
    for name, one in found.metrics.items():
        if one.samples:
            wanted = ends(one.samples, 1 - 0.05 / 3)
            assert (one.ci_low, one.ci_high) == pytest.approx(wanted, abs=1e-6), name


def test_when_all_documents_are_measured_there_is_no_further_look(tmp_path, model, text):
    drawn = documents(text, GROWING.format(most=48))
    value = measure(model, load(tmp_path, drawn), documents=11).metrics["text_loss"].value
    rule = f"{{id: c, on: m, metric: text_loss, above: {value}}}"
    suite = load(tmp_path, drawn, rule)
    for _ in range(2):  # taken, and kept
        found = icl_bench.run([suite.path], MODEL).measurements["mine/m"]
        assert found.settings["documents"] == 12 and found.metrics["documents"].value == 11
        assert found.settings["looks"] == 5


def test_a_look_at_items_is_a_plain_run_of_them(tmp_path, model):
    drawn = "m: {probe: fuzzy, order: random, items: 61, until: decided, max_items: 122, "
    drawn += "heads: [[1, 0]]}"
    plain = measure(model, load(tmp_path, drawn), items=122)
    rule = f"{{id: c, on: m, metric: exact_effect, above: {plain.metrics['exact_effect'].value}}}"
    found = icl_bench.run([load(tmp_path, drawn, rule).path], MODEL).measurements["mine/m"]
    assert found.settings["items"] == 122 and found.settings["looks"] == 2
    same(found, plain)
    for name, one in found.metrics.items():
        if one.samples and "attention" not in name:
            below, above = reach(one.samples, 0.975)
            assert one.ci_low == pytest.approx(one.value - below, abs=1e-6), name
            assert one.ci_high == pytest.approx(one.value + above, abs=1e-6), name
    share, narrow = found.metrics["fuzzy_share"], plain.metrics["fuzzy_share"]
    assert share.ci_low < narrow.ci_low and share.ci_high > narrow.ci_high
    some = measure(model, load(tmp_path, drawn), items=61)
    words = [row["word"] for row in found.tables["items"]]
    assert [row["word"] for row in some.tables["items"]] == words[: len(some.tables["items"])]
    first = fuzzy.measure(model, fuzzy.Settings(), Context()).tables["items"]
    assert sorted(words) == sorted(row["word"] for row in first) != words


@pytest.mark.parametrize(
    ("measurement", "place", "message"),
    [
        ("probe: fuzzy, items: 8, until: decided, max_items: 16", "3:14", "'order: random'"),
        ("probe: icl_score, until: decided, max_documents: 64", "3:14", "first documents of a"),
        (
            "probe: icl_score, until: decided, max_documents: 64, order: random, null_draws: 9, "
            "heads: [[1, 0]]",
            "3:14",
            "set null_draws: 0",
        ),
        ("probe: fuzzy, until: decided, max_items: 9, order: random", "3:14", "needs 'items'"),
        ("probe: fuzzy, items: 9, until: decided, order: random", "3:14", "needs 'max_items'"),
        (
            "probe: fuzzy, items: 9, until: decided, max_items: 999, order: random",
            "3:14",
            f"above the {len(load_fuzzy_items())} items that exist",
        ),
        ("probe: sweep, exact: false, until: decided, max_sequences: 9", "3:14", "exact sweeps"),
        ("probe: losses, max_sequences: 99", "3:14", "'max_sequences' is for 'until: decided'"),
    ],
)
def test_settings_that_cannot_be_are_one_message(tmp_path, measurement, place, message):
    with pytest.raises(SuiteError, match=message) as caught:
        load(tmp_path, f"m: {{{measurement}}}")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}:{place}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("probe", NOT_SEQUENTIAL)
def test_a_probe_that_cannot_says_why(tmp_path, probe):
    needed = {
        "choice": ", items: [{prompt: a, choices: [b, c], answer: b}]",
        "weight_composition": ", heads: [[1, 0]]",
        "example": ", heads: [[1, 0]]",
        "phase_change": ", scores: s, losses: l}, s: {probe: induction}, l: {probe: losses",
    }.get(probe, "")
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, f"m: {{probe: {probe}, until: decided, max_sequences: 64{needed}}}")
    [line] = str(caught.value).splitlines()
    assert line.endswith(
        f":3:{24 + len(probe)}: 'until' does not go with probe {probe!r}: {NOT_SEQUENTIAL[probe]}"
    )


def test_every_probe_either_can_or_says_why_not():
    from icl_bench.probes import PROBES

    can = {name for name in PROBES if "until" in get_probe(name).settings.model_fields}
    assert can == {*DRAWN, "icl_score", "fuzzy"}
    assert can.isdisjoint(NOT_SEQUENTIAL) and can | NOT_SEQUENTIAL.keys() == PROBES.keys()


def test_looks_are_planned_as_plain_measurements(tmp_path, text):
    suite = load(tmp_path, documents(text, GROWING.format(most=12)))
    planned = make_plan([suite]).measurements["mine/m"]
    assert [look.settings.documents for look in planned.looks] == [3, 6, 12]
    plain = load(tmp_path, documents(text, "order: random, documents: 6, looks: 3"))
    assert make_plan([plain]).measurements["mine/m"].digest == planned.looks[1].digest
    assert math.isclose(planned.looks[1].settings.confidence, 1 - 0.05 / 3)
