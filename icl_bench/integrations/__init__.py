"""Measuring inside training loops: gates on circuits, and a callback for transformers' Trainer.

    trainer = Trainer(..., callbacks=[ICLCallback(gates=[Reaches("induction_max", above=0.4,
                                                                 by_step=2000)])])

Importing this package imports neither torch nor transformers; the names are loaded when they are
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_bench.errors import TrainingGateError
    from icl_bench.integrations.gates import Gate, Keeps, Passes, Reaches
    from icl_bench.integrations.gating import TrainingGate, probe_training
    from icl_bench.integrations.outcome import Outcome
    from icl_bench.integrations.trainer import ICLCallback

__all__ = [
    "Gate",
    "ICLCallback",
    "Keeps",
    "Outcome",
    "Passes",
    "Reaches",
    "TrainingGate",
    "TrainingGateError",
    "probe_training",
]

_HOMES = {
    "Gate": "icl_bench.integrations.gates",
    "ICLCallback": "icl_bench.integrations.trainer",
    "Keeps": "icl_bench.integrations.gates",
    "Outcome": "icl_bench.integrations.outcome",
    "Passes": "icl_bench.integrations.gates",
    "Reaches": "icl_bench.integrations.gates",
    "TrainingGate": "icl_bench.integrations.gating",
    "TrainingGateError": "icl_bench.errors",
    "probe_training": "icl_bench.integrations.gating",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
