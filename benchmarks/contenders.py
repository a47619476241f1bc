"""The ways to get the scores of every head that are compared, and what each needs.

All get the same tokens, and all but the plain forward return the same four scores, so that a
contender that computes something else is noticed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import icl_bench
from icl_bench.measures.tokens import RepeatedTokens

SCORES = ("induction", "previous_token", "duplicate_token", "first_token")
GIB = 2**30

Run = Callable[[RepeatedTokens], "Tensor | None"]


@dataclass(frozen=True)
class Contender:
    """One way to the scores.

    Args:
        build: (model, share) -> what to run; with `share` the model's own module may be changed.
        kept: whether the attention matrices of all layers are held at once; None for no matrix.
        logits: whether the logits of every position are made.
    """

    build: Callable[[icl_bench.Model, bool], Run]
    kept: bool | None
    logits: bool

    def need(self, model: icl_bench.Model, rows: int, length: int) -> int:
        """Bytes that a run takes beside the weights, to leave out what cannot fit.

        Args:
            model: the model.
            rows: sequences in one forward pass.
            length: their tokens.
        """
        config = model.model.config.get_text_config()
        heads = max(model.heads.values())
        matrix = 4 * rows * heads * length**2
        # Scores, their masked copy and the softmax of the layer at work are there at once.
        matrices = 0 if self.kept is None else 3 + (len(model.heads) if self.kept else 0)
        logits = 4 * rows * length * config.vocab_size if self.logits else 0
        return matrices * matrix + logits


def draw(model: icl_bench.Model, length: int, per_round: int) -> RepeatedTokens:
    """Draw repeated sequences of about `length` tokens, `per_round` tokens in all.

    Args:
        model: the model.
        length: tokens of a sequence.
        per_round: tokens of all sequences.
    """
    content = length - (0 if model.bos is None else 1)
    period = min(content // 2, len(model.vocabulary))
    rows = max(1, per_round // length)
    model.batch_size = rows
    return icl_bench.repeated_tokens(
        model, sequences=rows, period=period, repeats=content // period
    )


def read_diagonals(pattern: Tensor, tokens: RepeatedTokens) -> Tensor:
    """Return the four scores of each head from attention matrices.

    Args:
        pattern: (rows, heads, length, length).
        tokens: the sequences behind them.

    Returns:
        shape (4, heads), means over rows.
    """
    n, first, length = tokens.period, tokens.prefix, pattern.shape[-1]
    later = torch.arange(first + n, length)
    content = torch.arange(first + 1, length)
    found = [
        pattern[:, :, later, later - n + 1],
        pattern[:, :, content, content - 1],
        pattern[:, :, later, later - n],
        pattern[:, :, 1:, 0],
    ]
    return torch.stack([values.mean(-1).mean(0) for values in found])


def _plain(model: icl_bench.Model, share: bool) -> Run:
    def run(tokens: RepeatedTokens) -> None:
        with torch.no_grad():
            model.model(tokens.input_ids, use_cache=False)

    return run


def _scan(model: icl_bench.Model, share: bool) -> Run:
    def run(tokens: RepeatedTokens) -> Tensor:
        frame = icl_bench.head_scores(model, tokens)
        return torch.tensor(frame[list(SCORES)].to_numpy().T)

    return run


def _eager(model: icl_bench.Model, share: bool) -> Run:
    module = model.model

    def run(tokens: RepeatedTokens) -> Tensor:
        before = module.config._attn_implementation
        module.config._attn_implementation = "eager"
        try:
            with torch.no_grad():
                output = module(tokens.input_ids, output_attentions=True, use_cache=False)
        finally:
            module.config._attn_implementation = before
        return torch.cat([read_diagonals(part, tokens) for part in output.attentions], dim=1)

    return run


@cache
def boot_bridge(model: icl_bench.Model, share: bool) -> Any:
    """Return TransformerLens' bridge to the same weights.

    Args:
        model: the model.
        share: take the module itself, which changes it, instead of a copy.

    Raises:
        ValueError: TransformerLens does not know the architecture.
    """
    from transformer_lens import TransformerBridge

    tokenizer = model.tokenizer
    if tokenizer is None:
        # It refuses to do without one, although ids are all it is given here.
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        size = model.model.config.get_text_config().vocab_size
        words = models.WordLevel({str(i): i for i in range(size)}, unk_token="0")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(words), unk_token="0", pad_token="0", eos_token="2"
        )
    module = model.model if share else copy.deepcopy(model.model)
    dtype = next(module.parameters()).dtype
    return TransformerBridge.boot_transformers(
        "local", hf_model=module, tokenizer=tokenizer, device="cpu", dtype=dtype
    )


def _lens(model: icl_bench.Model, share: bool) -> Run:
    bridge = boot_bridge(model, share)

    def run(tokens: RepeatedTokens) -> Tensor:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                tokens.input_ids, names_filter=lambda name: name.endswith("attn.hook_pattern")
            )
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in sorted(model.heads)]
        return torch.cat([read_diagonals(cache[name], tokens) for name in names], dim=1)

    return run


def _lens_hooks(model: icl_bench.Model, share: bool) -> Run:
    bridge = boot_bridge(model, share)

    def run(tokens: RepeatedTokens) -> Tensor:
        found: list[Tensor] = []

        def read(pattern: Tensor, hook: Any) -> None:
            found.append(read_diagonals(pattern, tokens))

        hooks = [(f"blocks.{layer}.attn.hook_pattern", read) for layer in sorted(model.heads)]
        with torch.no_grad():
            bridge.run_with_hooks(tokens.input_ids, fwd_hooks=hooks)
        return torch.cat(found, dim=1)

    return run


CONTENDERS: dict[str, Contender] = {
    "plain": Contender(_plain, None, True),
    "scan": Contender(_scan, None, False),
    "eager": Contender(_eager, True, True),
    "lens": Contender(_lens, True, True),
    "lens-hooks": Contender(_lens_hooks, False, True),
}
"""`plain` forward; our `scan`; `eager` forward with `output_attentions=True`; TransformerLens:
`lens` caches the patterns, `lens-hooks` keeps only the diagonals of each."""
