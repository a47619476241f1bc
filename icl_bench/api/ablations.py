"""The Python functions that switch parts of a model off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl_bench.api.arguments import check_ids, check_model, check_tokens
from icl_bench.api.head_sets import MinimalSet
from icl_bench.errors import SettingsError, nearest
from icl_bench.measures import copying
from icl_bench.measures.tokens import Pairs, RepeatedTokens
from icl_bench.models.attention.ablation import Component, Head, Part, Replacement
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base
from icl_bench.models.model import Model
from icl_bench.models.module.vocabulary import vocabulary_size
from icl_bench.probes.ablations.backward_elimination import Elimination, keep_only
from icl_bench.probes.ablations.minimal_set import curve_sizes, find_minimal_set
from icl_bench.probes.ablations.sweeping import sweep_adaptively, sweep_exactly
from icl_bench.probes.design.context import Advance, Context
from icl_bench.probes.design.replacement import (
    METHODS,
    HeldOut,
    Method,
    Patterns,
    prepare_replacement,
)

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 32
"""Held-out sequences behind a mean, at least."""
SWEEP_METHODS = ("zero", "mean", "resample")


def token_losses(
    model: Model,
    input_ids: Tensor,
    ablate: Iterable[Sequence[int | str]] = (),
    method: Method = "zero",
    seed: int = 0,
    *,
    patterns: Patterns = "free",
    keep: Iterable[Sequence[int]] | None = None,
    edges: Iterable[Sequence[int]] | None = None,
) -> Tensor:
    """Cross-entropy of every token but the first, with heads switched off.

    Args:
        model: the model.
        input_ids: ids, shape (batch, seq).
        ablate: heads to switch off, [(layer, head), ...]; ("mlp", layer) and ("layer", layer)
            name an MLP and a whole layer (its output is then its input).
        method: what replaces a head's output: `zero`, its `mean` over held-out random tokens, its
            output at the same position of other random tokens (`resample`), `pattern_preserving`
            (zero, with every pattern as in the clean run), or `edge_knockout` (the head stays on
            and loses its attention along `edges`).
        seed: seed of the held-out tokens.
        patterns: `frozen` to let every head attend as in the clean run.
        keep: instead of `ablate`: switch every head off except these.
        edges: for `edge_knockout`, [(query position, key position), ...], physical positions.

    Returns:
        losses in nats, shape (batch, seq - 1).

    Raises:
        SettingsError: ids of a wrong shape or range, an unknown method, or no such head.
        NotMeasurable: the model has no heads, or its attention cannot be changed in this way.
    """
    model = check_model(model)
    ids = _check_ids(model, input_ids)
    parts = check_parts(model, ablate)
    if keep is not None:
        model.require_heads()
        if parts:
            raise SettingsError("give either 'ablate' or 'keep'")
        kept = set(check_parts(model, keep))
        parts = [head for head in model.every_head if head not in kept]
    _check_method(method, patterns)
    pairs = _check_edges(edges, ids.shape[1]) if method == "edge_knockout" else None
    clean = run_base(model, ids, torch.arange(1, ids.shape[1]))
    if not parts:
        return clean.losses.nll
    replacement = _replace(model, method, parts, ids, seed=seed, patterns=patterns, edges=pairs)
    return switch_off(model, clean, [parts], replacement).nll[0]


def ablation_sweep(
    model: Model,
    tokens: RepeatedTokens,
    method: Method = "zero",
    exact: bool = True,
    *,
    top: int = 10,
    advance: Advance | None = None,
) -> pd.DataFrame:
    """Switch every head off on its own and see what the loss on repeats does.

    Args:
        model: the model.
        tokens: repeated sequences.
        method: `zero`, `mean` or `resample`.
        exact: measure every head on every token; otherwise all heads on few tokens, and only
            those that may be among the `top` on all.
        top: how many heads with the largest effect an adaptive sweep looks for.
        advance: called with the number of rows done, at most heads * sequences.

    Returns:
        one row per head: layer, head, repeated_loss (nats), delta (its rise over the clean run,
        nats), delta_stderr (over random sequences; missing for one), delta_low and delta_high
        (bounds of what `exact=True` gives on these tokens, each holding for 95% of the heads;
        equal to delta for a head measured in full), sequences (on how many it was measured at
        full length; 0 where delta is that of the screening).

    Raises:
        SettingsError: an unknown method, or `top` below 1.
        NotMeasurable: the model has no attention heads.
    """
    import pandas as pd

    from icl_bench.probes.ablations.sweep import sweep_rows

    if top < 1:
        raise SettingsError(f"top={top}: must be at least 1")
    if method not in SWEEP_METHODS:
        raise SettingsError(f"unknown method {method!r}; {nearest(method, SWEEP_METHODS)}")
    model, tokens = check_model(model), check_tokens(tokens)
    model.require_heads()
    replacement = _replace(model, method, model.every_head, tokens.input_ids)
    if exact:
        sweep = sweep_exactly(model, tokens, replacement, advance)
    else:
        sweep = sweep_adaptively(model, tokens, replacement, top, advance=advance)
    return pd.DataFrame(sweep_rows(sweep)).astype({"delta_stderr": float})


def minimal_set(
    model: Model,
    tokens: RepeatedTokens,
    share: float = 0.9,
    method: Method = "mean",
) -> MinimalSet:
    """Find a small set of heads that keeps a share of the gain from repetition on its own.

    Heads are switched off, least needed first, until none can be spared. How much the set keeps
    on other tokens is measured by `token_losses(..., keep=...)`, or by the probe `minimal_set`.

    Args:
        model: the model.
        tokens: repeated sequences to choose on.
        share: share of first_loss - repeated_loss that the loss on repeats has to keep.
        method: `zero`, `mean` or `resample`.

    Returns:
        the heads as (layer, head), most needed first: a list, with the `share` that they keep of
        the gain on these tokens, and a `curve` of that for sets of other sizes.

    Raises:
        SettingsError: an unknown method, or a share outside (0, 1).
        NotMeasurable: the model has no heads, or gains nothing from repetition.
    """
    import pandas as pd

    if not 0 < share < 1:
        raise SettingsError(f"share={share}: must lie between 0 and 1")
    if method not in SWEEP_METHODS:
        raise SettingsError(f"unknown method {method!r}; {nearest(method, SWEEP_METHODS)}")
    model, tokens = check_model(model), check_tokens(tokens)
    model.require_heads()
    replacement = _replace(model, method, model.every_head, tokens.input_ids)
    found = find_minimal_set(model, tokens, share, replacement, Context())
    rows = _measure_kept(model, tokens, found, replacement)
    curve = pd.DataFrame(rows, columns=["heads", "share", "repeated_loss"])
    (kept,) = (row[1] for row in rows if row[0] == len(found.kept))
    return MinimalSet(found.kept, kept, curve)


def _measure_kept(
    model: Model, tokens: RepeatedTokens, found: Elimination, replacement: Replacement
) -> list[tuple[int, float, float]]:
    """Return size, share of the gain kept and loss on repeats of sets of growing size."""
    targets = copying.repeated_targets(tokens)
    first = float(model.losses(tokens.input_ids, copying.first_targets(tokens)).nll.double().mean())
    losses = {}
    for size in curve_sizes(len(model.every_head), len(found.kept)):
        run = keep_only(model, tokens.input_ids, targets, found.order, size, replacement)
        losses[size] = float(run.losses.nll.double().mean())
    clean = losses[len(model.every_head)]
    gain = first - clean
    return [(size, 1 - (loss - clean) / gain, loss) for size, loss in losses.items()]


def check_parts(model: Model, parts: Iterable[Sequence[int | str]]) -> list[Part]:
    """Return what is to be switched off, each once, heads sorted and first.

    Args:
        model: the model.
        parts: heads as (layer, head), MLPs as ("mlp", layer), layers as ("layer", layer).

    Raises:
        SettingsError: the model has no such part, or it is not written like this.
    """
    heads: set[Head] = set()
    others: set[Component] = set()
    for part in parts:
        try:
            first, second = part
            if first == "mlp":
                others.add(("mlp", int(second)))
            elif first == "layer":
                others.add(("layer", int(second)))
            else:
                heads.add((int(first), int(second)))
        except (TypeError, ValueError):
            raise SettingsError(
                f"{part!r} names nothing; heads are given as (layer, head), others as "
                '("mlp", layer) or ("layer", layer)'
            ) from None
    if heads:
        model.require_heads()
    for layer, head in sorted(heads):
        require_head(model, layer, head)
    for _, layer in others:
        if not 0 <= layer < model.layers:
            raise SettingsError(f"the model has no layer {layer}; it has {model.layers}")
    return [*sorted(heads), *sorted(others)]


def require_head(model: Model, layer: int, head: int) -> None:
    """Raise SettingsError when the model has no such head."""
    if not 0 <= head < model.heads.get(layer, 0):
        raise SettingsError(
            f"the model has no head {layer}.{head}; layer {layer} has "
            f"{model.heads.get(layer, 0)} heads"
        )


def _check_ids(model: Model, input_ids: Tensor) -> Tensor:
    ids = check_ids(input_ids)
    if ids.ndim != 2 or 0 in ids.shape or ids.shape[1] < 2 or ids.dtype.is_floating_point:
        raise SettingsError(f"input_ids must be integers (batch, seq >= 2), not {tuple(ids.shape)}")
    rows = vocabulary_size(model.model)
    if int(ids.min()) < 0 or int(ids.max()) >= rows:
        raise SettingsError(f"input_ids must lie in 0..{rows - 1}")
    return ids.long()


def _check_method(method: str, patterns: str) -> None:
    if method not in METHODS:
        raise SettingsError(f"unknown method {method!r}; {nearest(method, METHODS)}")
    if patterns not in ("free", "frozen"):
        raise SettingsError(f"unknown patterns {patterns!r}; valid: 'free', 'frozen'")
    if method == "edge_knockout" and patterns == "frozen":
        raise SettingsError("edge_knockout changes patterns: they cannot be frozen")


def _check_edges(edges: Iterable[Sequence[int]] | None, length: int) -> Pairs:
    given = torch.as_tensor([list(edge) for edge in edges or ()])
    if given.ndim != 2 or given.shape[1] != 2 or given.dtype.is_floating_point:
        raise SettingsError("edge_knockout needs edges=[(query position, key position), ...]")
    query, key = given.unbind(1)
    if int(given.min()) < 0 or int(query.max()) >= length or bool((key >= query).any()):
        raise SettingsError(
            f"edges go from a query to an earlier key, both in 0..{length - 1}: a query that "
            "loses its own position may have nothing left to attend to"
        )
    return Pairs(query, key)


def _replace(
    model: Model,
    method: Method,
    parts: Sequence[Part],
    input_ids: Tensor,
    seed: int = 0,
    **how: Any,
) -> Replacement:
    """Return what stands in for parts on sequences as long as these."""
    count = max(HELD_OUT, len(input_ids)) if method == "mean" else len(input_ids)
    held_out = HeldOut(count, input_ids.shape[1], model.bos, seed)
    return prepare_replacement(model, method, parts, held_out, **how).replacement
