"""Text -> token ids, never glued together from parts that were tokenized apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icl_bench.errors import MeasurementError, NotMeasurable

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.model import Model


def encode(model: Model, text: str) -> list[int]:
    """Tokenize a text in the tokenizer's own way, without what it puts at the end.

    Args:
        model: for its tokenizer.
        text: the text.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: a token that the model does not have.
    """
    plain = encode_alone(model, text)
    tokenizer: Any = model.tokenizer
    ids = list(tokenizer(text)["input_ids"])
    # Templates close every text with tokens of their own, after which no choice may stand.
    for start in range(len(ids) - len(plain) + 1 if plain else 0):
        if ids[start : start + len(plain)] == plain:
            return ids[: start + len(plain)]
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
        ids.pop()
    _refuse_unknown(model, ids, text)
    return ids


def encode_alone(model: Model, text: str) -> list[int]:
    """Tokenize a text without the tokens that the tokenizer puts around texts.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: a token that the model does not have.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise NotMeasurable(f"no text can be put to the model: {model.tokenizer_note}")
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    _refuse_unknown(model, ids, text)
    return ids


def _refuse_unknown(model: Model, ids: Sequence[int], text: str) -> None:
    tokenizer: Any = model.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        raise NotMeasurable(f"the tokenizer does not know every word of {text!r}")
    require_rows(model, ids)


def require_rows(model: Model, ids: Sequence[int]) -> None:
    """Raise MeasurementError where a token of a text has no row in the model's embedding.

    Args:
        model: for its tokenizer and embedding.
        ids: of the text.
    """
    tokenizer: Any = model.tokenizer
    rows = len(model.embedding)
    if past := [token for token in ids if token >= rows]:
        name = tokenizer.convert_ids_to_tokens(past[0])
        raise MeasurementError(
            f"token {name!r} has id {past[0]}, but the model knows {rows} ids (0 to {rows - 1}): "
            "its embedding was not resized when the token was added"
        )


def encode_choices(
    model: Model, prompt: str, choices: Sequence[str]
) -> tuple[list[list[int]], int]:
    """Tokenize prompt and choice together, once per choice.

    Where a choice changes how the prompt's end is tokenized, the tokens from the first difference
    on are scored, for every choice from the same place.

    Args:
        model: for its tokenizer.
        prompt: the text before the choices.
        choices: its continuations, leading space included.

    Returns:
        ids of prompt + choice for each choice, and how many leading ids all of them share with
        the prompt.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: a choice becomes no token, or the prompt becomes none.
    """
    before = encode(model, prompt)
    sequences = [encode(model, prompt + choice) for choice in choices]
    for choice, ids in zip(choices, sequences):
        if ids == before:
            raise MeasurementError(f"choice {choice!r} becomes no token after {prompt!r}")
    shared = min(_common(before, ids) for ids in sequences)
    if shared == 0:
        raise MeasurementError(f"nothing stands before the choices of {prompt!r}")
    return sequences, shared


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def pad(sequences: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Stack sequences of different lengths, filled up on the right.

    A causal model cannot see padding there.

    Returns:
        ids of shape (sequences, longest).
    """
    import torch

    longest = max(map(len, sequences))
    return torch.tensor([[*ids, *[filler] * (longest - len(ids))] for ids in sequences])
