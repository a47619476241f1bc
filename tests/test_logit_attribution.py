"""What heads write adds up to the logits, and equals a decomposition written out by hand."""

from __future__ import annotations

import circuit_families as families
import pytest
import torch
import transformers as tf
from slow_models import SLOW

import icl_bench
from icl_bench.errors import NotMeasurable
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.circuits.attribution import attribute_logits

PERIOD = 6


def draw(model, sequences=2):
    return draw_repeated(
        model.vocabulary, sequences=sequences, period=PERIOD, seed=5, bos=model.bos
    )


@pytest.mark.parametrize("name", list(SLOW))
def test_each_head_equals_a_decomposition_written_by_hand(name):
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    slow = SLOW[name](module)
    sums = {}
    for ids in tokens.input_ids:
        slow.run(ids)
        targets = range(tokens.prefix + PERIOD + 1, len(ids))
        for layer in range(3):
            for head in range(4):
                part = slow.written[layer][head]
                values = [float(slow.attribute(part, at, ids[at])) for at in targets]
                sums.setdefault((layer, head), []).append(sum(values) / len(values))
    frame = icl_bench.logit_attribution(model, tokens)
    assert list(frame.columns) == ["layer", "head", "logit", "logit_stderr"]
    assert len(frame) == 12
    for row in frame.itertuples():
        first, second = sums[row.layer, row.head]
        assert row.logit == pytest.approx((first + second) / 2, abs=1e-5)
        assert row.logit_stderr == pytest.approx(abs(first - second) / 2, abs=1e-5)
    assert frame["logit"].abs().max() > 1e-3


@pytest.mark.parametrize("name", families.EVERY)
def test_the_parts_add_up_to_the_original_logits(name):
    model = icl_bench.wrap(families.build(name))
    tokens = draw(model)
    targets = repeated_targets(tokens)
    parts = attribute_logits(model, tokens.input_ids, targets)
    with torch.no_grad():
        logits = model.model(tokens.input_ids, use_cache=False).logits.double()
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.atanh(logits / cap)
    logits = logits[:, targets - 1]
    answer = tokens.input_ids[:, targets]
    expected = (logits.gather(-1, answer[..., None])[..., 0] - logits.mean(-1)).mean(1)
    whole = parts.embedding + parts.bias + sum(part.sum(1) for part in parts.heads.values())
    whole = whole + sum(parts.rest.values())
    assert torch.allclose(parts.total.double(), expected, atol=1e-4)
    assert torch.allclose(whole.double(), expected, atol=1e-4)
    assert all(part.abs().max() > 1e-5 for part in parts.heads.values())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bloom", "granite", "bitnet"])
def test_a_head_that_writes_nothing_gets_nothing(name):
    module = families.build(name)
    weight = families.layer_of(module, 1).get_submodule(families.OUT.get(name, "self_attn.o_proj"))
    with torch.no_grad():
        matrix = weight.weight.T if name == "gpt2" else weight.weight
        width = matrix.shape[1] // 4
        matrix[:, 2 * width : 3 * width] = 0
    model = icl_bench.wrap(module)
    frame = icl_bench.logit_attribution(model, draw(model)).set_index(["layer", "head"])
    assert frame.loc[(1, 2), "logit"] == 0
    assert (frame.drop(index=(1, 2))["logit"] != 0).all()


def test_only_the_copying_head_of_the_hand_wired_model_writes():
    model = icl_bench.load_model("builtin:handwired")
    tokens = icl_bench.repeated_tokens(model, sequences=3, period=12)
    frame = icl_bench.logit_attribution(model, tokens).set_index(["layer", "head"])
    assert frame.loc[(1, 0), "logit"] > 10
    assert frame.drop(index=(1, 0))["logit"].abs().max() < 1e-4
    one = icl_bench.repeated_tokens(model, sequences=1, period=12)
    assert icl_bench.logit_attribution(model, one)["logit_stderr"].isna().all()


def test_attribution_does_not_depend_on_the_batch():
    model = icl_bench.wrap(families.build("gemma2"))
    tokens = draw(model, 3)
    whole = icl_bench.logit_attribution(model, tokens)
    model.batch_size = 1
    single = icl_bench.logit_attribution(model, tokens)
    assert (whole["logit"] - single["logit"]).abs().max() < 1e-6


def test_in_half_precision_the_parts_still_add_up():
    model = icl_bench.wrap(families.build("llama").to(torch.bfloat16))
    exact = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    half = icl_bench.logit_attribution(model, tokens)
    full = icl_bench.logit_attribution(exact, tokens)
    assert (half["logit"] - full["logit"]).abs().max() < 0.02


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2"])
def test_changed_weights_are_seen(name):
    """The anatomy is found once; numbers are read from the weights as they are."""
    model = icl_bench.wrap(families.build(name))
    tokens = draw(model)
    before = icl_bench.logit_attribution(model, tokens)
    other = families.build(name, seed=1)
    model.model.load_state_dict(other.state_dict())
    expected = icl_bench.logit_attribution(icl_bench.wrap(other), tokens)
    found = icl_bench.logit_attribution(model, tokens)
    assert (found["logit"] - expected["logit"]).abs().max() < 1e-6
    assert (found["logit"] - before["logit"]).abs().max() > 1e-3


def test_a_model_without_heads_says_so():
    config = tf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2)
    model = icl_bench.wrap(tf.AutoModelForCausalLM.from_config(config))
    with pytest.raises(NotMeasurable, match="state-space model"):
        icl_bench.logit_attribution(model, draw(model))
