"""Finding and loading the tokenizer that belongs to a model, or saying why there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.models.module.weights import explain_failure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = re.compile(r"(tokenizer|vocab|merges|spiece|sentencepiece).*|.*\.(model|tiktoken)")
_MORE_FILES = ("special_tokens_map.json", "added_tokens.json")
_SAMPLE = "The quick brown fox jumps over the lazy dog."
_SAMPLES = (
    _SAMPLE,
    " In 2023, 650841823 people paid 3.14 or 1,000,000; it's they'll WE'RE camelCase snake_case.",
    "def f(x):\n    return  x**2  # two\n\n\n\tif x != 0x1F: pass\r\n   ",
    "Caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \ufb01 \u017f \u2014 \u201cq\u201d",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \uc548\ub155 "
    "\u0645\u0631\u062d\u0628\u0627 \u043f\u0440\u0438\u0432\u0435\u0442 \U0001f600",
)
"""Texts on which tokenizers differ that split at other places or normalize otherwise."""


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's tokenizer, in order; empty where it has none.

    Args:
        folder: the checkpoint's folder.
    """
    return [folder / name for name in tokenizer_names(os.listdir(folder))]


def tokenizer_names(names: Iterable[str]) -> list[str]:
    """Return which names are those of a tokenizer's files, in order; empty where none is.

    Args:
        names: of a checkpoint's files.
    """
    found = [name for name in names if _FILES.fullmatch(name) or name in _MORE_FILES]
    return sorted(found) if any(map(_FILES.fullmatch, found)) else []


def load_tokenizer(
    source: str, options: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase | None, str | None]:
    """Return the tokenizer of a checkpoint and a note, or None and the reason.

    It does what the checkpoint's `tokenizer.json` says: where the class that the checkpoint names
    does something else, the file is used without that class, and the note says so.

    Args:
        source: folder or hub id.
        options: for `from_pretrained`: revision, whether remote code is trusted.
    """
    from transformers import AutoTokenizer

    # What a hub has is found out by asking for it.
    if os.path.isdir(source) and not tokenizer_files(Path(source)):
        return None, "the folder has no tokenizer files"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return _follow_file(tokenizer, source, options)
    except Exception as error:
        return None, f"its tokenizer cannot be loaded: {explain_failure(error)}"


def _follow_file(
    tokenizer: PreTrainedTokenizerBase, source: str, options: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase, str | None]:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.hub import cached_file

    where = {name: value for name, value in options.items() if name != "trust_remote_code"}
    try:
        file = cached_file(source, "tokenizer.json", **where)
    except OSError:
        return tokenizer, None
    if file is None:
        return tokenizer, None
    written: Any = Tokenizer.from_file(str(file))
    written.no_truncation()
    written.no_padding()
    if _is_alike(tokenizer, lambda text: written.encode(text, add_special_tokens=False).ids):
        return tokenizer, None
    # It may differ because tokenizer_config.json asks for that, which this class follows too.
    plain = PreTrainedTokenizerFast.from_pretrained(source, **where)
    if _is_alike(tokenizer, lambda text: plain(text, add_special_tokens=False)["input_ids"]):
        return tokenizer, None
    return plain, (
        f"{type(tokenizer).__name__}, which tokenizer_config.json names, splits texts otherwise "
        "than tokenizer.json says; texts are tokenized by tokenizer.json"
    )


def _is_alike(tokenizer: Any, encode: Callable[[str], list[int]]) -> bool:
    return all(
        tokenizer(text, add_special_tokens=False)["input_ids"] == encode(text) for text in _SAMPLES
    )


def find_fault(tokenizer: PreTrainedTokenizerBase, model: Any) -> str | None:
    """Return why a tokenizer is of no use with a model, or None.

    Args:
        tokenizer: the tokenizer.
        model: the loaded model.
    """
    try:
        ids = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    except Exception as error:
        return f"its tokenizer does not work: {explain_failure(error)}"
    if not ids:
        return "its tokenizer turns text into no tokens: its vocabulary is missing"
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        return f"its tokenizer gives id {max(ids)}, but the model knows {rows} tokens only"
    return None
