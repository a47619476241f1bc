"""Real models that end the process: what a run under xdist makes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import icl_bench


def big_batch() -> tuple[Any, Any]:
    """Die, as if out of memory, of the first batch of more than 500 tokens; `OPENED` counts."""
    with Path(os.environ["OPENED"]).open("a") as stream:
        print(os.getpid(), file=stream)
    opened = icl_bench.load_model("builtin:handwired")
    inner = opened.model.model  # scans stop here and need no logits
    forward = inner.forward

    def limited(input_ids: Any, **rest: Any) -> Any:
        if input_ids.numel() > 500:
            os._exit(137)
        return forward(input_ids=input_ids, **rest)

    inner.forward = limited
    return opened.model, opened.tokenizer
