"""Writes diffs of models into the report folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SettingsError
from icl_bench.naming import LONGEST, clean
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import write_atomically

if TYPE_CHECKING:
    from icl_bench.diffing.difference import Diff


def write_diffs(diffs: Sequence[Diff], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `diff-A-B/diff.html`, `.md` and `.json` of each result and return the paths.

    Of several models `diff-A-B1-B2/diff.*` beside them have one table.

    Args:
        diffs: the results, of one A.
        folder: the report folder.

    Raises:
        SettingsError: they cannot be written.
    """
    from icl_bench.render.diff import diff_markdown, diffs_markdown
    from icl_bench.render.html.diff import diff_page, diffs_page

    paths = []
    names = [_name(diffs[0].before, "A"), *(_name(diff.after, "B") for diff in diffs)]
    for diff, name in zip(diffs, names[1:]):
        texts = {"html": diff_page(diff), "md": diff_markdown(diff), "json": _json(diff.as_data())}
        paths += _write(Path(folder) / f"diff-{names[0]}-{name}", texts)
    if len(diffs) > 1:
        own = [f"../diff-{names[0]}-{name}/diff.html" for name in names[1:]]
        texts = {
            "html": diffs_page(diffs, own),
            "md": diffs_markdown(diffs),
            "json": _json([diff.as_data() for diff in diffs]),
        }
        name = f"diff-{'-'.join(names)}".encode()[:LONGEST].decode(errors="ignore")
        paths += _write(Path(folder) / name, texts)
    return paths


def _name(record: RunRecord, fallback: str) -> str:
    return clean(record.model.slug) or fallback


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    try:
        return [write_atomically(folder / f"diff.{end}", text) for end, text in texts.items()]
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror or error})") from None
