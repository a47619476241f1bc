"""What a run is doing, how far it is and how long it will take; and who shows it."""

from __future__ import annotations

from icl_bench.progress.pace import Pace
from icl_bench.progress.progress_state import ProgressState
from icl_bench.progress.run import Display, RunProgress

__all__ = ["Display", "Pace", "RunProgress", "ProgressState"]
