"""Proof on load that a path reads true attention and that its ablations act.

A tiny batch goes through the path and through the model's own eager attention; a path is taken
only when scores agree, an ablation changes what it should, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.ablation import Ablation
from icl_bench.models.attention.forward_hooks import ROUNDING, Pass
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.models.attention.paths import PATHS, Run, Runner
from icl_bench.models.module.vocabulary import context_length, embedding_weight

LENGTH = 12
"""Tokens in a row of the tiny batch, when nothing asks for more."""
LONGEST = 256
"""How far the row is stretched to reach beyond a window, a chunk or a choice of keys."""
REACH = re.compile(
    r"sliding_window(_size)?|window_size|attention_window_size|attention_chunk_size|"
    r"local_attention|index_topk|indexer_budget|rel_extent"
)
"""Names of settings that say how many keys a query sees."""
SCORES_WITHIN = {torch.float32: 1e-5, torch.float64: 1e-5}
SCORES_WITHIN_HALF = 2e-2
LOGITS_WITHIN = {torch.float32: 1e-3, torch.float64: 1e-3}
LOGITS_WITHIN_HALF = 0.1
CAUSAL_WITHIN = {torch.float32: 1e-4, torch.float64: 1e-4}


class Mismatch(Exception):
    """A path failed the check; the message says in what."""


@dataclass
class _Watched(Pass):
    """A pass that keeps the largest score of each layer, which bounds the rounding."""

    magnitudes: dict[int, float] = field(default_factory=dict)

    def take_scores(self, layer: int, name: str, values: Tensor, magnitude: float = 0) -> None:
        self.magnitudes[layer] = magnitude
        super().take_scores(layer, name, values, magnitude)


def choose_path(
    runner: Runner, vocabulary: list[int]
) -> tuple[str, dict[int, tuple[int, int, int]], str | None]:
    """Return the first path that passes the self-check.

    Args:
        runner: the model.
        vocabulary: usable ids to make the tiny batch from.

    Returns:
        name of the path in `PATHS`; layer -> (heads, kv_heads, width of a head's output), in the
        order in which their attention was called; and
        why the paths before it were not taken, or None.

    Raises:
        UnsupportedModel: no path passes; the message says why each one failed.
    """
    ids = tiny_batch(vocabulary, _choose_length(runner))
    tried: dict[str, list[str]] = {}
    settings = _read_settings(runner)
    try:
        plain = runner.run_plain(ids).float()
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        message = f"a forward pass on {ids.shape[1]} tokens failed: {type(error).__name__}: {error}"
        raise ModelError(message) from None
    if not bool(torch.isfinite(plain).all()):
        raise ModelError(_explain_overflow(runner))
    _check_causality(runner, ids, plain)
    now = _read_settings(runner)
    changed = {key[1] for key, value in settings.items() if now.get(key, value) != value}
    if changed:
        raise UnsupportedModel(
            f"{type(runner.model).__name__}: a forward pass on {ids.shape[1]} tokens changes the "
            f"model's own settings ({', '.join(sorted(changed))}), so that other lengths would be "
            "measured on another model"
        )
    for name, (label, run) in PATHS.items():
        try:
            shapes = _check(runner, run, ids, plain)
        except (Mismatch, KernelMisfit, ModelError) as error:
            tried.setdefault(str(error), []).append(name)
            continue
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the model's own code raises on an unusual path
            tried.setdefault(f"{type(error).__name__}: {error}", []).append(name)
            continue
        return name, shapes, None if label == "fused" else _list_failures(tried) or None
    raise UnsupportedModel(
        f"{type(runner.model).__name__}: no way to read its attention heads gives right numbers ("
        f"{_list_failures(tried)})"
    )


def _read_settings(runner: Runner) -> dict[tuple[int, str], str]:
    """Return what modules keep as text, such as BigBird its kind of attention."""
    return {
        (index, name): value
        for index, module in enumerate(runner.model.modules())
        for name, value in vars(module).items()
        if isinstance(value, str)
    }


def _list_failures(tried: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in tried.items())


def _choose_length(runner: Runner) -> int:
    """Return how many tokens show a window or chunk that a path might forget."""
    config = runner.model.config.get_text_config()
    reaches = [
        value
        for name, value in vars(config).items()
        if REACH.fullmatch(name) and isinstance(value, int) and LENGTH - 4 < value < LONGEST
    ]
    context = context_length(runner.model)
    length = max([LENGTH, *(reach + 4 for reach in reaches)])
    return length if context is None else min(length, max(context, 4))


def tiny_batch(vocabulary: list[int], length: int = LENGTH) -> Tensor:
    """Return two rows of `length` ids spread over the vocabulary."""
    spread = max(1, len(vocabulary) // (2 * length))
    ids = [vocabulary[(i * spread) % len(vocabulary)] for i in range(2 * length)]
    return torch.tensor(ids).reshape(2, length)


def _explain_overflow(runner: Runner) -> str:
    dtype = str(embedding_weight(runner.model).dtype).removeprefix("torch.")
    advice = "; its numbers end at 65,504: use bfloat16 or float32" if dtype == "float16" else ""
    return f"the model's logits are not finite numbers in {dtype}{advice}"


def _check_causality(runner: Runner, ids: Tensor, plain: Tensor) -> None:
    """Another last token must leave the logits before it as they were."""
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    moved = (runner.run_plain(other).float() - plain)[:, :-1].abs().max()
    dtype = embedding_weight(runner.model).dtype
    if float(moved) > CAUSAL_WITHIN.get(dtype, LOGITS_WITHIN_HALF) * max(
        1.0, float(plain.abs().max())
    ):
        config = runner.model.config.get_text_config()
        switched_off = [n for n in ("is_decoder", "causal") if getattr(config, n, None) is False]
        why = f" (its config says {switched_off[0]}=False)" if switched_off else ""
        raise UnsupportedModel(
            f"{type(runner.model).__name__}: a token changes the logits before it, so this is no "
            f"causal language model{why}"
        )


def _check(runner: Runner, run: Run, ids: Tensor, plain: Tensor) -> dict[int, tuple[int, int, int]]:
    dtype = embedding_weight(runner.model).dtype
    query, key = torch.tril_indices(ids.shape[1], ids.shape[1])
    work = _Watched(pairs={"all": Pairs(query, key)}, raw=True)
    logits = run(runner, ids, work, None, True)
    assert logits is not None
    _compare_logits(logits.float(), plain, dtype)
    _compare_scores(runner, ids, plain, work, query, key, dtype)
    _check_ablation(runner, run, ids, work, logits.float())
    return work.shapes


def _compare_logits(logits: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(plain.abs().max()))
    off = float((logits - plain).abs().max()) / scale
    if not off <= LOGITS_WITHIN.get(dtype, LOGITS_WITHIN_HALF):
        raise Mismatch(f"its logits differ from the model's own by {off:.2g} of their range")


def _find_reference(
    runner: Runner, ids: Tensor, plain: Tensor, layers: list[int], dtype: torch.dtype
) -> list[Tensor]:
    """Return the attention matrices of `layers` that belong to the model's own logits."""
    logits, given = runner.run_reference(ids)
    try:
        _compare_logits(logits.float(), plain, dtype)
    except Mismatch as error:
        # In transformers 5 eager Falcon adds its ALiBi bias twice, so its matrices are not those
        # that the model otherwise works with. Calls to torch's attention say what these are.
        called = runner.read_calls(ids)
        if sorted(called) != layers:
            raise Mismatch(f"under eager attention {error}") from None
        return [called[layer] for layer in layers]
    reference = [a for a in given if a is not None]
    if len(reference) == len(layers):
        return reference
    # Layers of another kind may give out their state in the place of attention.
    if runner.layers is None or len(given) != len(runner.layers):
        raise Mismatch(f"it reads {len(layers)} layers, eager attention {len(reference)}")
    chosen = [a for a in (given[layer] for layer in layers) if a is not None]
    if len(chosen) != len(layers):
        raise Mismatch(f"it reads layers {layers}, for some of which eager attention has nothing")
    return chosen


def _compare_scores(
    runner: Runner,
    ids: Tensor,
    plain: Tensor,
    work: _Watched,
    query: Tensor,
    key: Tensor,
    dtype: torch.dtype,
) -> None:
    layers = sorted(work.shapes)
    for layer, matrix in zip(layers, _find_reference(runner, ids, plain, layers, dtype)):
        scores = work.scores["all"][layer].cpu()  # a split model returns all matrices on one device
        if matrix.ndim != 4 or matrix.shape[-2:] != (ids.shape[1], ids.shape[1]):
            raise Mismatch(f"layer {layer}: eager attention has shape {tuple(matrix.shape)}")
        expected = matrix[:, :, query, key].float().cpu()
        if scores.shape != expected.shape:
            raise Mismatch(
                f"layer {layer}: {scores.shape[1]} heads, eager attention has {expected.shape[1]}"
            )
        off = float((_without_sinks(runner, scores, expected, query) - expected).abs().max())
        within = SCORES_WITHIN.get(dtype, SCORES_WITHIN_HALF)
        if not off <= within + ROUNDING * work.magnitudes[layer]:
            raise Mismatch(
                f"layer {layer}: its attention differs from eager attention by {off:.2g}"
            )


def _without_sinks(runner: Runner, scores: Tensor, expected: Tensor, query: Tensor) -> Tensor:
    """Return the scores of a model with sinks so that rows sum to one, where the expected do.

    A sink takes its share of every row. Some families give out their attention before that share
    is taken; that the outputs are scaled by it shows in the logits.
    """
    if not any("sink" in name for name, _ in runner.model.named_parameters()):
        return scores
    rows = scores.new_zeros(*scores.shape[:2], int(query.max()) + 1)
    given = rows.clone().index_add_(2, query.to(rows.device), expected.to(rows))
    if float((given - 1).abs().max()) > 1e-3:
        return scores
    rows.index_add_(2, query.to(rows.device), scores)
    return scores / rows.index_select(2, query.to(rows.device))


def _check_ablation(runner: Runner, run: Run, ids: Tensor, work: Pass, clean: Tensor) -> None:
    """All heads of one layer replaced in row 0 only: row 0 has to change and row 1 must not.

    Ones stand in for the heads' outputs, because a head that happens to write nothing on these
    few tokens would not be missed.
    """
    heads = {layer: shape[0] for layer, shape in work.shapes.items()}
    for layer, (count, _, width) in sorted(work.shapes.items()):
        rows: list[list[tuple[int, int]]] = [[(layer, h) for h in range(count)], []]
        ones = {layer: torch.ones(count, width)}
        logits = run(runner, ids, Pass(ablation=Ablation.build(rows, heads, ones)), None, True)
        assert logits is not None
        change = (logits.float() - clean).abs().amax(dim=(1, 2))
        scale = max(1.0, float(clean.abs().max()))
        if float(change[1]) > 1e-3 * scale:
            raise Mismatch(f"switching heads of layer {layer} off in one row changed another row")
        if float(change[0]) > 0:
            return
    # Freshly made models may have output projections of zeros: then no token sees another.
    other = ids.clone()
    other[:, 0] = ids[:, 1]
    moved = runner.run_plain(other).float()[:, 2:] - runner.run_plain(ids).float()[:, 2:]
    if float(moved.abs().max()) > 0:
        raise Mismatch("switching heads off changes no logit: the ablation does not act")
