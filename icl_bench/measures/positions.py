"""Losses by position in windows of natural text, and what they say about in-context learning.

Positions count the tokens of the text, from 0, without what the tokenizer puts first. A document
is the independent sample: its windows are averaged before anything else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs

FIRST_TOKEN, SECOND_TOKEN = 49, 499
"""Positions of the 50th and the 500th token, which the ICL score compares."""


@dataclass
class Windows:
    """Documents cut into windows of one length.

    Args:
        input_ids: token ids, shape (windows, length), a document's windows one after the other.
        documents: number of the document of each window, shape (windows,).
        prefix: tokens that the tokenizer puts first, in each window.
    """

    input_ids: Tensor
    documents: np.ndarray
    prefix: int = 0

    def of_first(self, documents: int) -> int:
        """Return how many windows the first `documents` documents have."""
        return int((self.documents < documents).sum())


def cut_windows(
    documents: Sequence[Sequence[int]], prefix: Sequence[int], length: int, most: int
) -> Windows:
    """Cut documents into windows that do not overlap; what is left over at the end is dropped.

    Args:
        documents: ids of the text of each document, each enough for one window.
        prefix: ids put first in every window.
        length: tokens of a window, the prefix included.
        most: windows of a document that are taken, from its beginning.

    Raises:
        ValueError: a document is shorter than a window.
    """
    size = length - len(prefix)
    rows: list[list[int]] = []
    owners: list[int] = []
    for number, ids in enumerate(documents):
        count = min(most, len(ids) // size)
        if count == 0:
            raise ValueError(f"document {number} is shorter than a window")
        for start in range(0, count * size, size):
            rows.append([*prefix, *ids[start : start + size]])
            owners.append(number)
    return Windows(torch.tensor(rows), np.array(owners), len(prefix))


@dataclass
class PositionLosses:
    """Losses of every document at every position.

    Args:
        losses: mean over the document's windows, nats, shape (documents, positions), float64.
        first: position of the first column: 0 where something stands before the text, else 1.
        length: tokens of a window, the prefix included.
    """

    losses: np.ndarray
    first: int
    length: int

    @property
    def positions(self) -> np.ndarray:
        """Position of each column."""
        return self.first + np.arange(self.losses.shape[1])

    @property
    def mean(self) -> np.ndarray:
        """Mean loss of each document over all positions, nats, (documents,)."""
        return np.asarray(self.losses.mean(axis=1))

    @property
    def icl_score(self) -> np.ndarray | None:
        """Loss of the 500th minus that of the 50th token, nats, (documents,).

        None where a window is shorter. Source: Olsson et al. 2022.
        """
        late = self.losses[:, self.positions == SECOND_TOKEN]
        early = self.losses[:, self.positions == FIRST_TOKEN]
        return (late - early)[:, 0] if late.size and early.size else None

    @property
    def icl_score_windowed(self) -> np.ndarray:
        """Mean loss of late targets minus that of early ones, nats, (documents,).

        In a window of 512 tokens, targets 256 to 510 minus targets 32 to 63; in others, the
        same shares of it.
        """
        late = self._between(self.length // 2, self.length - 2)
        return np.asarray(late - self._between(self.length // 16, self.length // 8 - 1))

    def _between(self, low: int, high: int) -> np.ndarray:
        inside = (self.positions >= low) & (self.positions <= high)
        return np.asarray(self.losses[:, inside].mean(axis=1))


def previous_pairs(windows: Windows) -> Pairs:
    """Pairs (i, i - 1) of the text's own positions in a window, what stands first left out.

    Args:
        windows: the windows.
    """
    query = torch.arange(windows.prefix + 1, windows.input_ids.shape[1])
    return Pairs(query, query - 1)


def average_documents(windows: Windows, values: np.ndarray) -> np.ndarray:
    """Average what was measured in each window over the windows of each document.

    Args:
        windows: the windows.
        values: shape (windows, ...), of all windows or of the first of them.

    Returns:
        shape (documents, ...).
    """
    owners = windows.documents[: len(values)]
    return np.stack([values[owners == number].mean(axis=0) for number in range(owners[-1] + 1)])


def average_windows(windows: Windows, nll: Tensor) -> PositionLosses:
    """Average the losses of each document's windows, position by position.

    Args:
        windows: the windows, or the first of them as far as `nll` goes.
        nll: loss of every token but the first of each window, nats, (windows, length - 1).
    """
    # What stands in the prefix is no text, and its losses do not count.
    skipped = max(0, windows.prefix - 1)
    return PositionLosses(
        average_documents(windows, nll.double().numpy())[:, skipped:],
        first=1 if windows.prefix == 0 else 0,
        length=windows.input_ids.shape[1],
    )
