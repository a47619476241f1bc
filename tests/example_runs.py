"""Runs of the `example` probe."""

from __future__ import annotations

import torch
import transformers as tf

import icl_bench
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.example import example
from icl_bench.probes.heads import induction

CHOSEN = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)
NAME = "Harry Potter met Tom. Then Harry Potter"
"""Fed as <bos> Harry Potter met Tom . Then Harry Potter: 9 positions."""


def random_llama(layers=3, heads=4, vocabulary=96, width=16, tokenizer=None):
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    return icl_bench.wrap(tf.LlamaForCausalLM(config).eval(), tokenizer)


def run(model, **settings):
    settings = {"heads": CHOSEN, "sequences": 3, "period": 8} | settings
    upstream = None
    if settings["heads"] is CHOSEN:
        scores = induction.Settings(sequences=4, period=20, control=False)
        upstream = induction.measure(model, scores, Context())
    return example.measure(model, example.Settings(**settings), Context(upstream=upstream))
