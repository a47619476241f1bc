"""Whether the samples of a metric in two records belong together one by one, and why not."""

from __future__ import annotations

from typing import NamedTuple

from icl_bench.probes import known_probe
from icl_bench.records.parts import Measurement, ModelInfo

WITH_TOKENIZER = "a callable may return (model, tokenizer)"
"""What helps a model that has none."""
OTHER_VOCABULARY = "other tokens: another tokenizer or vocabulary"
"""Why metrics are not paired where the ids of one model stand for other text in the other."""


class Unpaired(NamedTuple):
    """Why the samples of two metrics do not belong together.

    Args:
        reason: in words.
        avoidable: whether another baseline or another run would pair; False for metrics that are
            not made of one value per sample.
    """

    reason: str
    avoidable: bool = True


def why_unpaired(
    before: Measurement,
    after: Measurement,
    name: str,
    models: tuple[ModelInfo, ModelInfo],
) -> Unpaired | None:
    """Return why a metric of two measurements is not paired; None where it is.

    Args:
        before: the baseline's measurement.
        after: the one of now.
        name: the metric's name, in both.
        models: the baseline's model and that of now.
    """
    samples = [measured.metrics[name].samples for measured in (before, after)]
    old, new = samples
    if old is None and new is None:
        return _keeps_none(before, after)
    if old is None or new is None:
        return Unpaired(f"no samples in {'the baseline' if old is None else 'this run'}")
    if len(old) != len(new):
        return Unpaired(f"{len(old)} samples, now {len(new)}")
    if len(old) < 2:
        return Unpaired("one sample")
    digests = before.tokens_sha256, after.tokens_sha256
    if None in digests:
        whose = "the baseline" if before.tokens_sha256 is None else "this run"
        return Unpaired(f"{whose} does not say which tokens it used")
    return None if digests[0] == digests[1] else Unpaired(_why_other_tokens(before, after, models))


def _keeps_none(before: Measurement, after: Measurement) -> Unpaired:
    """Neither has samples: by what the metric is, or because they are not in the records."""

    def others(measured: Measurement) -> bool:
        return any(metric.samples for metric in measured.metrics.values())

    probe = known_probe(before.probe)
    by_nature = (probe is not None and probe.is_series) or others(before) or others(after)
    if by_nature:
        return Unpaired("it keeps no value per sample", avoidable=False)
    return Unpaired("no samples in either record")


def _why_other_tokens(
    before: Measurement, after: Measurement, models: tuple[ModelInfo, ModelInfo]
) -> str:
    """What made the tokens others, as far as the records tell."""
    seeds = tuple(measured.settings.get("seed") for measured in (before, after))
    if seeds[0] != seeds[1]:
        return f"other tokens: seed {seeds[0]}, now {seeds[1]}"
    notes = [model.tokenizer_note for model in models]
    if (notes[0] is None) != (notes[1] is None):
        whose = "the baseline" if notes[0] else "this run"
        return f"other tokens: in {whose} {notes[0] or notes[1]}; {WITH_TOKENIZER}"
    if models[0].bos != models[1].bos:
        told = ["none" if model.bos is None else str(model.bos) for model in models]
        return f"other tokens: BOS {told[0]}, now {told[1]}"
    return OTHER_VOCABULARY
