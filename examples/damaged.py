"""The built-in model with one dead induction head: what a gate is for.

    icl-bench run builtin:induction-2l --suite=gate --save-baseline=good.json
    icl-bench run examples.damaged:without_head_1_0 --suite=gate --baseline=good.json

The model still predicts text and passes the suite's own thresholds. The comparison with the
baseline names the head and ends with exit code 1.
"""

from __future__ import annotations

import torch

import icl_bench


def without_head_1_0() -> icl_bench.Model:
    """Return `builtin:induction-2l` with the query weights of head 1.0 set to 0."""
    model = icl_bench.load_model("builtin:induction-2l")
    queries = model.model.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        queries[: model.anatomy.layers[1].width] = 0
    return model
