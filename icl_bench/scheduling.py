"""How xdist hands out items: all items of one model to one worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ModelScheduling(LoadScopeScheduling):
    """Items that have a model's SLUG in brackets stay together; others are spread one by one.

    Args:
        config: pytest's.
        log: xdist's.
        slugs: the models of the run.
    """

    def __init__(self, config: pytest.Config, log: Any, slugs: Sequence[str]) -> None:
        super().__init__(config, log)
        self._slugs = slugs

    def _split_scope(self, nodeid: str) -> str:
        parameters = nodeid.partition("[")[2].removesuffix("]")
        # A slug may be part of another one: the whole first, then the longest.
        for slug in sorted(self._slugs, key=len, reverse=True):
            # In ids of its own tests pytest escapes letters other than Latin.
            escaped = slug.encode("unicode_escape").decode("ascii")
            if any(f"-{name}-" in f"-{parameters}-" for name in (slug, escaped)):
                return f"icl_bench model {slug}"
        return nodeid
