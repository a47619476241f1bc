"""The one text of the `example` probe: its tokens, where they repeat, and how each reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from icl_bench.errors import MeasurementError

if TYPE_CHECKING:
    import numpy as np

    from icl_bench.models.model import Model

LONGEST = 64
"""Tokens that a text may have, BOS not counted."""
BLOCK = 10
"""Tokens of the block that stands, twice, for a text where there is no tokenizer."""


@dataclass(frozen=True)
class Example:
    """A text as it is fed to the model.

    Args:
        ids: token ids, BOS included.
        prefix: 1 with BOS, else 0.
        tokens: how each token reads.
        repeats: for each position the latest earlier one with the same id, or None.
    """

    ids: tuple[int, ...]
    prefix: int
    tokens: tuple[str, ...]
    repeats: tuple[int | None, ...]

    @property
    def sources(self) -> dict[int, int]:
        """Position of a repeated token -> the position after its earlier occurrence."""
        return {i: earlier + 1 for i, earlier in enumerate(self.repeats) if earlier is not None}

    @property
    def asked(self) -> list[int]:
        """Positions whose prediction is asked for: repeated tokens, and the last."""
        return sorted({*self.sources, len(self.ids) - 1})


def encode_example(
    model: Model, text: str, bos: Literal["auto", "always", "never"], seed: int
) -> Example:
    """Tokenize the text; without a tokenizer, draw a random block and repeat it.

    Args:
        model: the model.
        text: the text.
        bos: whether BOS is put first, as before random tokens.
        seed: seed of the random block.

    Raises:
        NotMeasurable: the tokenizer does not know a word of the text.
        MeasurementError: the text becomes too many tokens, or none, or does not fit the model.
    """
    from icl_bench.measures.draws import Draws
    from icl_bench.measures.tokens import draw_block
    from icl_bench.probes.prompts.encoding import encode_alone

    first = model.choose_bos(bos)
    if model.tokenizer is None:
        content = draw_block(Draws(seed, "example"), model.vocabulary, BLOCK) * 2
    else:
        content = encode_alone(model, text)
    if not content:
        raise MeasurementError(f"the text {text!r} becomes no token")
    if len(content) > LONGEST:
        raise MeasurementError(
            f"the text becomes {len(content)} tokens; an example has {LONGEST} at most"
        )
    ids = [*([] if first is None else [first]), *content]
    if len(ids) < 2:
        raise MeasurementError(f"the text {text!r} becomes one token: nothing follows it")
    model.require_context(len(ids))
    return Example(
        ids=tuple(ids),
        prefix=len(ids) - len(content),
        tokens=tuple(show_token(model.tokenizer, index) for index in ids),
        repeats=tuple(find_repeats(ids, first)),
    )


def find_repeats(ids: Sequence[int], bos: int | None) -> list[int | None]:
    """Return, for each position, the latest earlier one with the same id.

    Args:
        ids: token ids.
        bos: an id that never counts as repeated, or None.
    """
    latest: dict[int, int] = {}
    found: list[int | None] = []
    for position, index in enumerate(ids):
        found.append(None if index == bos else latest.get(index))
        latest[index] = position
    return found


def token_rows(example: Example, losses: Sequence[float] | np.ndarray) -> list[dict[str, Any]]:
    """Return one row per position, BOS included.

    Args:
        example: the text.
        losses: of every token but the first, given all before it, nats.
    """
    rows: list[dict[str, Any]] = []
    for position, (index, token) in enumerate(zip(example.ids, example.tokens)):
        row: dict[str, Any] = {"position": position, "token": token, "id": index}
        if position:
            loss = float(losses[position - 1])
            row |= {"loss": loss, "probability": math.exp(-loss)}
        if (earlier := example.repeats[position]) is not None:
            row |= {"repeats_at": earlier, "source": earlier + 1}
        rows.append(row)
    return rows


def show_token(tokenizer: Any | None, index: int) -> str:
    """Return the text of one token: decoded alone, with the space that it begins with.

    Bytes that are no whole character alone are written as `\\xe2`. Without a tokenizer, or for an
    id that it does not know, the number itself is shown.

    Args:
        tokenizer: the tokenizer, or None.
        index: token id.
    """
    raw = None if tokenizer is None else tokenizer.convert_ids_to_tokens(index)
    if tokenizer is None or raw is None:
        return f"#{index}"
    text = str(
        tokenizer.decode([index], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )
    if "\ufffd" in text or not text:
        return _read_bytes(raw)
    # Tokenizers that mark spaces by this sign drop it from the first token that they decode.
    return f" {text}" if raw.startswith("\u2581") and not text.startswith(" ") else text


def _read_bytes(raw: str) -> str:
    """The bytes that a token of byte-level BPE stands for, as far as they make characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    # The bytes that are no printable character have signs of their own, from 256 on.
    signs = {chr(byte): byte for byte in printable}
    signs |= {chr(256 + place): byte for place, byte in enumerate(others)}
    if raw and all(sign in signs for sign in raw):
        return bytes(signs[sign] for sign in raw).decode("utf-8", "backslashreplace")
    return raw
