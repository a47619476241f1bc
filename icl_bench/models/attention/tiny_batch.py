"""The tiny batch of the self-check, and the model's own logits on it.

A model that cannot be run, or is no causal language model, is refused here.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.models.attention.paths import Runner
from icl_bench.models.module.memory import ran_out_of_memory
from icl_bench.models.module.quantization import (
    compute_dtype,
    couples_tokens,
    exact_layers,
    rounds_inputs,
)
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
LOGITS_WITHIN_HALF = 0.1
COUPLED_WITHIN = 0.25
"""How far quantized layers may couple tokens, as a share of the largest logit."""
CAUSAL_WITHIN = {torch.float32: 1e-4, torch.float64: 1e-4}


@dataclass(frozen=True)
class TinyRun:
    """The tiny batch and the model's own logits, float32, with which every path is compared."""

    runner: Runner
    ids: Tensor
    logits: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the products, which decides how far numbers may be apart."""
        model = self.runner.model
        dtype = compute_dtype(model, embedding_weight(model).dtype)
        return torch.float16 if rounds_inputs(model) else dtype

    @property
    def scale(self) -> float:
        """The largest logit, at least 1."""
        return max(1.0, float(self.logits.abs().max()))


def run_tiny_batch(runner: Runner, vocabulary: list[int]) -> TinyRun:
    """Run the model as it is, and refuse one that cannot be run or is no causal language model."""
    ids = tiny_batch(vocabulary, _choose_length(runner))
    settings = _read_settings(runner)
    try:
        logits = runner.run_plain(ids).float()
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        message = f"a forward pass on {ids.shape[1]} tokens failed: {type(error).__name__}: {error}"
        raise ModelError(message) from None
    own = TinyRun(runner, ids, logits)
    if not bool(torch.isfinite(logits).all()):
        dtype = str(own.dtype).removeprefix("torch.")
        advice = (
            "; its numbers end at 65,504: use bfloat16 or float32" if dtype == "float16" else ""
        )
        raise ModelError(f"the model's logits are not finite numbers in {dtype}{advice}")
    _check_causality(own)
    now = _read_settings(runner)
    changed = {key[1] for key, value in settings.items() if now.get(key, value) != value}
    if changed:
        raise UnsupportedModel(
            f"{type(runner.model).__name__}: a forward pass on {ids.shape[1]} tokens changes the "
            f"model's own settings ({', '.join(sorted(changed))}), so that other lengths would be "
            "measured on another model"
        )
    return own


def _read_settings(runner: Runner) -> dict[tuple[int, str], str]:
    """Return what modules keep as text, such as BigBird its kind of attention.

    Where the weights of a quantized checkpoint are unpacked in the first pass, it is noted once
    (`quantization_status`); the values are the same before and after.
    """
    return {
        (index, name): value
        for index, module in enumerate(runner.model.modules())
        for name, value in vars(module).items()
        if isinstance(value, str) and name != "quantization_status"
    }


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


def _check_causality(own: TinyRun) -> None:
    """Another last token must leave the logits before it as they were.

    Where quantization itself couples tokens, that is asked of what the weights stand for, and how
    far the coupling goes is measured.
    """
    model = own.runner.model
    other = own.ids.clone()
    other[:, -1] = own.ids[:, 0]

    def moves(clean: Tensor) -> float:
        moved = own.runner.run_plain(other).float() - clean
        return float(moved[:, :-1].abs().max()) / own.scale

    coupled = couples_tokens(model)
    with exact_layers(model) if coupled else contextlib.nullcontext():
        moved = moves(own.runner.run_plain(own.ids).float() if coupled else own.logits)
    dtype = embedding_weight(model).dtype if coupled else own.dtype
    if moved > CAUSAL_WITHIN.get(dtype, LOGITS_WITHIN_HALF):
        config = model.config.get_text_config()
        denied = [n for n in ("is_decoder", "causal") if getattr(config, n, None) is False]
        why = f" (its config says {denied[0]}=False)" if denied else ""
        raise UnsupportedModel(
            f"{type(model).__name__}: a token changes the logits before it, so this is no "
            f"causal language model{why}"
        )
    if coupled:
        own.runner.coupling = moves(own.logits)
        if own.runner.coupling > COUPLED_WITHIN:
            raise UnsupportedModel(
                f"{type(model).__name__}: its quantized layers let a token change the logits "
                f"before it by {own.runner.coupling:.2g} of their range, and more than "
                f"{COUPLED_WITHIN} is not measured: set llm_int8_threshold to 0, or dequantize it"
            )
