"""The Python API of circuits: which head feeds which, and what heads copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from icl_bench.api.ablations import require_head
from icl_bench.api.arguments import check_model, check_tokens
from icl_bench.errors import SettingsError, nearest
from icl_bench.measures.tokens import RepeatedTokens
from icl_bench.models.attention.ablation import Head
from icl_bench.models.model import Model

if TYPE_CHECKING:
    import pandas as pd

    from icl_bench.models.circuits.patching import PathEffect


EFFECT_COLUMNS = [
    *("sender_layer", "sender_head", "layer", "head", "side"),
    *("clean", "patched", "drop", "drop_stderr"),
]
COMPOSITION_COLUMNS = [*EFFECT_COLUMNS[:5], "composition", "random", "excess"]


def path_patching(
    model: Model,
    tokens: RepeatedTokens,
    receivers: Sequence[Sequence[int]],
    senders: Sequence[Sequence[int]] | None = None,
    side: str | Sequence[str] = "key",
    *,
    together: bool = False,
    values: dict[int, Tensor] | None = None,
) -> pd.DataFrame:
    """Take earlier heads' contributions out of one side of later heads' input, all else clean.

    Args:
        model: the model.
        tokens: repeated sequences.
        receivers: the later heads, [(layer, head), ...].
        senders: the earlier heads; None for every head below each receiver.
        side: `key`, `query`, `value`, or several of them, each patched on its own.
        together: take all senders that lie below the receiver out at once, not one at a time.
        values: what stands in for the senders' outputs, layer -> (heads, width), as
            `Model.mean_outputs` gives them; None for nothing.

    Returns:
        one row per sender, receiver and side: sender_layer, sender_head (missing for `together`),
        layer, head, side, clean, patched, drop, drop_stderr (missing for one sequence). For key
        and query, clean and patched are the receiver's induction scores, probabilities; for
        value, what it writes directly towards the correct tokens, in logits.

    Raises:
        SettingsError: no such head or side, or a sender that lies below no receiver.
        NotMeasurable: the model has no heads, or they cannot be patched; the message says why.
        MeasurementError: the sequences are longer than the model's context.

    Source: Wang et al. 2022, path patching; Elhage et al. 2021, K-, Q- and V-composition.
    """
    import pandas as pd

    from icl_bench.models.circuits.patching import Paths, Scored, patch_paths

    model, tokens = check_model(model), check_tokens(tokens)
    sides = _check_sides(side)
    targets = check_heads(model, receivers, "receivers")
    rows: list[dict[str, Any]] = []
    for layers, sets in _plan_senders(model, targets, senders, together):
        paths = Paths(layers, sets, sides, values)
        for effect in patch_paths(model, Scored.repeats(tokens), paths):
            rows += _effect_rows(effect, targets, together)
    frame = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    if together:
        frame = frame.astype({"sender_layer": "Int64", "sender_head": "Int64"})
    return frame.astype({"drop_stderr": "float64"})


def _effect_rows(
    effect: PathEffect, receivers: Sequence[Head], together: bool
) -> list[dict[str, Any]]:
    """Return one row per sender and receiver of the effect's layer."""
    drops = (effect.clean - effect.patched).double().numpy()
    mean, error = drops.mean(1), sequence_error(drops)
    clean = effect.clean.double().mean(0).numpy()
    rows = []
    for number, heads in enumerate(effect.senders):
        sender = heads[0] if not together else (None, None)
        for layer, head in receivers:
            if layer != effect.layer:
                continue
            patched = float(effect.patched[number, :, head].double().mean())
            drop = (float(mean[number, head]), float(error[number, head]))
            row = (*sender, layer, head, effect.side, float(clean[head]), patched, *drop)
            rows.append(dict(zip(EFFECT_COLUMNS, row)))
    return rows


def ov_copying(
    model: Model,
    tokens: RepeatedTokens | None = None,
    *,
    states: str = "token",
) -> pd.DataFrame:
    """Whether each head raises the logits of the tokens that it attends to.

    Args:
        model: the model.
        tokens: repeated sequences for the score by behaviour; None for weights alone.
        states: what stands for a token in the weights: `token`, the residual stream that enters
            layer 1 (layer 0 for the heads of layer 0) when the token runs alone after BOS, or
            `embedding`, what enters layer 0 then.

    Returns:
        one row per head: layer, head, ov_eigenvalue, the sum of its OV circuit's eigenvalues over
        that of their magnitudes (missing for a circuit that is 0); with tokens also ov_behaviour,
        the share of the sample's raised logits that belongs to the attended token, scaled to
        [-1, 1], and ov_behaviour_stderr over sequences (both missing for a head that raises
        nothing).

    Raises:
        SettingsError: no such states.
        NotMeasurable: the model has no heads, or their values or the way to the logits are not
            known; the message says why.
        MeasurementError: the sequences are longer than the model's context.

    Source: Elhage et al. 2021, eigenvalues; Olsson et al. 2022, copying evaluator.
    """
    import pandas as pd

    from icl_bench.models.circuits.ovcircuit import STATES, ov_behaviour, ov_eigenvalues

    if states not in STATES:
        raise SettingsError(f"unknown states {states!r}; {nearest(states, STATES)}")
    model = check_model(model)
    tokens = None if tokens is None else check_tokens(tokens)
    model.require_heads()
    columns: dict[str, Any] = {
        "layer": [layer for layer, _ in model.every_head],
        "head": [head for _, head in model.every_head],
    }
    weights = ov_eigenvalues(model, states)
    columns["ov_eigenvalue"] = np.concatenate([weights[i].numpy() for i in sorted(weights)])
    if tokens is not None:
        shares = ov_behaviour(model, tokens)
        samples = np.concatenate([shares[layer].numpy() for layer in sorted(shares)], 1)
        columns["ov_behaviour"] = samples.mean(0)
        columns["ov_behaviour_stderr"] = sequence_error(samples[None])[0]
    return pd.DataFrame(columns)


def weight_composition(
    model: Model,
    receivers: Sequence[Sequence[int]],
    senders: Sequence[Sequence[int]] | None = None,
    side: str | Sequence[str] = ("query", "key", "value"),
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How much later heads' weights read of what earlier heads' weights write.

    Args:
        model: the model.
        receivers: the later heads, [(layer, head), ...].
        senders: the earlier heads; None for every head below each receiver.
        side: `query`, `key`, `value`, or several of them.
        seed: seed of the random matrices.

    Returns:
        one row per sender, receiver and side: sender_layer, sender_head, layer, head, side,
        composition, ||A B|| / (||A|| ||B||) in Frobenius norms with B the sender's W_OV and A the
        receiver's W_QK (key), its transpose (query) or W_OV (value); random, the mean of that for
        random Gaussian factors of the same shapes; excess, composition - random. Missing where a
        matrix is 0. Rotations by position are left out.

    Raises:
        SettingsError: no such head or side, or a sender that lies below no receiver.
        NotMeasurable: what the heads read or write is no linear map; the message says why.

    Source: Elhage et al. 2021, K-, Q- and V-composition.
    """
    import pandas as pd

    from icl_bench.models.circuits.composition import compose_heads

    model = check_model(model)
    sides = _check_sides(side)
    targets = check_heads(model, receivers, "receivers")
    ((_, sets),) = _plan_senders(model, targets, senders, False)
    rows = [
        (*pair.sender, *pair.receiver, pair.side, pair.score, pair.random, pair.excess)
        for pair in compose_heads(model, targets, [heads[0] for heads in sets], sides, seed=seed)
    ]
    return pd.DataFrame(rows, columns=COMPOSITION_COLUMNS)


def sequence_error(samples: np.ndarray) -> np.ndarray:
    """Return standard errors over sequences; those of one sequence are NaN.

    Args:
        samples: shape (any, sequences, any); the result lacks the middle axis.
    """
    count = samples.shape[1]
    if count == 1:
        return np.full_like(samples[:, 0], np.nan)
    return np.asarray(samples.std(1, ddof=1) / count**0.5)


def _check_sides(side: str | Sequence[str]) -> list[Any]:
    from icl_bench.models.circuits.patching import SIDES

    wanted = [side] if isinstance(side, str) else list(dict.fromkeys(side))
    for name in wanted:
        if name not in SIDES:
            raise SettingsError(f"unknown side {name!r}; {nearest(name, SIDES)}")
    if not wanted:
        raise SettingsError("no side is given; valid: 'query', 'key', 'value'")
    return wanted


def check_heads(model: Model, heads: Sequence[Sequence[int]], what: str) -> list[Head]:
    """Return heads in order, each once.

    Args:
        model: the model.
        heads: [(layer, head), ...].
        what: what they are, for the message.

    Raises:
        SettingsError: there are none, the model has no such head, or they are not written so.
        NotMeasurable: the model has no heads.
    """
    model.require_heads()
    try:
        wanted = sorted({(int(layer), int(head)) for layer, head in heads})
    except (TypeError, ValueError):
        raise SettingsError(
            f"{what} are a list of heads, [(layer, head), ...], not {heads!r}"
        ) from None
    if not wanted:
        raise SettingsError(f"no {what} are given")
    for layer, head in wanted:
        require_head(model, layer, head)
    return wanted


def _plan_senders(
    model: Model,
    receivers: list[Head],
    senders: Sequence[Sequence[int]] | None,
    together: bool,
) -> list[tuple[list[int], list[tuple[Head, ...]]]]:
    """Return groups of receiver layers and the sets of senders that are patched for them."""
    layers = sorted({layer for layer, _ in receivers})
    if senders is None:
        heads = [(layer, head) for layer, count in model.heads.items() for head in range(count)]
    else:
        heads = check_heads(model, senders, "senders")
        for layer, head in heads:
            if layer >= layers[-1]:
                raise SettingsError(f"sender {layer}.{head} lies below no receiver")
    if not any(layer < layers[-1] for layer, _ in heads):
        raise SettingsError(f"no head lies below the receivers in layer {layers[-1]}")
    if not together:
        return [(layers, [(head,) for head in heads])]
    groups = [(layer, tuple(head for head in heads if head[0] < layer)) for layer in layers]
    return [([layer], [below]) for layer, below in groups if below]
