"""A source of models: `random:LAYERSxHEADS` is a small Llama with random weights.

`random:2x4@7` has two layers of four heads and the seed 7; the seed is 0 if none is given. Such
models have no circuits: a check that passes on them tests nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SpecError
from icl_bench.models.sources.source import Found, LoadedParts, Source
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions

if TYPE_CHECKING:
    import torch

FORM = re.compile(r"random:(([1-9][0-9]?)x([1-9][0-9]?))(?:@([0-9]{1,9}))?")
HEAD_SIZE, VOCABULARY, CONTEXT = 16, 128, 512


class Random(Source):
    """Llamas with random weights, made anew each time."""

    def recognise(self, text: str) -> ModelSpec:
        match = FORM.fullmatch(text)
        if match is None:
            raise SpecError("not of the form random:LAYERSxHEADS@SEED, such as random:2x4@7")
        return ModelSpec(text, "random", match[1], revision=match[4])

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        return None  # nothing can be missing

    def identity(self, spec: ModelSpec, options: RunOptions, found: Found | None) -> Any:
        return [spec.target, spec.revision or "0"]

    def open(
        self,
        spec: ModelSpec,
        options: RunOptions,
        dtype: torch.dtype | None,
        found: Found | None,
    ) -> LoadedParts:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        layers, heads = map(int, spec.target.split("x"))
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=heads * HEAD_SIZE,
            intermediate_size=2 * heads * HEAD_SIZE,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=CONTEXT,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(spec.revision or 0))
            model = LlamaForCausalLM(config)
        return LoadedParts(model, tokenizer_note="a random model has no tokenizer")


SOURCE = Random()
