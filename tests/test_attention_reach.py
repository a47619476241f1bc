"""How many tokens back a model sees: windows, chunks, and layers that see everything."""

from __future__ import annotations

import families
import pytest
import transformers as tf
from handset import textbook

import icl_bench
from icl_bench.errors import MeasurementError
from icl_bench.models.module.reach import attention_reach
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import induction

WINDOW = 8


def neo(*kinds):
    return tf.GPTNeoConfig(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[list(kinds), 2 // len(kinds)]],
        window_size=WINDOW,
        vocab_size=families.VOCABULARY,
    )


@pytest.mark.parametrize(
    ("config", "reach"),
    [
        (tf.MistralConfig(sliding_window=WINDOW), WINDOW - 1),
        (tf.MistralConfig(sliding_window=None), None),
        (families.CONFIGS["gemma3"](), None),
        (families.CONFIGS["gemma2"](), None),
        (neo("global", "local"), None),
        (neo("local"), WINDOW - 1),
        (tf.Qwen2Config(sliding_window=WINDOW, use_sliding_window=False), None),
        (families.CONFIGS["llama"](), None),
        (families.CONFIGS["gpt2"](), None),
        (families.CONFIGS["icl_reference"](), None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_the_layer_that_sees_farthest_counts(config, reach):
    assert attention_reach(config) == reach


def test_layers_without_heads_do_not_see():
    config = tf.MistralConfig(sliding_window=WINDOW)
    config.layer_types = ["linear_attention", "sliding_attention"]
    assert attention_reach(config) == WINDOW - 1
    config.layer_types = ["conv", "mamba"]
    assert attention_reach(config) is None


def test_a_chunk_is_no_window():
    config = tf.MistralConfig(sliding_window=4)
    config.attention_chunk_size = 16
    config.layer_types = ["chunked_attention"]
    assert attention_reach(config) == 15


@pytest.mark.parametrize("name", ["mistral", "local neo"])
def test_a_head_gives_nothing_to_what_lies_beyond_the_reach_and_something_within(name):
    built = tf.GPTNeoForCausalLM(neo("local")) if name != "mistral" else families.build(name)
    model = icl_bench.wrap(built.eval())
    assert model.reach == WINDOW - 1
    settings = induction.Settings(sequences=2, period=WINDOW, control=False)
    within = induction.measure(model, settings, Context())
    assert all(row["induction"] > 0 for row in within.heads)


@pytest.mark.parametrize("probe", [induction, ablation])
def test_a_period_beyond_the_reach_is_refused_with_one_that_fits(probe):
    model = icl_bench.wrap(families.build("mistral"))
    given = {"heads": [[0, 0]]} if probe is ablation else {}
    settings = probe.Settings(sequences=2, period=WINDOW + 1, **given)
    with pytest.raises(MeasurementError, match=r"see 7 tokens back.* period of 9 .* to 8 at most"):
        probe.measure(model, settings, Context())


def test_a_layer_that_sees_everything_is_enough():
    model = icl_bench.wrap(families.build("gemma3"))
    assert model.reach is None
    model.require_reach(1000)
    assert icl_bench.wrap(textbook()).reach is None
