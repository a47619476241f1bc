"""What a shell offers for models, suites and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def complete_models(prefix: str = "", **rest: Any) -> Sequence[str]:
    """Return built-in models and the files that a spec may name.

    Args:
        prefix: what was typed so far.
        **rest: whatever else the shell's side passes.
    """
    from argcomplete.completers import FilesCompleter

    from icl_bench.reference import NAMES

    return [*(f"builtin:{name}" for name in NAMES), *FilesCompleter()(prefix, **rest)]


def complete_suites(prefix: str = "", **rest: Any) -> Sequence[str]:
    """Return shipped suites and YAML files.

    Args:
        prefix: what was typed so far.
        **rest: whatever else the shell's side passes.
    """
    from argcomplete.completers import FilesCompleter

    from icl_bench.suite.catalog import shipped_suites

    files = FilesCompleter(allowednames=("yaml", "yml"))(prefix, **rest)
    return [*shipped_suites(), *files]
