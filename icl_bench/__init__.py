"""Tests for the circuits of in-context learning in language models.

    m  = icl_bench.load_model("builtin:induction-2l")
    t  = icl_bench.repeated_tokens(m, sequences=4, period=50)
    df = icl_bench.head_scores(m, t)

Importing this package does not import torch; the names below are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from icl_bench.api import head_scores, load_model, repeated_tokens, run, wrap
    from icl_bench.api.ablations import ablation_sweep, minimal_set, token_losses
    from icl_bench.api.attributions import attention_attribution, logit_attribution
    from icl_bench.api.circuits import ov_copying, path_patching, weight_composition
    from icl_bench.api.diffs import diff
    from icl_bench.errors import IclError
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model
    from icl_bench.records.reading import read_record
    from icl_bench.records.record import RunRecord

__all__ = [
    "IclError",
    "Model",
    "RepeatedTokens",
    "RunRecord",
    "__version__",
    "ablation_sweep",
    "attention_attribution",
    "diff",
    "head_scores",
    "load_model",
    "logit_attribution",
    "minimal_set",
    "ov_copying",
    "path_patching",
    "read_record",
    "repeated_tokens",
    "run",
    "token_losses",
    "weight_composition",
    "wrap",
]

_HOMES = {
    "ablation_sweep": "icl_bench.api.ablations",
    "minimal_set": "icl_bench.api.ablations",
    "token_losses": "icl_bench.api.ablations",
    "diff": "icl_bench.api.diffs",
    "IclError": "icl_bench.errors",
    "Model": "icl_bench.models.model",
    "RepeatedTokens": "icl_bench.measures.tokens",
    "RunRecord": "icl_bench.records.record",
    "attention_attribution": "icl_bench.api.attributions",
    "logit_attribution": "icl_bench.api.attributions",
    "ov_copying": "icl_bench.api.circuits",
    "path_patching": "icl_bench.api.circuits",
    "read_record": "icl_bench.records.reading",
    "weight_composition": "icl_bench.api.circuits",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'icl_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "icl_bench.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
