"""Proof on load that a path reads true attention and that its ablations act.

A tiny batch goes through the path and through the model's own eager attention; a path is taken
only when scores agree, an ablation changes what it should, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.ablation import Ablation, mark_heads
from icl_bench.models.attention.forward_hooks import ROUNDING, ForwardHooks
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.models.attention.paths import PATHS, Run, Runner
from icl_bench.models.attention.tiny_batch import LOGITS_WITHIN_HALF, TinyRun, run_tiny_batch
from icl_bench.models.module.memory import ran_out_of_memory
from icl_bench.models.module.quantization import exact_layers

SCORES_WITHIN = {torch.float32: 1e-5, torch.float64: 1e-5}
SCORES_WITHIN_HALF = 2e-2
LOGITS_WITHIN = {torch.float32: 1e-3, torch.float64: 1e-3}
HeadShape = tuple[int, int, int]
"""Heads, kv_heads, width of a head's output."""


class Mismatch(Exception):
    """A path failed the check; the message says in what."""


@dataclass
class _MagnitudeHooks(ForwardHooks):
    """Hooks that keep the largest score of each layer, which bounds the rounding."""

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
        order of the calls; and why the paths before it were not taken, or None.

    Raises:
        UnsupportedModel: no path passes; the message says why each one failed.
    """
    own = run_tiny_batch(runner, vocabulary)
    tried: dict[str, list[str]] = {}
    for name, (label, run) in PATHS.items():
        try:
            shapes = _check(own, run)
        except (Mismatch, KernelMisfit, ModelError) as error:
            tried.setdefault(str(error), []).append(name)
            continue
        except Exception as error:  # whatever the model's own code raises on an unusual path
            if ran_out_of_memory(error):
                raise
            tried.setdefault(f"{type(error).__name__}: {error}", []).append(name)
            continue
        return name, shapes, None if label == "fused" else _list_failures(tried) or None
    raise UnsupportedModel(
        f"{type(runner.model).__name__}: no way to read its attention heads gives right numbers ("
        f"{_list_failures(tried)})"
    )


def _list_failures(tried: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in tried.items())


def _check(own: TinyRun, run: Run) -> dict[int, tuple[int, int, int]]:
    query, key = torch.tril_indices(own.ids.shape[1], own.ids.shape[1])
    pairs = Pairs(query, key)
    hooks = _MagnitudeHooks(pairs={"all": pairs}, raw=True)
    logits = run(own.runner, own.ids, hooks, None, True)
    assert logits is not None
    _compare_logits(own, logits.float())
    _compare_scores(own, hooks, pairs)
    if own.runner.coupling is None:
        _check_ablation(own, run, hooks.shapes, logits.float())
        return hooks.shapes
    # Quantized layers that couple rows would hide whether the ablation does.
    with exact_layers(own.runner.model):
        exact = run(own.runner, own.ids, ForwardHooks(), None, True)
        assert exact is not None
        _check_ablation(own, run, hooks.shapes, exact.float())
    return hooks.shapes


def _compare_logits(own: TinyRun, logits: Tensor) -> None:
    off = float((logits - own.logits).abs().max()) / own.scale
    if not off <= LOGITS_WITHIN.get(own.dtype, LOGITS_WITHIN_HALF):
        raise Mismatch(f"its logits differ from the model's own by {off:.2g} of their range")


def _find_reference(own: TinyRun, layers: list[int]) -> list[Tensor]:
    """Return the attention matrices of `layers` that belong to the model's own logits."""
    runner = own.runner
    logits, given = runner.run_reference(own.ids)
    try:
        _compare_logits(own, logits.float())
    except Mismatch as error:
        # In transformers 5 eager Falcon adds its ALiBi bias twice, so its matrices are not those
        # that the model otherwise works with. Calls to torch's attention say what these are.
        called = runner.read_calls(own.ids)
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


def _compare_scores(own: TinyRun, hooks: _MagnitudeHooks, pairs: Pairs) -> None:
    layers, length = sorted(hooks.shapes), own.ids.shape[1]
    for layer, matrix in zip(layers, _find_reference(own, layers)):
        # A split model returns all matrices on one device.
        scores = hooks.scores["all"][layer].cpu()
        if matrix.ndim != 4 or matrix.shape[-2:] != (length, length):
            raise Mismatch(f"layer {layer}: eager attention has shape {tuple(matrix.shape)}")
        expected = matrix[:, :, pairs.query, pairs.key].float().cpu()
        if scores.shape != expected.shape:
            raise Mismatch(
                f"layer {layer}: {scores.shape[1]} heads, eager attention has {expected.shape[1]}"
            )
        scores = _without_sinks(own.runner, scores, expected, pairs.query)
        off = float((scores - expected).abs().max())
        within = SCORES_WITHIN.get(own.dtype, SCORES_WITHIN_HALF)
        if not off <= within + ROUNDING * hooks.magnitudes[layer]:
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


def _check_ablation(
    own: TinyRun, run: Run, shapes: dict[int, tuple[int, int, int]], clean: Tensor
) -> None:
    """All heads of one layer replaced in row 0 only: row 0 has to change and row 1 must not.

    Ones stand in for the heads' outputs, because a head that happens to write nothing on these
    few tokens would not be missed.
    """
    heads = {layer: shape[0] for layer, shape in shapes.items()}
    for layer, (count, _, width) in sorted(shapes.items()):
        rows: list[list[tuple[int, int]]] = [[(layer, h) for h in range(count)], []]
        ones = {layer: torch.ones(count, width)}
        hooks = ForwardHooks(ablation=Ablation(mark_heads(rows, heads), ones))
        logits = run(own.runner, own.ids, hooks, None, True)
        assert logits is not None
        change = (logits.float() - clean).abs().amax(dim=(1, 2))
        scale = max(1.0, float(clean.abs().max()))
        if float(change[1]) > 1e-3 * scale:
            raise Mismatch(f"switching heads of layer {layer} off in one row changed another row")
        if float(change[0]) > 0:
            return
    # Freshly made models may have output projections of zeros: then no token sees another.
    other = own.ids.clone()
    other[:, 0] = own.ids[:, 1]
    moved = (own.runner.run_plain(other).float() - own.logits)[:, 2:]
    if float(moved.abs().max()) > 0:
        raise Mismatch("switching heads off changes no logit: the ablation does not act")
