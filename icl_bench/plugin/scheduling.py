"""How xdist hands out items: all items of one model to one worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from icl_bench.plugin.crashes import Crashes


class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Items that have a model's SLUG in brackets stay together; others are spread one by one.

    The item at which a worker dies is not run again. What is left of its items goes to another.

    Args:
        config: pytest's.
        log: xdist's.
        slugs: the models of the run.
        crashes: finds out what workers died of.
    """

    def __init__(
        self, config: pytest.Config, log: Any, slugs: Sequence[str], crashes: Crashes
    ) -> None:
        super().__init__(config, log)
        self._slugs, self._crashes = slugs, crashes

    def _slug_of(self, nodeid: str) -> str | None:
        parameters = nodeid.partition("[")[2].removesuffix("]")
        # A slug may be part of another one: the whole first, then the longest.
        for slug in sorted(self._slugs, key=len, reverse=True):
            # In ids of its own tests pytest escapes letters other than Latin.
            escaped = slug.encode("unicode_escape").decode("ascii")
            if any(f"-{name}-" in f"-{parameters}-" for name in (slug, escaped)):
                return slug
        return None

    def _split_scope(self, nodeid: str) -> str:
        slug = self._slug_of(nodeid)
        return nodeid if slug is None else f"icl_bench model {slug}"

    def remove_node(self, node: Any) -> str | None:
        """Take a worker away that ended or died, and return the item at which it died."""
        units = self.assigned_work.pop(node)
        left: list[str] = [one for unit in units.values() for one, done in unit.items() if not done]
        if not left:
            return None
        goes_on = self._crashes.explain(node, left[0], self._slug_of(left[0]))
        for scope, unit in units.items():
            rest = {one: False for one, done in unit.items() if not done and one != left[0]}
            if rest:  # a worker that gets nothing never asks for more
                self.workqueue[scope] = rest
        if goes_on:
            for other in self.assigned_work:
                self._reschedule(other)
        return left[0]

    def _assign_work_unit(self, node: Any) -> None:
        scope, unit = next(iter(self.workqueue.items()))
        slug = self._slug_of(next(iter(unit)))
        try:
            if slug is not None:
                self._crashes.brief(node, slug)
            super()._assign_work_unit(node)
        except OSError:  # it has died too, which xdist will learn next
            self.assigned_work[node].pop(scope, None)
            self.workqueue[scope] = unit

    def _reschedule(self, node: Any) -> None:
        super()._reschedule(node)
        # A worker begins an item when it knows the next: with one alone, a new worker would wait.
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
