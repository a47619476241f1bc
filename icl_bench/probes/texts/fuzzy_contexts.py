"""The contexts of the `fuzzy` probe: their tokens, and where words and names lie in them.

An item gives four contexts for each query: the two names either way round, and the two pairs in
either order. Each name is thus as often first and last, and after each word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.probes.prompts.encoding import encode, pad
from icl_bench.tasks import FuzzyItem

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.tokens import Pairs
    from icl_bench.models.model import Model

ARRANGEMENTS = [(swapped, later) for swapped in (False, True) for later in (False, True)]
"""(whether the word is followed by the second name, whether its pair comes second)."""
FIELDS = ("{a}", "{b}", "{c}", "{d}", "{query}")


@dataclass
class Row:
    """One context.

    Args:
        ids: its tokens; the last is the last token of the query.
        bound: position of the first token of the name after the word.
        other: position of the first token of the name after the other word.
        word: tokens of the word in the context.
        query: tokens of the query.
    """

    ids: list[int]
    bound: int
    other: int
    word: list[int]
    query: list[int]

    @property
    def names(self) -> tuple[int, int]:
        """First tokens of the name after the word, and of the other name."""
        return self.ids[self.bound], self.ids[self.other]


@dataclass
class Contexts:
    """The contexts of all items that fit, item by item, query by query, four each.

    Args:
        items: the items that fit.
        rows: their contexts.
        input_ids: (rows, length), filled up on the right.
        skipped: word, synonym and reason of each item that does not fit.
    """

    items: list[FuzzyItem]
    rows: list[Row]
    input_ids: Tensor
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shortest(self) -> int:
        """Tokens of the shortest context."""
        return min(len(row.ids) for row in self.rows)

    @property
    def targets(self) -> Tensor:
        """Positions after the last token of any context."""
        import torch

        return torch.arange(self.shortest, self.input_ids.shape[1] + 1)

    @property
    def answers(self) -> Tensor:
        """First tokens of both names, (rows, targets, 2), the bound one first."""
        import torch

        names = torch.tensor([row.names for row in self.rows])
        return names[:, None].expand(-1, len(self.targets), -1)

    def pairs(self, *, other: bool = False) -> Pairs:
        """From the last token of the query to the bound name's first token, or the other's."""
        import torch

        from icl_bench.measures.tokens import Pairs

        queries = [[len(row.ids) - 1] for row in self.rows]
        keys = [[row.other if other else row.bound] for row in self.rows]
        return Pairs(torch.tensor(queries), torch.tensor(keys))

    def effects(self, nll: Tensor) -> dict[str, np.ndarray]:
        """Return query -> logit of the bound name minus the other's, one value per item.

        Args:
            nll: losses (rows, targets, 2).
        """
        import torch

        place = torch.tensor([len(row.ids) for row in self.rows]) - self.shortest
        own = nll[torch.arange(len(nll)), place].double()
        return self.gather((own[:, 1] - own[:, 0]).numpy())

    def gather(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return query -> means over the four contexts, one value per item, of (rows,) values."""
        means = values.reshape(len(self.items), 3, len(ARRANGEMENTS)).mean(-1)
        return {name: means[:, place] for place, name in enumerate(("exact", "fuzzy", "unrelated"))}


def lay_out_items(model: Model, items: Sequence[FuzzyItem], template: str) -> Contexts:
    """Tokenize the contexts of every item; those that do not fit are kept with the reason.

    Raises:
        NotMeasurable: there is no tokenizer.
    """
    if model.tokenizer is None:
        raise NotMeasurable(f"no text can be put to the model: {model.tokenizer_note}")
    fitting: list[FuzzyItem] = []
    rows: list[Row] = []
    skipped: list[dict[str, Any]] = []
    for item in items:
        own, reason = _encode_item(model, item, template)
        if reason is None:
            fitting.append(item)
            rows += own
        else:
            skipped.append({"word": item.word, "synonym": item.synonym, "reason": reason})
    ids = [row.ids for row in rows] or [[model.vocabulary[0]]]
    return Contexts(fitting, rows, pad(ids, model.vocabulary[0]), skipped)


def _encode_item(model: Model, item: FuzzyItem, template: str) -> tuple[list[Row], str | None]:
    """Return the twelve contexts of an item, or why it does not fit."""
    rows = []
    for query in (item.word, item.synonym, item.unrelated):
        for swapped, later in ARRANGEMENTS:
            names = (item.second, item.first) if swapped else (item.first, item.second)
            try:
                row = _encode_row(model, item, query, names, later, template)
            except NotMeasurable as error:
                return [], str(error)
            if row is None:
                return [], "words run together in tokens"
            rows.append(row)
    exact, fuzzy, unrelated = (rows[place] for place in (0, 4, 8))
    if any(row.names[0] == row.names[1] for row in rows):
        return [], "both names begin with the same token"
    if any(row.query != row.word for row in rows[:4]):
        return [], "the word has other tokens at the end than in the context"
    if set(exact.word) & set(fuzzy.query):
        return [], "the near-synonym shares a token with the word"
    if set(exact.word) & set(unrelated.query):
        return [], "the unrelated word shares a token with the word"
    return rows, None


def _encode_row(
    model: Model,
    item: FuzzyItem,
    query: str,
    names: tuple[str, str],
    later: bool,
    template: str,
) -> Row | None:
    """Tokenize one context whole; None where a word's end is not a token's end."""
    own, others = (item.word, names[0]), (item.other, names[1])
    words = (*others, *own) if later else (*own, *others)
    text, spans = template, []
    for name, word in zip(FIELDS, (*words, query)):
        start = text.index(name)
        text = text.replace(name, word)
        spans.append((start, start + len(word)))
    ids = encode(model, text)
    places = []
    for start, stop in spans:
        # A tokenizer puts the space before a word into its token.
        before = encode(model, text[:start].rstrip())
        through = encode(model, text[:stop])
        if ids[: len(before)] != before or ids[: len(through)] != through:
            return None
        places.append((len(before), len(through)))
    first, second = places[:2], places[2:4]
    bound, other = (second, first) if later else (first, second)
    return Row(
        ids,
        bound[1][0],
        other[1][0],
        ids[slice(*bound[0])],
        ids[slice(*places[4])],
    )
