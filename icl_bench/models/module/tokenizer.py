"""Finding and loading the tokenizer that belongs to a model, or saying why there is none."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.models.module.weights import explain_failure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = re.compile(r"(tokenizer|vocab|merges|spiece|sentencepiece).*|.*\.(model|tiktoken)")
_MORE_FILES = ("special_tokens_map.json", "added_tokens.json")
_SAMPLE = "The quick brown fox jumps over the lazy dog."


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's tokenizer, in order; empty where it has none.

    Args:
        folder: the checkpoint's folder.
    """
    names = os.listdir(folder)
    if not any(map(_FILES.fullmatch, names)):
        return []
    return sorted(folder / name for name in names if _FILES.fullmatch(name) or name in _MORE_FILES)


def load_tokenizer(
    source: str, options: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase | None, str | None]:
    """Return the tokenizer of a checkpoint, or None and the reason.

    Args:
        source: folder or hub id.
        options: for `from_pretrained`: revision, whether remote code is trusted.
    """
    from transformers import AutoTokenizer

    # What a hub has is found out by asking for it.
    if os.path.isdir(source) and not tokenizer_files(Path(source)):
        return None, "the folder has no tokenizer files"
    try:
        return AutoTokenizer.from_pretrained(source, **options), None
    except Exception as error:
        return None, f"its tokenizer cannot be loaded: {explain_failure(error)}"


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
