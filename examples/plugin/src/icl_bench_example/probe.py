"""Probe `attention_entropy`: how widely each head spreads its attention on repeated tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icl_bench.probes import MetricInfo
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.records.blocks import Block, HeadGrid, Text
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model


class Settings(StrictSettings):
    """What a suite may set for the probe."""

    sequences: int = 8
    """Number of sequences."""
    period: int = 20
    """Length of the block that is repeated once."""
    seed: int = 0
    """Seed of the tokens."""


METRICS = {
    "entropy_mean": MetricInfo("mean entropy of attention over all heads", None, "nats"),
    "entropy_min": MetricInfo("mean entropy of the head with the lowest", None, "nats"),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Return the entropy of every head's attention, the mean over the positions of a sequence."""
    # What takes long to import is imported here: suites and reports are read without it.
    import torch

    from icl_bench.measures import statistics, tokens

    drawn = tokens.draw_repeated(
        model.vocabulary,
        sequences=settings.sequences,
        period=settings.period,
        repeats=2,
        seed=settings.seed,
        bos=model.choose_bos("auto"),
    )
    length = drawn.input_ids.shape[1]
    model.require_context(length)
    query, key = torch.tril_indices(length, length)
    pairs = {"pattern": tokens.Pairs(query, key)}
    with context.task("attention of every head", settings.sequences) as advance:
        found = model.head_scores(drawn.input_ids, pairs, raw=True, advance=advance)["pattern"]
    # (sequences, heads, pairs): summed over the keys, then the mean over the queries.
    heads = torch.cat([found[layer] for layer in model.heads], dim=1).double()
    entropy = (torch.special.entr(heads).sum(dim=2) / length).numpy()
    mean = entropy.mean(axis=0)
    error = entropy.std(axis=0, ddof=1) / np.sqrt(len(entropy)) if len(entropy) > 1 else None
    rows = [
        {"layer": layer, "head": head, "entropy": mean[place]}
        | ({} if error is None else {"entropy_stderr": error[place]})
        for place, (layer, head) in enumerate(model.every_head)
    ]
    return Measurement(
        probe="attention_entropy",
        settings=settings.model_dump(),
        tokens_sha256=tokens.digest_tokens(drawn.input_ids),
        metrics={
            "entropy_mean": statistics.mean_metric(entropy.mean(axis=1)),
            "entropy_min": statistics.mean_metric(entropy[:, mean.argmin()]),
        },
        heads=rows,
    )


def report(measurement: Measurement) -> list[Block]:
    """Return what every report shows of a measurement: a sentence, and a grid of heads."""
    lowest = min(measurement.heads, key=lambda row: row["entropy"])
    return [
        Text(
            title="Entropy of attention",
            text=f"Head {lowest['layer']}.{lowest['head']} spreads its attention least.",
        ),
        HeadGrid(
            title="Entropy of each head",
            score="entropy",
            rows=measurement.heads,
            unit="nats",
            note="0: one position gets all attention.",
        ),
    ]
