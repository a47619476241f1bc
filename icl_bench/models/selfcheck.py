"""Proof on load that a path reads true attention and that its ablations act.

A tiny batch goes through the path and through the model's own eager attention; a path is taken
only when scores agree, an ablation changes what it should, and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.measures.tokens import Pairs
from icl_bench.models.ablation import Ablation
from icl_bench.models.attention import Pass
from icl_bench.models.kernels import KernelMisfit
from icl_bench.models.paths import PATHS, Run, Runner
from icl_bench.models.vocabulary import embedding_weight

LENGTH = 12
SCORES_WITHIN = {torch.float32: 1e-5, torch.float64: 1e-5}
SCORES_WITHIN_HALF = 2e-2
LOGITS_WITHIN = {torch.float32: 1e-3, torch.float64: 1e-3}
LOGITS_WITHIN_HALF = 0.1


class Mismatch(Exception):
    """A path failed the check; the message says in what."""


def choose_path(runner: Runner, vocabulary: list[int]) -> tuple[str, dict[int, tuple], str | None]:
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
    ids = tiny_batch(vocabulary)
    tried: list[str] = []
    try:
        plain = runner.run_plain(ids).float()
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(f"a forward pass on {LENGTH} tokens failed: {error}") from None
    if not bool(torch.isfinite(plain).all()):
        raise ModelError("the model's logits are not finite numbers")
    for name, (_, run) in PATHS.items():
        try:
            shapes = _check(runner, run, ids, plain)
        except (Mismatch, KernelMisfit, ModelError) as error:
            tried.append(f"{name}: {error}")
            continue
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            tried.append(f"{name}: {type(error).__name__}: {error}")
            continue
        return name, shapes, "; ".join(tried) or None
    raise UnsupportedModel(
        f"{type(runner.model).__name__}: no way to read its attention heads gives right numbers ("
        + "; ".join(tried)
        + ")"
    )


def tiny_batch(vocabulary: list[int]) -> Tensor:
    """Return two rows of `LENGTH` ids spread over the vocabulary."""
    spread = max(1, len(vocabulary) // (2 * LENGTH))
    ids = [vocabulary[(i * spread) % len(vocabulary)] for i in range(2 * LENGTH)]
    return torch.tensor(ids).reshape(2, LENGTH)


def _check(runner: Runner, run: Run, ids: Tensor, plain: Tensor) -> dict[int, tuple]:
    dtype = embedding_weight(runner.model).dtype
    query, key = torch.tril_indices(LENGTH, LENGTH)
    work = Pass(pairs={"all": Pairs(query, key)}, raw=True)
    logits = run(runner, ids, work, None, True)
    assert logits is not None
    _compare_logits(logits.float(), plain, dtype)
    _compare_scores(runner, ids, work, query, key, dtype)
    _check_ablation(runner, run, ids, work, logits.float())
    return work.shapes


def _compare_logits(logits: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(plain.abs().max()))
    off = float((logits - plain).abs().max()) / scale
    if not off <= LOGITS_WITHIN.get(dtype, LOGITS_WITHIN_HALF):
        raise Mismatch(f"its logits differ from the model's own by {off:.2g} of their range")


def _compare_scores(
    runner: Runner, ids: Tensor, work: Pass, query: Tensor, key: Tensor, dtype: torch.dtype
) -> None:
    layers = sorted(work.shapes)
    reference = [a for a in runner.run_reference(ids) if a is not None]
    if len(reference) != len(layers):
        raise Mismatch(f"it reads {len(layers)} layers, eager attention {len(reference)}")
    for layer, matrix in zip(layers, reference):
        scores = work.scores["all"][layer].cpu()  # a split model returns all matrices on one device
        expected = matrix[:, :, query, key].float().cpu()
        if scores.shape != expected.shape:
            raise Mismatch(
                f"layer {layer}: {scores.shape[1]} heads, eager attention has {expected.shape[1]}"
            )
        off = float((scores - expected).abs().max())
        if not off <= SCORES_WITHIN.get(dtype, SCORES_WITHIN_HALF):
            raise Mismatch(
                f"layer {layer}: its attention differs from eager attention by {off:.2g}"
            )


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
