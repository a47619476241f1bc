"""OV copying: whether a head raises the logits of the tokens that it attends to.

By weights: the eigenvalues of the full circuit from token to logit, W_U W_O W_V x, x the state of
each token. By behaviour: what heads write on sequences, as Olsson et al. 2022 score it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from icl_bench.measures.eigenvalues import eigenvalue_scores
from icl_bench.measures.tokens import Pairs, RepeatedTokens
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.module.batching import run_in_batches
from icl_bench.models.module.quantization import on_exact_layers
from icl_bench.models.residual.reading import InputNorm, read_layers
from icl_bench.models.residual.token_states import token_states
from icl_bench.models.residual.unembedding import Unembedding
from icl_bench.models.residual.writing import fold_norm, pull_back_weights, require_output_maps

if TYPE_CHECKING:
    from icl_bench.models.model import Model

States = Literal["token", "embedding"]
STATES: tuple[States, ...] = ("token", "embedding")


@on_exact_layers
@torch.no_grad()
def ov_eigenvalues(
    model: Model,
    states: States = "token",
    layers: Iterable[int] | None = None,
    *,
    advance: Callable[[int], None] | None = None,
) -> dict[int, Tensor]:
    """Return layer -> sum(eigenvalues) / sum(|eigenvalues|) of each head's OV circuit.

    The circuit takes each usable token's normed state through W_V and W_O to the logits of the
    usable tokens, minus the mean over the vocabulary. Norm gains, centring and the norm after
    attention are in it; biases, which are the same for every token, are not.

    Args:
        model: the model.
        states: what stands for a token: what enters layer 1 (layer 0 for the heads of layer 0)
            when it runs alone after BOS, or what enters layer 0 then (`embedding`).
        layers: the heads' layers; None for all.
        advance: called with the number of tokens done.

    Returns:
        layer -> (heads,), float64; NaN for a head whose circuit is 0.

    Raises:
        NotMeasurable: values, what heads write, or the way to the logits is not known.

    Source: Elhage et al. 2021; token states after Wang et al. 2022.
    """
    unembedding = model.anatomy.require_unembedding()
    wanted = sorted(model.heads if layers is None else layers)
    require_output_maps(model.anatomy, wanted)
    readings = read_layers(model, wanted)
    maps = {layer: reading.map_of("value") for layer, reading in readings.items()}
    source = {layer: 0 if states == "embedding" else min(layer, 1) for layer in maps}
    kinds = {(source[layer], readings[layer].norm) for layer in maps if bool(maps[layer].any())}
    moments = _cross_moments(model, unembedding, kinds, advance)
    scores = {}
    for layer, values in maps.items():
        moment = moments.get((source[layer], readings[layer].norm))
        if moment is None:
            scores[layer] = torch.full((len(values),), torch.nan, dtype=torch.float64)
            continue
        toward = pull_back_weights(model.anatomy.layers[layer], moment).transpose(0, 1)
        scores[layer] = eigenvalue_scores(values, toward)
    return scores


def _cross_moments(
    model: Model,
    unembedding: Unembedding,
    kinds: set[tuple[int, InputNorm]],
    advance: Callable[[int], None] | None,
) -> dict[tuple[int, InputNorm], Tensor]:
    """Return the sum over tokens of normed state times unembedding, (width, width), float64."""
    sums: dict[tuple[int, InputNorm], Tensor] = {}
    layers = {layer for layer, _ in kinds}
    for ids, states in token_states(model, layers, advance=advance) if kinds else ():
        directions = unembedding.directions(ids).cpu()
        for layer, norm in kinds:
            part = (norm.apply(states[layer]).T @ directions).double()
            sums[layer, norm] = sums[layer, norm] + part if (layer, norm) in sums else part
    if unembedding.norm is None:
        return sums
    return {kind: fold_norm(unembedding.norm, moment) for kind, moment in sums.items()}


def copying_chance(tokens: RepeatedTokens) -> float:
    """Return the behaviour score of a head whose writing has nothing to do with its attention."""
    return 2 / tokens.period - 1


def copying_pairs(tokens: RepeatedTokens) -> Pairs:
    """Return every pair of a query in copy 2 or later and a content position up to it."""
    n, p = tokens.period, tokens.prefix
    positions = [(i, j) for i in range(n, n * tokens.repeats) for j in range(i + 1)]
    query, key = torch.tensor(positions).T
    return Pairs(query + p, key + p)


@torch.no_grad()
def ov_behaviour(
    model: Model, tokens: RepeatedTokens, *, advance: Callable[[int], None] | None = None
) -> dict[int, Tensor]:
    """Return layer -> how much of what each head raises is the logits of what it attends to.

    With r_i(v) the direct effect of a head's output at position i on the logit of token v, minus
    the mean over the vocabulary, negative ones set to 0 and the norms' scales at i left out, a_ij
    its attention among the content positions, and S the block's tokens:
    2 * sum_ij a_ij r_i(t_j) / sum_i sum_{v in S} r_i(v) - 1,
    i over copy 2 and later.

    Args:
        model: the model.
        tokens: repeated sequences, no token twice in a block.
        advance: called with the number of sequences done.

    Returns:
        layer -> (sequences, heads), float64; NaN where a head raises no token of the sample.

    Raises:
        NotMeasurable: what heads write, or the way to the logits is not known.
        MeasurementError: the sequences are longer than the model's context.

    Source: Olsson et al. 2022, "Head activation evaluators", copying.
    """
    unembedding = model.anatomy.require_unembedding()
    require_output_maps(model.anatomy, model.heads)
    pairs, n, ids = copying_pairs(tokens), tokens.period, tokens.input_ids
    query = pairs.query - tokens.prefix - n
    # Copies of a token are one token of the sample.
    cells = query * n + (pairs.key - tokens.prefix) % n
    later = torch.arange(n, n * tokens.repeats) + tokens.prefix
    parts: dict[int, list[Tensor]] = {layer: [] for layer in sorted(model.heads)}

    def work(start: int, stop: int) -> None:
        rows = ids[start:stop]
        clean = ForwardHooks(pairs={"content": pairs}, raw=True, keep_outputs=parts.keys())
        model.run_pass(rows, clean, logits=False)
        sample = unembedding.directions(rows[:, tokens.prefix : tokens.prefix + n])
        if unembedding.norm is not None:
            sample = fold_norm(unembedding.norm, sample)
        found = {}
        for layer in parts:
            outputs = clean.outputs[layer].float()
            outputs = outputs[:, later.to(outputs.device)]
            toward = pull_back_weights(model.anatomy.layers[layer], sample.to(outputs.device))
            raised = torch.einsum("rihw,rvhw->rhiv", outputs, toward).relu().double()
            attention = clean.scores["content"][layer].double()
            shape = (*attention.shape[:2], len(later) * n)
            onto = attention.new_zeros(shape).index_add(2, cells.to(attention.device), attention)
            onto = onto.reshape(raised.shape)
            onto = onto / onto.sum(-1, keepdim=True).clamp_min(1e-30)
            share = (onto.to(raised.device) * raised).sum((-1, -2)) / raised.sum((-1, -2))
            found[layer] = (2 * share - 1).cpu()
        for layer, shares in found.items():
            parts[layer].append(shares)

    run_in_batches(ids.shape, model.limit, work, advance=advance)
    return {layer: torch.cat(some) for layer, some in parts.items()}
