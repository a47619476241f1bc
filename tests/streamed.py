"""A series on disk, streamed and opened one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import torch

from icl_bench.measures.tokens import draw_repeated, induction_pairs
from icl_bench.models.model import Model
from icl_bench.models.opening.conditions import describe_conditions
from icl_bench.models.opening.opening import open_model
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps
from icl_bench.options import RunOptions

CPU = RunOptions(device="cpu")


def write_series(count: int = 3, **changes: Any) -> list[Path]:
    """Write checkpoints of one shape and different weights, as one run leaves them."""
    return [
        checkpoints.write_llama(Path("runs", f"step{seed}"), seed=seed, **changes)
        for seed in range(1, count + 1)
    ]


def numbers(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Induction scores and losses, by the functions that every probe uses."""
    tokens = draw_repeated(model.vocabulary, sequences=3, period=6, seed=2, bos=model.bos)
    scores = model.head_scores(tokens.input_ids, {"induction": induction_pairs(tokens)})
    return (
        torch.stack([scores["induction"][layer] for layer in sorted(scores["induction"])]),
        model.losses(tokens.input_ids).nll,
    )


def compare(text: str = "runs@*", options: RunOptions = CPU) -> None:
    """Open every checkpoint in the stream and alone, and compare everything."""
    stream = CheckpointStream()
    seen = []
    for checkpoint in find_steps(parse_spec(text)):
        poured = stream.open(checkpoint.spec, "slug", options)
        alone = open_model(checkpoint.spec, "slug", options)
        for one, other in zip(numbers(poured), numbers(alone)):
            assert torch.allclose(one, other, rtol=0, atol=1e-7)
        assert describe_conditions(poured) == describe_conditions(alone)
        assert poured.fingerprint == alone.fingerprint
        assert (poured.revision, poured.spec) == (alone.revision, alone.spec)
        assert (poured.tokenizer is None) == (alone.tokenizer is None)
        assert poured.tokenizer_note == alone.tokenizer_note
        seen.append(numbers(alone)[1])
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(seen, seen[1:]))
