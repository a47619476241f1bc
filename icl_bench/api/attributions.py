"""The Python API of attribution: what logits, and what attention, are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icl_bench.api.arguments import check_model, check_tokens
from icl_bench.api.circuits import check_heads, sequence_error
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.tokens import RepeatedTokens, induction_pairs
from icl_bench.models.model import Model

if TYPE_CHECKING:
    import pandas as pd

MASK = "mask"
"""Stands for both sides in the row of what the mask adds to attention logits (ALiBi)."""


def logit_attribution(model: Model, tokens: RepeatedTokens) -> pd.DataFrame:
    """What each head writes directly towards the correct next token on repeats.

    Args:
        model: the model.
        tokens: repeated sequences.

    Returns:
        one row per head: layer, head, logit (part of the correct token's logit minus the mean over
        the vocabulary, mean over the predictable targets, final norm frozen, before a final
        soft-cap), logit_stderr over sequences (missing for one sequence).

    Raises:
        NotMeasurable: the model has no heads, or parts do not add up to its logits; the message
            says why.
        MeasurementError: the sequences are longer than the model's context.

    Source: Elhage et al. 2021, direct logit attribution.
    """
    import pandas as pd

    from icl_bench.models.circuits.attribution import attribute_logits

    model, tokens = check_model(model), check_tokens(tokens)
    model.require_heads()
    parts = attribute_logits(model, tokens.input_ids, repeated_targets(tokens))
    rows: list[tuple[Any, ...]] = []
    for layer, values in sorted(parts.heads.items()):
        logits = values.double().numpy()
        estimates = zip(logits.mean(0), sequence_error(logits[None])[0])
        rows += [(layer, head, *estimate) for head, estimate in enumerate(estimates)]
    frame = pd.DataFrame(rows, columns=["layer", "head", "logit", "logit_stderr"])
    return frame.astype({"logit": "float64", "logit_stderr": "float64"})


def attention_attribution(
    model: Model, tokens: RepeatedTokens, receivers: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """Which earlier components make heads attend from repeated tokens to what followed them.

    The logit of a target, minus the mean logit of the other keys that its query sees, is a sum
    over pairs of what wrote the key and what wrote the query, with the norm's scale as it was.

    Args:
        model: the model.
        tokens: repeated sequences.
        receivers: the heads, [(layer, head), ...].

    Returns:
        one row per receiver and pair of components: layer, head, key, query (`embedding`, `bias`,
        `mlp 3`, `3.1` for head 1 of layer 3; `mask` on both sides for what the mask adds), logit
        (before a soft-cap, mean over targets and sequences), logit_stderr over sequences (missing
        for one sequence). The rows of a receiver add up to its whole difference.

    Raises:
        SettingsError: no such head.
        NotMeasurable: the model has no heads, or their queries and keys are not the sum of parts
            that are known; the message says why.
        MeasurementError: the sequences are longer than the model's context.

    Source: Elhage et al. 2021, QK circuits; Kamath et al. 2025 do it with features.
    """
    import pandas as pd

    from icl_bench.models.circuits.attention_attribution import attribute_attention

    model, tokens = check_model(model), check_tokens(tokens)
    heads = check_heads(model, receivers, "receivers")
    rows: list[tuple[Any, ...]] = []
    for part in attribute_attention(model, tokens.input_ids, induction_pairs(tokens), heads):
        names = [source.name for source in part.sources]
        pairs = [(key, query) for key in names for query in names]
        values = part.parts.double().flatten(1).numpy()
        written = [*zip(pairs, values.T), ((MASK, MASK), part.mask.double().numpy())]
        for pair, samples in written:
            error = float(sequence_error(samples[None, :, None])[0, 0])
            rows.append((*part.head, *pair, float(samples.mean()), error))
    columns = ["layer", "head", "key", "query", "logit", "logit_stderr"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"logit": "float64", "logit_stderr": "float64"})
