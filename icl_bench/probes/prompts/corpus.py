"""Where natural text comes from: Python's own reference, files, or a data set."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from icl_bench.errors import MeasurementError, SettingsError
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.probes.prompts.encoding import require_rows

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order.

    Args:
        source: what it is, in a few words.
        documents: (name, text) of each.
    """

    source: str
    documents: tuple[tuple[str, str], ...]

    @property
    def sha256(self) -> str:
        """SHA-256 over the texts in their order; names are no part of it."""
        digest = hashlib.sha256()
        for _, text in self.documents:
            content = text.encode()
            digest.update(f"{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


class DatasetText(StrictSettings):
    """Which rows of a data set are documents."""

    name: Annotated[str, Field(min_length=1)]
    """Name for `datasets.load_dataset`."""
    config: str | None = None
    """Its configuration, where it has several."""
    split: str = "test"
    """Which split."""
    field: str = "text"
    """The column that holds the text."""
    revision: str | None = None
    """Commit or tag."""
    rows: Annotated[int, Field(ge=1)] = 1000
    """Rows that are read, from the first."""


def read_reference() -> Corpus:
    """Return the language reference that comes with this Python, a topic a document.

    Topics quote one another: a line that an earlier topic has (in the order of their names)
    is left out of the later ones, for what is repeated in the corpus not to count as learned in
    context.
    """
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    documents = []
    for name in sorted(topics):
        lines = []
        for line in topics[name].splitlines():
            line = line.rstrip()
            if line and line in seen:
                continue
            seen.add(line)
            lines.append(line)
        documents.append((name, "\n".join(lines)))
    return Corpus("the language reference of Python (pydoc_data.topics)", tuple(documents))


def read_files(path: Path) -> Corpus:
    """Return a text file as one document, or every `.txt` file of a folder, in order of name.

    Args:
        path: UTF-8 text, or a folder of it, searched to any depth.

    Raises:
        SettingsError: there is nothing, or it cannot be read as text.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.txt"), key=lambda file: file.relative_to(path).as_posix())
        if not files:
            raise SettingsError(f"the folder {path.name!r} has no .txt file")
    else:
        files = [path]
    documents = []
    for file in files:
        try:
            documents.append((file.name, file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SettingsError(f"no such file or folder: {str(path)!r}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{file.name!r} is not UTF-8 text") from None
        except OSError as error:
            raise SettingsError(f"{file.name!r} cannot be read ({error.strerror})") from None
    return Corpus(path.name, tuple(documents))


def read_dataset(chosen: DatasetText) -> Corpus:
    """Return the first rows of a data set, each a document.

    Args:
        chosen: which one.

    Raises:
        MeasurementError: the package `datasets` is missing, or the text cannot be had.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise MeasurementError(
            f"the data set {chosen.name!r} needs a package that is not installed: "
            "pip install datasets"
        ) from None
    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(
            chosen.name,
            chosen.config,
            split=chosen.split,
            revision=chosen.revision,
            streaming=True,
        )
        texts = [row[chosen.field] for row, _ in zip(rows, range(chosen.rows))]
    except KeyError:
        raise MeasurementError(f"{chosen.name!r} has no column {chosen.field!r}") from None
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise MeasurementError(f"the data set {chosen.name!r} cannot be read: {why}") from error
    if not all(isinstance(text, str) for text in texts):
        raise MeasurementError(f"column {chosen.field!r} of {chosen.name!r} is not text")
    return Corpus(chosen.name, tuple((f"row {i}", text) for i, text in enumerate(texts)))


def encode_text(model: Model, text: str) -> tuple[list[int], list[int]]:
    """Tokenize text as the tokenizer's default does.

    Args:
        model: for its tokenizer, which it has.
        text: the text.

    Returns:
        what the tokenizer puts first (a BOS, or nothing), and the ids of the text itself,
        without what it may put at the end.

    Raises:
        MeasurementError: the text cannot be told from what is put around it, or a token of it has
            no row in the model's embedding.
    """
    tokenizer: Any = model.tokenizer
    whole = list(tokenizer(text, verbose=False)["input_ids"])
    plain = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    require_rows(model, whole)
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], plain
    raise MeasurementError("what the tokenizer puts before a text cannot be told from the text")


@dataclass
class Chosen:
    """Documents that fill a window, and what is left beside them.

    Args:
        prefix: ids that the tokenizer puts first.
        documents: (name, ids of the text) of each.
        short: documents that were looked at and are too short.
        spare: ids of documents that are not among `documents`, one after the other.
    """

    prefix: list[int] = field(default_factory=list)
    documents: list[tuple[str, list[int]]] = field(default_factory=list)
    short: int = 0
    spare: list[int] = field(default_factory=list)


def choose_documents(
    model: Model, documents: Sequence[tuple[str, str]], tokens: int, most: int, spare: int
) -> Chosen:
    """Return the first documents that fill a window.

    Args:
        model: for its tokenizer, which it has.
        documents: (name, text) of each.
        tokens: tokens of a window.
        most: how many documents are wanted.
        spare: tokens wanted of other documents; those that are too short serve too.
    """
    chosen = Chosen()
    for name, text in documents:
        full = len(chosen.documents) == most
        if full and len(chosen.spare) >= spare:
            break
        chosen.prefix, ids = encode_text(model, text)
        long = len(chosen.prefix) + len(ids) >= tokens
        if long and not full:
            chosen.documents.append((name, ids))
        else:
            chosen.short += not (long or full)
            chosen.spare += ids
    return chosen
