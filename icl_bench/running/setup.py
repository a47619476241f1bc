"""What the runs of all models of a job have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icl_bench.options import RunOptions
from icl_bench.progress import RunProgress
from icl_bench.running.cache import Cache
from icl_bench.suite.plan import Plan

if TYPE_CHECKING:
    from icl_bench.running.dealing import Dealer


@dataclass(frozen=True)
class Setup:
    """What is measured, and with what.

    Args:
        plan: what to measure and check.
        options: how to open models.
        progress: is told what is going on.
        cache: where measurements are kept and found again; None to do without.
        before_opening: called before a model is opened.
        dealer: has other processes measure; None to measure in this one.
    """

    plan: Plan
    options: RunOptions = field(default_factory=RunOptions)
    progress: RunProgress = field(default_factory=RunProgress)
    cache: Cache | None = None
    before_opening: Callable[[], None] | None = None
    dealer: Dealer | None = None
