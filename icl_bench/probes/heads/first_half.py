"""Whether something other than a head writes the token before, as a circuit's first half does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.records.parts import Metric

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model
    from icl_bench.probes.heads.induction import Settings

MATCHES = 0.2
"""A head that reaches this by every score matches by content; the first half is looked for."""
KEPT = 0.5
"""Share of its score that it must keep without the edges for something else to feed it."""


def explain_first_half(
    model: Model,
    settings: Settings,
    repeated: RepeatedTokens,
    best: np.ndarray,
    metrics: dict[str, Metric],
    unmeasured: dict[str, str],
) -> None:
    """Say so where the chosen head finds its place although no head attends to the token before.

    What stands at i - 1 can come to i through attention only along the edge from i to i - 1. With
    that edge cut in every head of every layer below, a head that still finds the token after the
    earlier occurrence is told of the token before by something else: a token shift, a convolution,
    a recurrent layer. `previous_token_max` is then about what this model does not need.

    Args:
        model: the model.
        settings: the measurement's.
        repeated: the sequences.
        best: for each head the smallest of the scores that heads are chosen by, shape (heads,).
        metrics: those of the measurement; what is found is added.
        unmeasured: why some are absent; added to.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.models.circuits.cut_edges import score_without_edges

    name = "induction_without_previous"
    previous = metrics["previous_token_max"]
    layer, head = model.every_head[int(best.argmax())]
    if previous.value > settings.threshold:
        unmeasured[name] = "a head attends to the token before: nothing else is looked for"
        return
    if best.max() <= MATCHES:
        unmeasured[name] = "no head matches by content: there is no circuit to look for half of"
        return
    below = [other for other in model.every_head if other[0] < layer]
    edges, pairs = tk.previous_token_pairs(repeated), tk.induction_pairs(repeated)
    try:
        scores = score_without_edges(model, repeated.input_ids, pairs, below, edges, layer)
    except NotMeasurable as error:
        unmeasured[name] = str(error)
        return
    left = scores[:, head].double().numpy()
    metrics[name] = st.mean_metric(left, bounds=UNIT, confidence=settings.confidence)
    clean = metrics["induction_max"].value
    if left.mean() >= KEPT * clean:
        del metrics["previous_token_max"]
        unmeasured["previous_token_max"] = (
            f"the first half of the circuit is no head here: head {layer}.{head} scores "
            f"{left.mean():.2f} while no head below it attends to the token before, so something "
            "else writes it (a token shift, a convolution, a recurrent layer); the highest "
            f"previous-token score of a head is {previous.value:.2f}"
        )
