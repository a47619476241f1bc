"""Training that a gate stopped, told once more when the program ends.

`on_failure="stop"` changes no exit code: a script that does not look at the failures would end as
if all were well, with the error far up in its log.
"""

from __future__ import annotations

import atexit
import logging

log = logging.getLogger("icl_bench.training")

_runs: list[str] = []


def tell_at_exit(run: str, step: int, why: str) -> None:
    """Log, when this process ends, that a gate had stopped training.

    Args:
        run: name of the training run.
        step: optimizer steps that it had made.
        why: the gates that failed, in words.
    """
    if not _runs:
        atexit.register(_tell)
    _runs.append(f"training {run} was stopped at step {step}: {why}")


def _tell() -> None:
    if _runs:
        told = "; ".join(_runs)
        log.error(
            "icl_bench: %s. The exit code does not say so by itself: end the script with "
            "sys.exit(1) if callback.failures, or use on_failure='raise'",
            told,
        )
        _runs.clear()
