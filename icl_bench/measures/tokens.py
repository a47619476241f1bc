"""Probe sequences: random blocks repeated, their controls, and the pairs that measures look at.

Indices are 0-based. `prefix` counts the tokens before the content (1 with BOS); position i of
the content is physical position prefix + i.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl_bench.errors import MeasurementError, SettingsError
from icl_bench.measures.draws import Draws


@dataclass(repr=False)
class RepeatedTokens:
    """Sequences of a block followed by copies of itself.

    Args:
        input_ids: token ids, shape (sequences, prefix + period * repeats).
        period: tokens in a block.
        repeats: copies of the block.
        prefix: tokens before the first block: 1 with BOS, else 0.

    Raises:
        SettingsError: the shape does not fit, or the content does not repeat.
    """

    input_ids: Tensor
    period: int
    repeats: int = 2
    prefix: int = 0

    def __post_init__(self) -> None:
        try:
            ids = torch.as_tensor(self.input_ids)
        except (TypeError, ValueError, RuntimeError):
            kind = type(self.input_ids).__name__
            raise SettingsError(
                f"input_ids must be integers of shape (sequences, length), not {kind}; ids of text "
                "come from model.tokenizer"
            ) from None
        if ids.ndim != 2 or ids.dtype.is_floating_point or ids.shape[0] == 0:
            raise SettingsError(
                f"input_ids must be integers of shape (sequences, length), not {tuple(ids.shape)}"
            )
        self.input_ids = ids.long()
        length = self.prefix + self.period * self.repeats
        if self.period < 2 or self.repeats < 2 or self.prefix < 0 or ids.shape[1] != length:
            raise SettingsError(
                f"input_ids are {ids.shape[1]} long; prefix + period * repeats = {self.prefix} + "
                f"{self.period} * {self.repeats} = {length} (period and repeats at least 2)"
            )
        content = ids[:, self.prefix :].reshape(len(ids), self.repeats, self.period)
        if not bool((content == content[:, :1]).all()):
            raise SettingsError("input_ids do not repeat: a later copy differs from the first")

    def __repr__(self) -> str:
        first = "" if self.prefix == 0 else f"{self.prefix} + "
        shape = f"{len(self.input_ids)} sequences of {first}{self.repeats} x {self.period} tokens"
        return f"<RepeatedTokens: {shape}>"

    def cut(self, sequences: int, period: int) -> RepeatedTokens:
        """Return the first sequences with only the first tokens of each block.

        Args:
            sequences: how many to take.
            period: tokens of a block to keep.
        """
        ids = self.input_ids[:sequences]
        block = ids[:, self.prefix : self.prefix + period]
        parts = [ids[:, : self.prefix], *[block] * self.repeats]
        return RepeatedTokens(torch.cat(parts, 1), period, self.repeats, self.prefix)


@dataclass
class Pairs:
    """Pairs of (query, key) positions whose attention is wanted.

    Args:
        query: physical positions of the queries, shape (pairs,) or (sequences, pairs).
        key: physical positions of the keys, same shape.
        weight: which pairs count, shape (sequences, pairs), or None when all do.
    """

    query: Tensor
    key: Tensor
    weight: Tensor | None = None

    def rows(self, start: int, stop: int) -> Pairs:
        """Return the pairs of sequences start..stop."""
        return self.of(slice(start, stop))

    def of(self, chosen: slice | Tensor) -> Pairs:
        """Return the pairs of some sequences, by number."""
        if self.query.ndim == 1:
            return self
        weight = None if self.weight is None else self.weight[chosen]
        return Pairs(self.query[chosen], self.key[chosen], weight)


def draw_block(draws: Draws, vocabulary: Sequence[int], period: int) -> list[int]:
    """Return `period` distinct ids drawn uniformly from `vocabulary`.

    Raises:
        MeasurementError: the vocabulary is smaller than the block.
    """
    if period > len(vocabulary):
        raise MeasurementError(
            f"a block of {period} different tokens cannot be drawn from a usable vocabulary of "
            f"{len(vocabulary)}; lower the period"
        )
    return [vocabulary[i] for i in draws.sample(len(vocabulary), period)]


def draw_repeated(
    vocabulary: Sequence[int],
    *,
    sequences: int,
    period: int,
    repeats: int = 2,
    seed: int = 0,
    bos: int | None = None,
    stream: str = "select",
) -> RepeatedTokens:
    """Draw sequences of a random block, repeated.

    Args:
        vocabulary: usable ids.
        sequences: number of sequences.
        period: tokens in a block, without replacement.
        repeats: copies of the block in all.
        seed: seed of the draws.
        bos: id put first, or None.
        stream: which stream of the seed (`icl_bench.measures.draws.STREAMS`).
    """
    rows = []
    for index in range(sequences):
        block = draw_block(Draws(seed, stream, index), vocabulary, period)
        rows.append(([] if bos is None else [bos]) + block * repeats)
    return RepeatedTokens(torch.tensor(rows), period, repeats, 0 if bos is None else 1)


def shuffle_copies(tokens: RepeatedTokens, seed: int = 0) -> Tensor:
    """Return the sequences with every later copy replaced by another permutation of the block.

    No token of a later copy stands at its old place, so the usual offsets never point at a
    true induction target, and none follows the token that it followed before.

    Args:
        tokens: repeated sequences.
        seed: seed of the permutations.
    """
    ids = tokens.input_ids.clone()
    n, prefix = tokens.period, tokens.prefix
    for row in range(len(ids)):
        draws = Draws(seed, "control", row)
        block = ids[row, prefix : prefix + n]
        # Each copy is shuffled against the one before it, whose successors the offset points at.
        order = torch.arange(n)
        for copy in range(1, tokens.repeats):
            order = order[torch.tensor(draws.reordering(n))]
            ids[row, prefix + copy * n : prefix + (copy + 1) * n] = block[order]
    return ids


def draw_plain(
    vocabulary: Sequence[int], *, sequences: int, length: int, seed: int = 0, bos: int | None = None
) -> Tensor:
    """Draw held-out sequences without any repetition, for mean ablation.

    Where the vocabulary is smaller than `length`, whole shuffled vocabularies follow each other.

    Returns:
        ids of shape (sequences, prefix + length).
    """
    rows = []
    for index in range(sequences):
        draws = Draws(seed, "heldout", index)
        row: list[int] = []
        while len(row) < length:
            row += draw_block(draws, vocabulary, min(len(vocabulary), length - len(row)))
        rows.append(([] if bos is None else [bos]) + row)
    return torch.tensor(rows)


def induction_pairs(tokens: RepeatedTokens, offset: int = 1) -> Pairs:
    """Pairs (i, i - n + offset) for i in copies 2 and later: offset 1 is the induction target.

    Only queries whose target is a content position of the past are kept.
    Source: Olsson et al. 2022, prefix matching.
    """
    n, p = tokens.period, tokens.prefix
    query = torch.arange(n, n * tokens.repeats)
    key = query - n + offset
    keep = (key >= 0) & (key <= query)
    return Pairs(query[keep] + p, key[keep] + p)


def successor_pairs(tokens: RepeatedTokens) -> Pairs:
    """Pairs (i, j + 1) for every earlier occurrence j of the token at i, i in copies 2 and later.

    Source: Olsson et al. 2022, appendix (25 tokens, 4 copies); Crosbie & Shutova 2024.
    """
    n = tokens.period
    query = torch.arange(n, n * tokens.repeats)
    parts = [
        torch.stack([later, later - copies * n + 1])
        for copies in range(1, tokens.repeats)
        for later in [query[query >= copies * n]]
    ]
    query, key = torch.cat(parts, 1) + tokens.prefix
    return Pairs(query, key)


def previous_token_pairs(tokens: RepeatedTokens) -> Pairs:
    """Pairs (i, i - 1) for every content position i >= 1. Source: Elhage et al. 2021."""
    query = torch.arange(1, tokens.period * tokens.repeats) + tokens.prefix
    return Pairs(query, query - 1)


def duplicate_token_pairs(tokens: RepeatedTokens) -> Pairs:
    """Pairs (i, i - n) for i in copies 2 and later. Source: Wang et al. 2022."""
    return induction_pairs(tokens, offset=0)


def first_token_pairs(tokens: RepeatedTokens) -> Pairs:
    """Pairs (i, first physical position) for every later physical position."""
    length = tokens.prefix + tokens.period * tokens.repeats
    query = torch.arange(1, length)
    return Pairs(query, torch.zeros_like(query))


def uniform_level(tokens: RepeatedTokens) -> float:
    """Induction score of a head that spreads its attention evenly: mean of 1/(i + 1 + prefix)."""
    query = induction_pairs(tokens).query
    return float((1.0 / (query + 1).double()).mean())


def digest_tokens(*batches: Tensor | np.ndarray) -> str:
    """Return the SHA-256 of batches of ids: shapes and values as 64-bit little-endian integers."""
    digest = hashlib.sha256()
    for batch in batches:
        array = np.ascontiguousarray(np.asarray(batch), dtype="<i8")
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
