"""Parts of attention logits equal products written out by hand, and add up to the logits."""

from __future__ import annotations

import circuit_families as families
import pytest
import torch
from slow_models import SLOW, rotate

import icl_bench
from icl_bench.errors import NotMeasurable
from icl_bench.measures.tokens import Pairs, draw_repeated, induction_pairs
from icl_bench.models.circuits.attention_attribution import attribute_attention
from icl_bench.reference.handwired import handwired

PERIOD = 6


def draw(model, sequences=2):
    return draw_repeated(
        model.vocabulary, sequences=sequences, period=PERIOD, seed=5, bos=model.bos
    )


def split(model, heads, tokens=None):
    tokens = tokens or draw(model)
    return attribute_attention(model, tokens.input_ids, induction_pairs(tokens), heads)


def by_head(slow, joint):
    width = slow.out(0, 0).shape[1]
    return [joint[:, start : start + width] for start in range(0, joint.shape[1], width)]


def project_llama(slow, layer, part, whole, biases):
    """Queries and keys of a part, RMS of the whole."""
    power = whole.pow(2).mean(-1, keepdim=True) + slow.config.rms_norm_eps
    x = part / power.sqrt() * slow.name(layer, "input_layernorm")
    q, k = (x @ slow.name(layer, f"self_attn.{n}_proj").T for n in "qk")
    return [rotate(own) for own in by_head(slow, q)], [rotate(own) for own in by_head(slow, k)]


def project_olmo2(slow, layer, part, whole, biases):
    """Norms over all queries and all keys, with the RMS that those of the whole have."""
    both = []
    for n in "qk":
        matrix = slow.name(layer, f"self_attn.{n}_proj")
        power = (whole @ matrix.T).pow(2).mean(-1, keepdim=True) + slow.config.rms_norm_eps
        normed = part @ matrix.T / power.sqrt() * slow.name(layer, f"self_attn.{n}_norm")
        both.append([rotate(own) for own in by_head(slow, normed)])
    return tuple(both)


def centre_and_scale(part, whole, eps):
    variance = (whole - whole.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True)
    return (part - part.mean(-1, keepdim=True)) / (variance + eps).sqrt()


def project_gpt2(slow, layer, part, whole, biases):
    x = centre_and_scale(part, whole, slow.config.layer_norm_epsilon)
    x = x * slow.get(layer, "ln_1.weight")
    matrix, bias = slow.get(layer, "attn.c_attn.weight"), slow.get(layer, "attn.c_attn.bias")
    if biases:
        x = x + slow.get(layer, "ln_1.bias")
    joint = x @ matrix + (bias if biases else 0)
    q, k, _ = joint.chunk(3, -1)
    return by_head(slow, q), by_head(slow, k)


def project_reference(slow, layer, part, whole, biases):
    x = centre_and_scale(part, whole, slow.config.layer_norm_eps)
    x = x * slow.name(layer, "input_layernorm.weight")
    if biases:
        x = x + slow.name(layer, "input_layernorm.bias")
    q, k = (x @ slow.name(layer, f"self_attn.{n}_proj.weight").T for n in "qk")
    return by_head(slow, q), by_head(slow, k)


PROJECT = {
    "llama": project_llama,
    "olmo2": project_olmo2,
    "gpt2": project_gpt2,
    "icl_reference": project_reference,
}


def list_parts(slow, layer):
    """Name -> what it wrote below a layer."""
    parts = {"embedding": slow.entered[0]}
    for below in range(layer):
        for head in range(slow.heads):
            parts[f"{below}.{head}"] = slow.written[below][head]
        if bool(slow.blocks[below].any()):
            parts[f"mlp {below}"] = slow.blocks[below]
    biases = sum((slow.out_bias(below) for below in range(layer)), torch.zeros(1))
    return parts | {"bias": biases.expand_as(slow.entered[0]).double()}


@pytest.mark.parametrize("name", list(PROJECT))
@pytest.mark.parametrize("receiver", [(2, 1), (1, 3), (0, 2)])
def test_every_pair_equals_a_product_written_by_hand(name, receiver):
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    layer, head = receiver
    slow, n, p = SLOW[name](module), PERIOD, tokens.prefix
    ours = split(model, [receiver], tokens)[0]
    for row, ids in enumerate(tokens.input_ids):
        slow.run(ids)
        parts = list_parts(slow, layer)
        assert [source.name for source in ours.sources] == list(parts)
        projected = {
            one: PROJECT[name](slow, layer, part, slow.entered[layer], one == "bias")
            for one, part in parts.items()
        }
        group = slow.heads // len(projected["bias"][1])
        total = 0.0
        for b, (_, keys) in enumerate(projected.values()):
            for a, (queries, _) in enumerate(projected.values()):
                q, k = queries[head], keys[head // group]
                logits = q @ k.T * q.shape[-1] ** -0.5
                terms = []
                for i in range(n, 2 * n):
                    at, target = p + i, p + i - n + 1
                    others = [float(logits[at, j]) for j in range(at + 1) if j != target]
                    terms.append(float(logits[at, target]) - sum(others) / len(others))
                mean = sum(terms) / len(terms)
                total += mean
                assert float(ours.parts[row, b, a]) == pytest.approx(mean, abs=2e-5)
        assert float(ours.total[row]) == pytest.approx(total, abs=2e-4)
    assert float(ours.parts.abs().max()) > 1e-2


SPLIT = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma3", "opt", "gpt2", "gpt_neox", "icl_reference"),
    *("olmo2", "granite", "cohere", "falcon", "phi", "mixtral", "granitemoeshared", "gpt_oss"),
    *("deepseek_v3", "biogpt"),
]


@pytest.mark.parametrize("name", SPLIT)
def test_the_parts_add_up_to_the_logits_of_eager_attention(name):
    """Differences of logits are differences of log-probabilities, sinks or not."""
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    heads = [(2, 0), (2, 3), (1, 1)]
    found = split(model, heads, tokens)
    module.config._attn_implementation = "eager"
    with torch.no_grad():
        attentions = module(tokens.input_ids, use_cache=False, output_attentions=True).attentions
    for (layer, head), part in zip(heads, found):
        assert part.head == (layer, head)
        for row, matrix in enumerate(attentions[layer][:, head].double()):
            terms = []
            for i in range(PERIOD, 2 * PERIOD):
                at, target = tokens.prefix + i, tokens.prefix + i - PERIOD + 1
                seen = [j for j in range(at + 1) if j != target and matrix[at, j] > 0]
                others = sum(float(matrix[at, j].log()) for j in seen) / len(seen)
                terms.append(float(matrix[at, target].log()) - others)
            expected = sum(terms) / len(terms)
            assert float(part.total[row]) == pytest.approx(expected, abs=2e-3, rel=1e-3)
            whole = float(part.parts[row].sum() + part.mask[row])
            assert whole == pytest.approx(expected, abs=2e-3, rel=1e-3)


def test_before_a_soft_cap_the_parts_add_up_too():
    model = icl_bench.wrap(families.build("gemma2"))
    for part in split(model, [(2, 0), (1, 3)]):
        whole = part.parts.sum((1, 2)) + part.mask
        assert torch.allclose(whole, part.total, atol=1e-4)


def log_differences(model, tokens, layer, head):
    """The same differences from probabilities, pair by pair, as the model runs."""
    length = tokens.input_ids.shape[1]
    at, key = torch.tril_indices(length, length)
    raw = model.head_scores(tokens.input_ids, {"all": Pairs(at, key)}, raw=True)["all"]
    logs = torch.full((len(tokens.input_ids), length, length), float("nan"), dtype=torch.float64)
    logs[:, at, key] = raw[layer][:, head].double().log()
    terms = []
    for i in range(PERIOD, 2 * PERIOD):
        row, target = logs[:, tokens.prefix + i], tokens.prefix + i - PERIOD + 1
        others = [row[:, j] for j in range(tokens.prefix + i + 1) if j != target]
        terms.append(row[:, target] - sum(others) / len(others))
    return sum(terms) / len(terms)


def test_a_bias_by_distance_is_a_part_of_its_own():
    import transformers as tf

    torch.manual_seed(0)
    config = tf.FalconConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, alibi=True, **families._OLD
    )
    model = icl_bench.wrap(tf.FalconForCausalLM(config).eval())
    tokens = draw(model)
    for part in split(model, [(2, 0), (1, 3)], tokens):
        expected = log_differences(model, tokens, *part.head)
        assert torch.allclose(part.total.double(), expected, atol=1e-3)
        assert torch.allclose(part.parts.sum((1, 2)) + part.mask, part.total, atol=1e-4)
        # Four heads have the slopes 1/4, 1/16, 1/64 and 1/256; this family scales them too.
        places = []
        for at in range(tokens.prefix + PERIOD, tokens.prefix + 2 * PERIOD):
            target = at - PERIOD + 1
            others = [j for j in range(at + 1) if j != target]
            places.append(target - sum(others) / len(others))
        slope = 4.0 ** -(part.head[1] + 1) * 16**-0.5
        assert part.mask.tolist() == pytest.approx([slope * sum(places) / PERIOD] * 2, rel=1e-3)


def test_half_precision_adds_up_roughly():
    model = icl_bench.wrap(families.build("qwen3").to(torch.bfloat16))
    exact = icl_bench.wrap(families.build("qwen3"))
    tokens = draw(model)
    for half, full in zip(split(model, [(2, 0)], tokens), split(exact, [(2, 0)], tokens)):
        assert torch.allclose(half.parts.sum((1, 2)) + half.mask, half.total, atol=0.1)
        assert torch.allclose(half.total, full.total, atol=0.2)


def test_numbers_do_not_depend_on_the_batch():
    model = icl_bench.wrap(families.build("qwen3"))
    tokens = draw(model, 3)
    whole = split(model, [(2, 0), (2, 1)], tokens)
    model.batch_size = 1
    single = split(model, [(2, 0), (2, 1)], tokens)
    for ours, theirs in zip(whole, single):
        assert torch.allclose(ours.parts, theirs.parts, atol=1e-5)


def test_targets_beyond_a_window_are_left_out_or_named():
    import transformers as tf

    torch.manual_seed(0)
    config = dict(families.families._GROUPED)
    module = tf.MistralForCausalLM(tf.MistralConfig(**config, sliding_window=4)).eval()
    with pytest.raises(NotMeasurable, match=r"head 2\.0 sees none of its targets"):
        split(icl_bench.wrap(module), [(2, 0)])


def test_queries_that_are_no_sums_are_refused(monkeypatch):
    """A projection that is not linear: the parts cannot add up, and nothing is reported."""
    module = families.build("llama")
    model = icl_bench.wrap(module)
    assert split(model, [(2, 0)])
    attention = module.model.layers[2].self_attn
    handle = attention.q_proj.register_forward_hook(lambda m, args, output: output.tanh())
    with pytest.raises(NotMeasurable, match="parts of queries and keys miss the logit"):
        split(model, [(2, 0)])
    handle.remove()


def test_the_module_is_left_as_it_was():
    module = families.build("llama")
    model = icl_bench.wrap(module)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    split(model, [(2, 0)])
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    assert hooks == after and not any("forward" in vars(m) for m in module.modules())


def test_the_hand_wired_key_side_is_the_previous_token_head():
    tokens = None
    for there in (True, False):
        model = icl_bench.wrap(handwired(previous_token=there))
        tokens = tokens or draw_repeated(model.vocabulary, sequences=2, period=12, bos=model.bos)
        part = split(model, [(1, 0)], tokens)[0]
        names = [source.name for source in part.sources]
        share = part.parts.sum(2)[:, names.index("0.0")] / part.total
        assert bool(((share > 0.8) == there).all())
