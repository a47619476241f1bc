"""Probe `attention_attribution`: what makes the chosen heads attend where they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    describe_misfit,
    draw_unseen,
    tell_stream,
)
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.heads.shares import LogitShares

Head = tuple[int, int]


class Settings(SequentialSettings):
    """What a suite may set for the `attention_attribution` probe."""

    sequences: Annotated[int, Field(ge=1)] = 8
    """Number of sequences."""
    heads: HeadSelection | HeadList
    """The heads whose attention is split."""
    rows: Annotated[int, Field(ge=1)] = 20
    """Pairs of components that are listed for each head, the largest first."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""


METRICS: dict[str, MetricInfo] = {
    "receivers": MetricInfo("number of heads whose attention is split", None, "heads", True),
    "logit_difference": MetricInfo(
        "attention logit of the induction target minus the mean over the query's other visible "
        "keys, mean over heads",
        "up",
        "logits",
    ),
    "key_previous_token": MetricInfo(
        "share of it whose key side was written by the head below with the highest "
        "previous-token score",
        "up",
        "ratio",
    ),
    "previous_token_embedding": MetricInfo(
        "share of it with that head on the key side and the embedding on the query side",
        "up",
        "ratio",
    ),
    "previous_token_match": MetricInfo(
        "share of it with that head on the key side and the token state (embedding and first MLP) "
        "on the query side",
        "up",
        "ratio",
    ),
    "key_heads": MetricInfo("share whose key side was written by any head", None, "ratio"),
    "key_head_max": MetricInfo(
        "share of the largest head on the key side, chosen and read on different sequences",
        None,
        "ratio",
    ),
    "key_head_previous_token": MetricInfo(
        "previous-token score of that head", "up", "probability", bounds=UNIT
    ),
    "key_embedding": MetricInfo("share whose key side is the embedding", None, "ratio"),
    "key_mlps": MetricInfo(
        "share whose key side was written by MLPs, or by layers without heads", None, "ratio"
    ),
    "key_bias": MetricInfo("share whose key side is a bias", None, "ratio"),
    "query_heads": MetricInfo("share whose query side was written by any head", None, "ratio"),
    "query_head_max": MetricInfo(
        "share of the largest head on the query side, chosen and read on different sequences",
        None,
        "ratio",
    ),
    "query_embedding": MetricInfo("share whose query side is the embedding", "up", "ratio"),
    "query_token_state": MetricInfo(
        "share whose query side is the token state: embedding and first MLP", "up", "ratio"
    ),
    "query_mlps": MetricInfo(
        "share whose query side was written by MLPs, or by layers without heads", None, "ratio"
    ),
    "query_bias": MetricInfo("share whose query side is a bias", None, "ratio"),
    "mask_share": MetricInfo("share that the mask adds (ALiBi)", None, "ratio"),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Split the chosen heads' logits on sequences that these heads were not chosen on.

    Args:
        model: the model.
        settings: which heads, and how.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads, or their queries and keys are not the sum
            of parts that are known.
        MeasurementError: a head does not exist, or the sequences do not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.models.attention.partial_forward import require_partial_forward
    from icl_bench.models.circuits.attention_attribution import attribute_attention
    from icl_bench.probes.heads.shares import LogitShares

    require_partial_forward(model)
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    result = Measurement(
        probe="attention_attribution",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        tokens_sha256=tk.digest_tokens(tokens.input_ids),
        metrics={"receivers": st.exact_metric(len(chosen))},
    )
    if not chosen:
        result.reason = describe_misfit(settings.heads) or "no head is chosen"
        result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), result.reason)
        return result
    found = model.head_scores(tokens.input_ids, {"previous": tk.previous_token_pairs(tokens)})
    layers = found["previous"]
    previous = np.concatenate([layers[layer].double().numpy() for layer in model.heads], 1)
    rows = settings.sequences * len({layer for layer, _ in chosen})
    with context.task("what makes heads attend", rows) as advance:
        split = attribute_attention(
            model, tokens.input_ids, tk.induction_pairs(tokens), chosen, advance=advance
        )
    shares = LogitShares(split, model.every_head, previous)
    result.tables["attention_attribution"] = [
        row for part in split for row in shares.pair_rows(part, settings.rows)
    ]
    result.tables["attention_sides"] = [row for part in split for row in shares.side_rows(part)]
    _summarize(result, shares, settings.confidence)
    return result


def _summarize(result: Measurement, shares: LogitShares, confidence: float) -> None:
    from icl_bench.measures import statistics as st
    from icl_bench.probes.heads.shares import is_token_state

    whole = st.mean_metric(shares.total, confidence=confidence)
    result.metrics["logit_difference"] = whole
    low = whole.value if whole.ci_low is None else whole.ci_low
    if low <= 0:
        why = f"the targets' logits ({whole.value:+.2g}) are not surely above those of other keys"
        result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), why)
        return
    parts: dict[str, Any] = {"mask_share": shares.mask, "query_token_state": shares.of_token()}
    for side in ("key", "query"):
        kinds = {"heads": ("head",), "mlps": ("mlp", "layer"), "bias": ("bias",)}
        for name, some in (kinds | {"embedding": ("embedding",)}).items():
            parts[f"{side}_{name}"] = shares.of_kinds(side, some)
    if shares.below:
        for side in ("key", "query"):
            parts[f"{side}_head_max"] = st.cross_fitted_max(shares.of_heads(side))
        parts["key_previous_token"] = shares.of_previous_token()
        raw = shares.of_previous_token(lambda source: source.kind == "embedding")
        parts["previous_token_embedding"] = raw
        parts["previous_token_match"] = shares.of_previous_token(is_token_state)
        scores = shares.previous[:, shares.below]
        result.metrics["key_head_previous_token"] = st.best_metric(
            scores, shares.of_heads("key"), bounds=UNIT, confidence=confidence
        )
    for name, part in parts.items():
        result.metrics[name] = st.share_metric(part, shares.total, confidence=confidence)
    for side in ("key", "query") if shares.below else ():
        best = f"{side}_head_max"
        result.metrics[best] = st.widen(result.metrics[best], st.tie_width(shares.of_heads(side)))
    lacking = METRICS.keys() - result.metrics.keys()
    result.unmeasured = dict.fromkeys(lacking, "no head lies below the chosen ones")


PROBE = Probe("attention_attribution", Settings, METRICS, measure)
