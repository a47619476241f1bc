"""What the Python functions are given, checked: every usual slip gets one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icl_bench.errors import SettingsError, nearest
from icl_bench.measures.tokens import RepeatedTokens
from icl_bench.models.model import Model

ENCODE = "model.tokenizer(text, return_tensors='pt').input_ids makes ids of text"


def check_model(model: Any) -> Model:
    """Return an open model.

    Args:
        model: what was given for one.

    Raises:
        SettingsError: it is something else; the message says how to get a model from it.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        spec = os.fspath(model)
        raise SettingsError(
            f"expected an open model, not its name: icl_bench.load_model({spec!r}) opens it"
        )
    if isinstance(model, torch.nn.Module):
        raise SettingsError(
            f"expected a model of icl_bench, not {type(model).__name__} as it is: "
            "icl_bench.wrap(model, tokenizer) wraps it"
        )
    raise SettingsError(
        f"the first argument is the model, not {_name(model)}: one that icl_bench.load_model(SPEC) "
        "opened or icl_bench.wrap(model, tokenizer) wrapped"
    )


def check_tokens(tokens: Any) -> RepeatedTokens:
    """Return repeated sequences.

    Args:
        tokens: what was given for them.

    Raises:
        SettingsError: it is something else; the message says how to get them.
    """
    if isinstance(tokens, RepeatedTokens):
        return tokens
    raise SettingsError(
        f"expected repeated tokens, not {_name(tokens)}: icl_bench.repeated_tokens(model) draws "
        "them, icl_bench.RepeatedTokens(input_ids, period=N) takes ids that repeat"
    )


def check_ids(input_ids: Any) -> Tensor:
    """Return token ids, whatever their shape and range.

    Args:
        input_ids: what was given for them.

    Raises:
        SettingsError: it is something else; the message says how to get ids from it.
    """
    if isinstance(input_ids, RepeatedTokens):
        raise SettingsError("expected token ids, not RepeatedTokens: give tokens.input_ids")
    if _is_text(input_ids):
        raise SettingsError(f"expected token ids, not text: {ENCODE}")
    if hasattr(input_ids, "input_ids") or isinstance(input_ids, dict):
        raise SettingsError(f"expected token ids, not {_name(input_ids)}: give its input_ids")
    try:
        return torch.as_tensor(input_ids)
    except (TypeError, ValueError, RuntimeError):
        raise SettingsError(
            f"expected token ids, (batch, seq) whole numbers, not {_name(input_ids)}"
        ) from None


def list_suites(suites: Any, example: str = 'run(["core"], model)') -> list[str]:
    """Return names or paths of suites.

    Args:
        suites: what was given for a list of them.
        example: of how they are given, for the message.

    Raises:
        SettingsError: it is no list of names or paths.
    """
    if isinstance(suites, (str, os.PathLike)):
        raise SettingsError(
            f"suites is {os.fspath(suites)!r}, not a list: give the one in brackets, {example}"
        )
    if not isinstance(suites, Sequence) or not all(
        isinstance(one, (str, os.PathLike)) for one in suites
    ):
        raise SettingsError(f"suites is a list of names or paths, not {_name(suites)}: {example}")
    if not suites:
        raise SettingsError(f"suites is empty: {example}")
    return [os.fspath(one) for one in suites]


def check_word(name: str, value: str, words: Sequence[str]) -> None:
    """Refuse a value that is none of a few words.

    Args:
        name: of the argument.
        value: what was given.
        words: the valid ones.

    Raises:
        SettingsError: it is another; the message names the nearest one.
    """
    if value not in words:
        raise SettingsError(f"unknown {name} {value!r}; {nearest(str(value), words)}")


def _is_text(given: Any) -> bool:
    if isinstance(given, (list, tuple)) and given:
        return _is_text(given[0])
    return isinstance(given, str)


def _name(given: Any) -> str:
    return "text" if _is_text(given) else type(given).__name__
