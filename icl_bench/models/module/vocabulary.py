"""Which token ids a probe may use."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_bench.errors import ModelError
from icl_bench.models.module.placement import stored_tensors

UNUSABLE = re.compile(
    r"^(<0x[0-9A-Fa-f]{2}>"  # byte fallback
    r"|[<\[]\|?/?(unused|reserved|extra_id|extra|dummy|madeup|pad|unk|special)[\w\- ]*\|?[>\]]"
    r"|<\|.*\|>"  # control tokens in the manner of GPT
    r"|\[[A-Z]+\])$"  # [CLS], [MASK]
)
"""Tokens that no text becomes: byte fallback, unused, reserved, control."""


def usable_ids(model: PreTrainedModel, tokenizer: Any | None) -> list[int]:
    """Return the ids that probe sequences may hold, in ascending order.

    Left out are special, unused, padding and byte-fallback ids, added ones unless most are added,
    and ids that only one of tokenizer, embedding table and logits knows. Without a tokenizer only
    the config's special ids are left out.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer, or None.
    """
    rows = vocabulary_size(model)
    head = getattr(model.get_output_embeddings(), "weight", None)
    if isinstance(head, Tensor):
        rows = min(rows, head.shape[0])
    config = model.config.get_text_config()
    banned: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        value: Any = getattr(config, name, None)
        banned.update(value if isinstance(value, (list, tuple)) else [value])
    if tokenizer is None:
        return [i for i in range(rows) if i not in banned]
    banned.update(tokenizer.all_special_ids)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    banned.update(index for index, token in added.items() if getattr(token, "special", True))
    usable = {
        index
        for token, index in tokenizer.get_vocab().items()
        if index < rows and index not in banned and not UNUSABLE.match(token)
    }
    # Words that were added to a vocabulary may never have been trained; where they are most of
    # it, they are its words.
    words = usable - added.keys()
    return sorted(words if 2 * len(words) >= len(usable) else usable)


def frequent_ids(usable: list[int]) -> list[int]:
    """Return the quarter of the usable ids that stands first in the vocabulary.

    Byte-pair and unigram vocabularies list their pieces in the order in which they were learned,
    which is about that of their frequency. Rare pieces may never have been trained.

    Args:
        usable: ids in ascending order.
    """
    return usable[: max(2, len(usable) // 4)]


BARE = 0.1
"""Share of the median norm below which an embedding counts as none."""


def bare_ids(model: PreTrainedModel, usable: list[int]) -> int:
    """Return how many usable ids have next to no embedding, so that nothing can tell them apart.

    Args:
        model: the causal language model.
        usable: the ids.
    """
    norms = embedding_weight(model).detach()[usable].float().norm(dim=1)
    # Of embeddings that are mostly empty the median is 0 as well.
    typical = norms[norms > 0].median() if bool((norms > 0).any()) else norms.new_tensor(0.0)
    return int((norms <= BARE * typical).sum())


def bos_id(model: PreTrainedModel, tokenizer: Any | None) -> int | None:
    """Return the beginning-of-sequence id: the tokenizer's, else the config's, else None."""
    value = getattr(tokenizer, "bos_token_id", None)
    if value is None:
        value = getattr(model.config.get_text_config(), "bos_token_id", None)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if value is None or not 0 <= int(value) < vocabulary_size(model):
        return None
    return int(value)


def embedding_weight(model: PreTrainedModel) -> Tensor:
    """Return the token embedding (vocabulary, width).

    Raises:
        ModelError: the model has no single table of token embeddings.
    """
    weight = getattr(model.get_input_embeddings(), "weight", None)
    if not isinstance(weight, Tensor):
        raise ModelError(f"{type(model).__name__} has no single table of token embeddings")
    return weight


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return how many ids the token embedding has, padding rows included."""
    return embedding_weight(model).shape[0]


def context_length(model: PreTrainedModel) -> int | None:
    """Return how many tokens the model takes, or None when its config names no limit."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def fingerprint(model: PreTrainedModel) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of every weight."""
    digest = hashlib.sha256()
    for name, tensor in stored_tensors(model):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(flat.shape)} {flat.dtype}\n".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
