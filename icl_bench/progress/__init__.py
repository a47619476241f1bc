"""What a run is doing, how far it is and how long it will take; and who shows it."""

from __future__ import annotations

from icl_bench.progress.pace import Pace
from icl_bench.progress.run import Display, RunProgress
from icl_bench.progress.standing import Standing

__all__ = ["Display", "Pace", "RunProgress", "Standing"]
