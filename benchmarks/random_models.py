"""Llamas of several sizes with random weights: for costs, which do not depend on the weights.

As a model spec, from the checkout's root: `benchmarks.random_models:llama_60m`.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def llama_20m() -> LlamaForCausalLM:
    """Return a Llama of 19 million parameters, 10 layers x 6 heads."""
    return _build(vocab_size=8192, hidden_size=384, intermediate_size=1024, layers=10, heads=6)


def llama_60m() -> LlamaForCausalLM:
    """Return a Llama of 59 million parameters, 14 layers x 9 heads."""
    return _build(vocab_size=16384, hidden_size=576, intermediate_size=1536, layers=14, heads=9)


def llama_360m() -> LlamaForCausalLM:
    """Return a Llama of 362 million parameters, 32 layers x 15 heads."""
    return _build(vocab_size=49152, hidden_size=960, intermediate_size=2560, layers=32, heads=15)


def _build(
    *, vocab_size: int, hidden_size: int, intermediate_size: int, layers: int, heads: int
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()
