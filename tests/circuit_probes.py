"""Runs of the probes of circuits on small models."""

from __future__ import annotations

from icl_bench.measures.tokens import draw_repeated
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import induction

PERIOD = 20
SMALL = {"sequences": 4, "period": PERIOD}
RECEIVER = [[1, 0]]
BEST = HeadSelection(**{"from": "repeats"}, top=1)  # type: ignore[arg-type]
ABOVE = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)


def value(measurement, metric):
    return measurement.metrics[metric].value


def run(probe, model, upstream=None, **settings):
    return probe.measure(model, probe.Settings(**SMALL | settings), Context(upstream=upstream))


def scores(model):
    settings = induction.Settings(sequences=4, period=PERIOD, control=False)
    return induction.measure(model, settings, Context())


def held_out(model):
    return draw_repeated(
        model.vocabulary, sequences=4, period=PERIOD, bos=model.bos, stream="test"
    ).input_ids
