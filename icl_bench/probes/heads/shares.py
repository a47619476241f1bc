"""Sums over the parts of attention logits: by side, by kind of component, by head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from icl_bench.models.circuits.attention_attribution import AttentionParts, Source

Head = tuple[int, int]
SIDES = {"key": 2, "query": 1}
"""Side -> the axis of the other side, which a sum over it leaves out."""


def is_token_state(source: Source) -> bool:
    """Whether a component stands for the token itself: the embedding, or the first MLP."""
    return source.kind == "embedding" or (source.kind == "mlp" and source.layer == 0)


class LogitShares:
    """Parts of attention logits, means over the receivers; each result is (sequences, ...).

    Args:
        split: one entry for each receiver.
        heads: every head of the model.
        previous: previous-token scores, (sequences, heads).

    Attributes:
        total: the logit differences.
        mask: the part that the mask adds.
        below: columns of the heads that lie below a receiver.
    """

    def __init__(
        self, split: Sequence[AttentionParts], heads: Sequence[Head], previous: np.ndarray
    ) -> None:
        self.split, self.previous = split, previous
        self.columns = {head: column for column, head in enumerate(heads)}
        self.parts = [part.parts.double().numpy() for part in split]
        self.total = np.mean([part.total.double().numpy() for part in split], axis=0)
        self.mask = np.mean([part.mask.double().numpy() for part in split], axis=0)
        self.below = sorted({column for part in split for column in self._heads(part)[1]})

    def of_kinds(self, side: str, kinds: Collection[str]) -> np.ndarray:
        """Sum over the components of some kinds on one side."""
        sums = []
        for part, values in zip(self.split, self.parts):
            own = [place for place, source in enumerate(part.sources) if source.kind in kinds]
            sums.append(values.sum(SIDES[side])[:, own].sum(1))
        return np.asarray(np.mean(sums, axis=0))

    def of_heads(self, side: str) -> np.ndarray:
        """Sum for every head below a receiver on one side, (sequences, heads below)."""
        sums = np.zeros(self.previous.shape)
        for part, values in zip(self.split, self.parts):
            places, columns = self._heads(part)
            sums[:, columns] += values.sum(SIDES[side])[:, places]
        return sums[:, self.below] / len(self.split)

    def of_previous_token(self, query: Callable[[Source], bool] | None = None) -> np.ndarray:
        """Sum with the best previous-token head below each receiver on the key side.

        The head is chosen by its score on all sequences, not by what is read.

        Args:
            query: which components count on the query side; None for all.
        """
        sums = np.zeros(len(self.previous))
        for part, values in zip(self.split, self.parts):
            places, columns = self._heads(part)
            if places:
                best = places[int(self.previous[:, columns].mean(0).argmax())]
                own = [n for n, s in enumerate(part.sources) if query is None or query(s)]
                sums += values[:, best, own].sum(1)
        return sums / len(self.split)

    def of_token(self) -> np.ndarray:
        """Sum over the token state on the query side."""
        sums = []
        for part, values in zip(self.split, self.parts):
            own = [n for n, source in enumerate(part.sources) if is_token_state(source)]
            sums.append(values.sum(SIDES["query"])[:, own].sum(1))
        return np.asarray(np.mean(sums, axis=0))

    def _heads(self, part: AttentionParts) -> tuple[list[int], list[int]]:
        """Places of the heads below a receiver among its components, and their columns."""
        heads = [(n, s) for n, s in enumerate(part.sources) if s.kind == "head"]
        return [n for n, _ in heads], [self.columns[s.layer, s.head] for _, s in heads]

    def pair_rows(self, part: AttentionParts, count: int) -> list[dict[str, Any]]:
        """The largest pairs of components of one receiver, and a row for the rest.

        Args:
            part: the receiver's parts.
            count: rows to list.
        """
        values, width = part.parts.double().numpy(), len(part.sources)
        flat = values.reshape(len(values), -1)
        order = np.argsort(-np.abs(flat.mean(0)))
        names = [source.name for source in part.sources]
        rows = [
            _row(part, {"key": names[n // width], "query": names[n % width]}, flat[:, n])
            for n in order[:count]
        ]
        if len(order) > count:
            rest = flat[:, order[count:]].sum(1)
            rows.append(_row(part, {"key": "rest", "query": "rest"}, rest))
        return rows

    def side_rows(self, part: AttentionParts) -> list[dict[str, Any]]:
        """One row for each side and component of one receiver, and one for the mask."""
        values = part.parts.double().numpy()
        rows = [
            _row(part, {"side": side, "component": source.name}, values.sum(axis)[:, place])
            for side, axis in SIDES.items()
            for place, source in enumerate(part.sources)
        ]
        mask = {"side": "mask", "component": "mask"}
        return [*rows, _row(part, mask, part.mask.double().numpy())]


def _row(part: AttentionParts, names: dict[str, str], values: np.ndarray) -> dict[str, Any]:
    layer, head = part.head
    count = len(values)
    spread = None if count == 1 else float(values.std(ddof=1) / count**0.5)
    return {
        "layer": layer,
        "head": head,
        **names,
        "value": float(values.mean()),
        "stderr": spread,
    }
