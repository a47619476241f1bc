"""Built-in models load like any other."""

from __future__ import annotations

import torch

from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


def test_a_builtin_model_comes_with_its_tokenizer_ready_to_run() -> None:
    spec = parse_spec("builtin:handwired")
    check_spec(spec)
    parts = load_parts(spec, device="cpu")
    assert not parts.model.training
    assert {weight.dtype for weight in parts.model.parameters()} == {torch.float32}
    assert parts.revision is None
    assert parts.tokenizer is not None, parts.tokenizer_note
