"""Path patching equals forward passes written out by hand, and finds the hand-wired circuit."""

from __future__ import annotations

import circuit_families as families
import pytest
import torch
from families import GPTJ_HOOKED
from slow_models import SLOW

import icl_bench
from icl_bench.api import Bench
from icl_bench.errors import NotMeasurable, SettingsError
from icl_bench.measures.tokens import draw_repeated
from icl_bench.measures.varied import draw_varied
from icl_bench.models.circuits.patching import Paths, Scored, patch_paths
from icl_bench.reference.handwired import handwired

PERIOD = 6
HEADS = [(layer, head) for layer in range(3) for head in range(4)]
INTERFACE = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3",
    "gemma2",
    "opt",
    "icl_reference",
    "olmo2",
    "granite",
    "cohere",
    "mixtral",
    "gpt_oss",
]
"""Families with query, key and value projections of their own."""
INPUT_NORM = {"opt": "self_attn_layer_norm", "olmo2": None}
POST_NORM = ("gemma3", "gemma2", "olmo2")


def draw(model, sequences=2):
    return draw_repeated(
        model.vocabulary, sequences=sequences, period=PERIOD, seed=5, bos=model.bos
    )


def induction_score(pattern, tokens):
    n, p = tokens.period, tokens.prefix
    return float(sum(pattern[p + i, p + i - n + 1] for i in range(n, 2 * n)) / n)


@pytest.mark.parametrize("name", list(SLOW))
def test_every_side_equals_a_forward_pass_written_by_hand(name):
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    slow = SLOW[name](module)
    sides = ("query", "key", "value")
    frame = icl_bench.path_patching(model, tokens, receivers=HEADS[4:], side=sides)
    assert len(frame) == 3 * (4 * 4 + 4 * 8)
    expected = {}
    for ids in tokens.input_ids:
        logits = slow.run(ids)
        with torch.no_grad():
            assert torch.allclose(logits.float(), module(ids[None]).logits[0], atol=1e-4)
        for row in frame.itertuples():
            sender, receiver = (row.sender_layer, row.sender_head), (row.layer, row.head)
            pattern, written = slow.patched(sender, receiver, row.side)
            if row.side == "value":
                first = tokens.prefix + PERIOD + 1
                parts = [
                    float(slow.attribute(written, at, ids[at])) for at in range(first, len(ids))
                ]
                score = sum(parts) / len(parts)
            else:
                score = induction_score(pattern, tokens)
            expected.setdefault(row.Index, []).append(score)
    for row in frame.itertuples():
        assert row.patched == pytest.approx(sum(expected[row.Index]) / 2, abs=2e-5)
        assert row.drop == pytest.approx(row.clean - row.patched, abs=1e-6)
    assert (frame["drop"].abs() > 1e-3).mean() > 0.5


@pytest.mark.parametrize("name", INTERFACE)
@pytest.mark.parametrize("side", ["query", "key"])
def test_sides_equal_the_original_attention_with_one_projection_fed_otherwise(name, side):
    """In eager attention, with hooks: the projection of one side reads the patched stream."""
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    sender, layer = (0, 2), 2
    frame = icl_bench.path_patching(
        model, tokens, [(layer, head) for head in range(4)], [sender], side
    )
    receiver = families.layer_of(module, layer)
    sending = families.layer_of(module, sender[0])
    projection = sending.get_submodule(families.OUT.get(name, "self_attn.o_proj"))
    seen = {}

    def keep_input(module_, args):
        seen["outputs"] = args[0]

    def keep_norm(module_, args, output):
        seen["norm"] = (args[0], output)

    def keep_stream(module_, args, kwargs):
        seen["stream"] = args[0] if args else kwargs["hidden_states"]

    handles = [
        projection.register_forward_pre_hook(keep_input),
        receiver.register_forward_pre_hook(keep_stream, with_kwargs=True),
    ]
    if name in POST_NORM:
        handles.append(sending.post_attention_layernorm.register_forward_hook(keep_norm))
    module.config._attn_implementation = "eager"
    with torch.no_grad():
        module(tokens.input_ids, use_cache=False)
    for handle in handles:
        handle.remove()

    outputs = seen["outputs"]
    width = outputs.shape[-1] // 4
    mask = torch.zeros_like(outputs)
    mask[..., sender[1] * width : (sender[1] + 1) * width] = 1
    written = (outputs * mask) @ projection.weight.T
    if name in POST_NORM:
        entered, normed = seen["norm"]
        written = written * (normed / entered)  # an RMSNorm multiplies each number
    written = written * getattr(module.config, "residual_multiplier", 1.0)
    norm = INPUT_NORM.get(name, "input_layernorm")
    with torch.no_grad():
        patched = seen["stream"] - written
        read = patched if norm is None else receiver.get_submodule(norm)(patched)

    fed = receiver.self_attn.get_submodule("q_proj" if side == "query" else "k_proj")
    handle = fed.register_forward_pre_hook(lambda module_, args: (read,))
    with torch.no_grad():
        output = module(tokens.input_ids, use_cache=False, output_attentions=True)
    handle.remove()
    for row in frame.itertuples():
        patterns = output.attentions[layer][:, row.head]
        score = sum(induction_score(pattern, tokens) for pattern in patterns) / 2
        assert row.patched == pytest.approx(score, abs=1e-5)
    assert frame["drop"].abs().max() > 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_several_senders_leave_together(name):
    model = icl_bench.wrap(families.build(name))
    tokens = draw(model)
    slowly = icl_bench.path_patching(model, tokens, [(2, 1)], [(1, 0), (0, 3)])
    both = icl_bench.path_patching(model, tokens, [(2, 1)], [(1, 0), (0, 3)], together=True)
    assert list(slowly["sender_layer"]) == [0, 1] and len(both) == 1
    assert both["sender_layer"].isna().all()
    if name == "llama":
        slow = SLOW[name](model.model)
        scores = []
        for ids in tokens.input_ids:
            slow.run(ids)
            # A set is one contribution: the sum goes into the first head's place.
            slow.written[0][3] = slow.written[0][3] + slow.written[1][0]
            scores.append(induction_score(slow.patched((0, 3), (2, 1), "key")[0], tokens))
        assert both["patched"][0] == pytest.approx(sum(scores) / 2, abs=2e-5)


def test_a_stand_in_takes_the_place_of_the_output():
    """Replaced by what it wrote anyway, a head is not missed; a constant moves the score."""
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    receivers, senders = [(2, 0)], [(0, 1)]
    zeros = {0: torch.zeros(4, 16)}
    means = model.mean_outputs(tokens.input_ids, tokens.prefix)
    plain = icl_bench.path_patching(model, tokens, receivers, senders)
    zeroed = icl_bench.path_patching(model, tokens, receivers, senders, values=zeros)
    mean = icl_bench.path_patching(model, tokens, receivers, senders, values=means)
    assert zeroed["patched"][0] == pytest.approx(plain["patched"][0], abs=1e-7)
    assert abs(mean["patched"][0] - plain["patched"][0]) > 1e-5
    slow = SLOW["llama"](model.model)
    scores = []
    for ids in tokens.input_ids:
        slow.run(ids)
        slow.written[0][1] = slow.written[0][1] - means[0][1].double() @ slow.out(0, 1).T
        scores.append(induction_score(slow.patched((0, 1), (2, 0), "key")[0], tokens))
    assert mean["patched"][0] == pytest.approx(sum(scores) / 2, abs=2e-5)


def test_scores_do_not_depend_on_the_batch():
    model = icl_bench.wrap(families.build("gemma3"))
    tokens = draw(model, 3)
    whole = icl_bench.path_patching(model, tokens, [(1, 0), (2, 3)], side=("key", "value"))
    model.batch_size = 1
    single = icl_bench.path_patching(model, tokens, [(1, 0), (2, 3)], side=("key", "value"))
    assert (whole["patched"] - single["patched"]).abs().max() < 1e-6


def test_pairs_may_differ_from_sequence_to_sequence():
    model = icl_bench.wrap(families.build("llama"))
    varied = draw_varied(model.vocabulary, sequences=3, period=PERIOD, bos=model.bos)
    ids, pairs = varied.input_ids, varied.pairs()
    everything = [(head,) for head in HEADS]
    scored = Scored(ids, pairs, torch.arange(1, 3))
    effects = patch_paths(model, scored, Paths([1, 2], everything, ("query", "key")))
    assert [(e.layer, e.side, len(e.senders)) for e in effects] == [
        (1, "query", 4),
        (1, "key", 4),
        (2, "query", 8),
        (2, "key", 8),
    ]
    for row in range(3):
        own = scored.rows(row, row + 1)
        alone = patch_paths(model, own, Paths([2], everything, ("key",)))[0]
        assert torch.allclose(effects[3].patched[:, row], alone.patched[:, 0], atol=1e-6)
        assert torch.allclose(effects[3].clean[row], alone.clean[0], atol=1e-6)


def test_the_hand_wired_circuit_is_found_on_the_key_side_and_nowhere_else():
    model = icl_bench.load_model("builtin:handwired")
    tokens = icl_bench.repeated_tokens(model, sequences=3, period=12)
    frame = icl_bench.path_patching(
        model, tokens, receivers=[(1, 0)], side=("key", "query", "value")
    )
    frame = frame.set_index(["sender_head", "side"])
    feeder = frame.loc[(0, "key")]
    assert feeder["clean"] > 0.99 and feeder["patched"] < 1e-3
    assert abs(frame.loc[(0, "query"), "drop"]) < 1e-5
    others = frame.drop(index=[(0, "key"), (0, "value")])
    assert others["drop"].abs().max() < 1e-5
    # The value side reads `token - previous`; what the output slot gets is nearly all token.
    assert frame.loc[(0, "value"), "drop"] < 0.05 * frame.loc[(0, "value"), "clean"]


def test_the_twin_without_a_previous_token_head_shows_no_composition():
    model = icl_bench.wrap(handwired(previous_token=False))
    tokens = icl_bench.repeated_tokens(model, sequences=3, period=12)
    frame = icl_bench.path_patching(model, tokens, receivers=[(1, 0)])
    assert frame["clean"].max() < 0.1 and frame["drop"].abs().max() < 1e-5


def test_the_table_has_one_row_for_each_sender_receiver_and_side():
    model = icl_bench.wrap(families.build("llama"))
    frame = icl_bench.path_patching(model, draw(model), [(1, 0), (2, 3)], side=["key", "query"])
    assert list(frame.columns) == [
        "sender_layer",
        "sender_head",
        "layer",
        "head",
        "side",
        "clean",
        "patched",
        "drop",
        "drop_stderr",
    ]
    counts = frame.groupby(["layer", "head", "side"]).size().to_dict()
    assert counts == {
        (1, 0, "key"): 4,
        (1, 0, "query"): 4,
        (2, 3, "key"): 8,
        (2, 3, "query"): 8,
    }
    assert (frame["drop_stderr"] > 0).all()
    one = icl_bench.path_patching(model, draw(model, 1), [(1, 0)])
    assert one["drop_stderr"].isna().all()


@pytest.mark.parametrize("name", [*(["gptj"] if GPTJ_HOOKED else []), "bloom", "mpt"])
def test_families_without_the_interface_say_why_not(name):
    model = icl_bench.wrap(families.build(name))
    with pytest.raises(NotMeasurable, match="does not use transformers' attention interface"):
        icl_bench.path_patching(model, draw(model), [(2, 0)])


def test_wrong_arguments_get_one_clear_message():
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    for options, message in [
        ({"receivers": [(2, 9)]}, "no head 2.9; layer 2 has 4 heads"),
        ({"receivers": []}, "no receivers are given"),
        ({"receivers": [(0, 1)]}, "no head lies below the receivers in layer 0"),
        ({"receivers": [(1, 1)], "senders": [(1, 0)]}, "sender 1.0 lies below no receiver"),
        ({"receivers": [(1, 1)], "senders": []}, "no senders are given"),
        ({"receivers": [(1, 1)], "side": "keys"}, "unknown side 'keys'; did you mean 'key'"),
        ({"receivers": [(1, 1)], "side": []}, "no side is given"),
    ]:
        with pytest.raises(SettingsError, match=message):
            icl_bench.path_patching(model, tokens, **options)


def test_the_value_side_starts_from_direct_logit_attribution():
    model = icl_bench.wrap(families.build("olmo2"))
    tokens = draw(model)
    frame = icl_bench.path_patching(model, tokens, HEADS[4:], [(0, 0)], "value")
    written = icl_bench.logit_attribution(model, tokens).set_index(["layer", "head"])["logit"]
    for row in frame.itertuples():
        assert row.clean == pytest.approx(written[row.layer, row.head], abs=1e-6)


def test_the_fixture_has_the_same_functions():
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    bench = Bench(model)
    ours = bench.path_patching([(2, 0)], tokens, side=["query"])
    assert ours.equals(icl_bench.path_patching(model, tokens, [(2, 0)], side=["query"]))
    assert bench.logit_attribution(tokens).equals(icl_bench.logit_attribution(model, tokens))
