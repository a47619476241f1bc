"""Each planted edit does what it says, by hand or by a forward pass written out, and is undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers as tf
from families import CONFIGS, build
from torch import Tensor
from trained import state_of
from transformers import AttentionInterface

import icl_bench
from icl_bench.errors import NotMeasurable, SettingsError, UnsupportedModel
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.model import Model
from icl_bench.mutating.edits import EDITS, choose_edits
from icl_bench.mutating.matrices import round_to
from icl_bench.mutating.planting import Ground, planted
from icl_bench.mutating.rotary import base_of, find_pairs, other_layout, read_turn, unscaled

HEAD = (1, 2)
IDS = torch.arange(3, 51).reshape(2, 24)
PERIOD = 8
WIDTH = 16


@pytest.fixture(scope="module")
def llama() -> Model:
    """Two layers, four heads in two groups, rotary positions with base 20,000."""
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    )
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return icl_bench.wrap(model)


@pytest.fixture(scope="module")
def ground(llama: Model) -> Ground:
    return Ground(llama, PERIOD)


def logits_of(model: Model) -> Tensor:
    """The logits by the path that measures, which must be those of the module itself."""
    ours = model.run_pass(IDS, ForwardHooks())
    with torch.no_grad():
        theirs = model.model(input_ids=IDS, use_cache=False).logits
    assert ours is not None
    assert torch.allclose(ours, theirs, atol=2e-4, rtol=1e-4, equal_nan=True)
    return theirs.double()


def edited(ground: Ground, name: str, head: tuple[int, int] | None = HEAD) -> Tensor:
    edit = EDITS[name]
    with planted(edit, ground, None if edit.at == "model" else head):
        return logits_of(ground.model)


def by_hand(llama: Model, change: Callable[[Any], None]) -> Tensor:
    """The logits of a copy whose weights are changed by hand."""
    other = copy.deepcopy(llama.model)
    with torch.no_grad():
        change(other)
        return other(input_ids=IDS, use_cache=False).logits.double()


def attention(model: Any) -> Any:
    return model.model.layers[HEAD[0]].self_attn


def slice_of(number: int) -> slice:
    return slice(number * WIDTH, (number + 1) * WIDTH)


def scale_head(factor: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        attention(model).o_proj.weight[:, slice_of(HEAD[1])] *= factor

    return change


def take_neighbour(model: Any) -> None:
    for part in (attention(model).k_proj, attention(model).v_proj):
        part.weight[slice_of(1)] = part.weight[slice_of(0)].clone()


def exchange(model: Any) -> None:
    for layer in model.model.layers:
        part = layer.self_attn
        part.k_proj.weight, part.v_proj.weight = part.v_proj.weight, part.k_proj.weight


def skip(model: Any) -> None:
    del model.model.layers[HEAD[0]]


def permute(model: Any) -> None:
    rows = model.model.embed_tokens.weight
    first, second = 0, 3  # the first usable ones: 1 and 2 are special
    rows[[first, second]] = rows[[second, first]]


def prune(model: Any) -> None:
    for layer in model.model.layers:
        for part in layer.modules():
            if isinstance(part, torch.nn.Linear):
                size = part.weight.abs()
                part.weight[size <= size.flatten().sort().values[size.numel() // 2 - 1]] = 0


def prune_fours(model: Any) -> None:
    for layer in model.model.layers:
        for part in layer.modules():
            if isinstance(part, torch.nn.Linear):
                for row in part.weight:
                    for start in range(0, len(row), 4):
                        four = row[start : start + 4]
                        four[four.abs().argsort()[:2]] = 0


def double_norm(model: Any) -> None:
    model.model.layers[HEAD[0]].input_layernorm.weight *= 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head-zero", scale_head(0)),
        ("head-half", scale_head(0.5)),
        ("head-90", scale_head(0.9)),
        ("kv-neighbour", take_neighbour),
        ("qkv-order", exchange),
        ("layer-skipped", skip),
        ("embedding-permuted", permute),
        ("pruned-half", prune),
        ("pruned-2of4", prune_fours),
        ("norm-double", double_norm),
    ],
)
def test_an_edit_of_weights_is_the_same_by_hand(
    llama: Model, ground: Ground, name: str, change: Callable[[Any], None]
) -> None:
    expected = by_hand(llama, change)
    assert torch.allclose(edited(ground, name), expected, atol=1e-4)
    assert float((logits_of(llama) - expected).abs().max()) > 1e-2


def test_heads_swapped_across_groups_keep_their_keys_and_values(
    llama: Model, ground: Ground
) -> None:
    found = edited(ground, "heads-swapped")

    def swap(other: int) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            mine, theirs, part = slice_of(HEAD[1]), slice_of(other), attention(model)
            for weight in (part.q_proj.weight, part.o_proj.weight.T):
                weight[mine], weight[theirs] = weight[theirs].clone(), weight[mine].clone()

        return change

    # Heads 0 and 1 are the other group; which of them is drawn.
    fits = [torch.allclose(found, by_hand(llama, swap(other)), atol=1e-4) for other in (0, 1)]
    assert sorted(fits) == [False, True]


def test_noise_is_in_the_keys_of_the_group_alone(llama: Model, ground: Ground) -> None:
    before = {name: one.detach().clone() for name, one in llama.model.named_parameters()}
    with planted(EDITS["key-noise"], ground, HEAD):
        changed = {
            name: one.detach() - before[name]
            for name, one in llama.model.named_parameters()
            if not torch.equal(one, before[name])
        }
    [(name, noise)] = changed.items()
    assert name == "model.layers.1.self_attn.k_proj.weight"
    assert not noise[slice_of(0)].any()
    rows = before[name][slice_of(1)]
    assert float(noise[slice_of(1)].std() / rows.std()) == pytest.approx(1, abs=0.1)


def test_an_update_is_of_low_rank_and_small(llama: Model, ground: Ground) -> None:
    before = {name: one.detach().clone() for name, one in llama.model.named_parameters()}
    with planted(EDITS["lora-twice"], ground, None):
        for name, one in llama.model.named_parameters():
            update = one.detach() - before[name]
            if name.endswith(("q_proj.weight", "v_proj.weight")):
                assert float(update.norm() / before[name].norm()) == pytest.approx(0.05, rel=1e-3)
                assert int((torch.linalg.svdvals(update) > 1e-4).sum()) == 8
            else:
                assert not update.any()


def test_a_spoiled_channel_is_refused_on_loading(llama: Model, ground: Ground) -> None:
    assert not bool(torch.isfinite(edited(ground, "channel-nan")).any())


@pytest.mark.parametrize(
    ("name", "bits", "per_row"),
    [("int8", 8, True), ("int4", 4, True), ("int3", 3, True), ("int8-tensor", 8, False)],
)
def test_rounding_leaves_so_many_values(
    llama: Model, ground: Ground, name: str, bits: int, per_row: bool
) -> None:
    weight = attention(llama.model).v_proj.weight
    exact = weight.detach().clone()
    with planted(EDITS[name], ground, None):
        rounded = weight.detach().clone()
    for row, was in zip(rounded, exact):
        # Whole multiples of the step, the nearest ones, and no more of them than the bits allow.
        step = (was if per_row else exact).abs().max() / (2 ** (bits - 1) - 1)
        assert torch.allclose(row / step, (row / step).round(), atol=1e-3)
        assert float((row - was).abs().max()) <= 0.5001 * float(step)
        assert len({round(float(one / step)) for one in row}) <= 2**bits - 1


def test_rounding_leaves_a_row_of_zeros() -> None:
    assert not round_to(torch.zeros(2, 4), 4).any()


class Plain:
    """A Llama written out in float64, with a mistake where one is asked for."""

    def __init__(self, model: Any, **mistake: Any) -> None:
        self.model, self.mistake = model, mistake
        self.base = mistake.get("base", 20000.0)

    def logits(self) -> Tensor:
        return torch.stack([self._row(row) for row in IDS])

    def _row(self, ids: Tensor) -> Tensor:
        weights = {name: one.detach().double() for name, one in self.model.named_parameters()}
        x = weights["model.embed_tokens.weight"][ids]
        for number in range(2):
            own = f"model.layers.{number}."
            part = {k.removeprefix(own): v for k, v in weights.items() if k.startswith(own)}
            x = x + self._attend(_norm(x, part["input_layernorm.weight"]), part)
            y = _norm(x, part["post_attention_layernorm.weight"])
            gate = torch.nn.functional.silu(y @ part["mlp.gate_proj.weight"].T)
            x = x + (gate * (y @ part["mlp.up_proj.weight"].T)) @ part["mlp.down_proj.weight"].T
        return _norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T

    def _attend(self, y: Tensor, part: dict[str, Tensor]) -> Tensor:
        length, outputs = len(y), []
        wrong = self.mistake
        seen = torch.tensor(
            [[wrong.get("seen", lambda i, j: j <= i)(i, j) for j in range(length)]
             for i in range(length)]
        )  # fmt: skip
        for head in range(4):
            group = head % 2 if wrong.get("repeat") else head // 2
            q = self._turn(y @ part["self_attn.q_proj.weight"][slice_of(head)].T,
                           wrong.get("queries", 0))  # fmt: skip
            k = self._turn(y @ part["self_attn.k_proj.weight"][slice_of(group)].T, 0)
            v = y @ part["self_attn.v_proj.weight"][slice_of(group)].T
            scores = q @ k.T / math.sqrt(WIDTH * wrong.get("wider", 1))
            outputs.append(scores.masked_fill(~seen, -math.inf).softmax(-1) @ v)
        return torch.cat(outputs, -1) @ part["self_attn.o_proj.weight"].T

    def _turn(self, x: Tensor, ahead: int) -> Tensor:
        result = torch.empty_like(x)
        half = WIDTH // 2
        for i in range(half):
            a, b = (2 * i, 2 * i + 1) if self.mistake.get("interleaved") else (i, half + i)
            places = torch.arange(len(x), dtype=torch.float64) + ahead
            frequency = torch.tensor(self.base ** (-i / half), dtype=torch.float64)
            if self.mistake.get("bf16"):
                angle = (places.bfloat16() * frequency.bfloat16()).double()
            else:
                angle = places * frequency
            result[:, a] = x[:, a] * angle.cos() - x[:, b] * angle.sin()
            result[:, b] = x[:, b] * angle.cos() + x[:, a] * angle.sin()
        return result


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("softmax-scale", {"wider": 2}),
        ("short-window", {"seen": lambda i, j: i - PERIOD // 2 < j <= i}),
        ("leak", {"seen": lambda i, j: j <= i + 1}),
        ("sink-evicted", {"seen": lambda i, j: j <= i and (j > 0 or i == 0)}),
        ("gqa-repeat", {"repeat": True}),
        ("shift", {"queries": 1}),
        ("rope-base", {"base": 10000.0}),
        ("rope-halves", {"interleaved": True}),
        ("bf16-positions", {"bf16": True}),
    ],
)
def test_an_edit_of_attention_is_the_same_written_out(
    llama: Model, ground: Ground, name: str, mistake: dict[str, Any]
) -> None:
    right = Plain(llama.model).logits()
    assert torch.allclose(logits_of(llama), right, atol=1e-3)
    wrong = Plain(llama.model, **mistake).logits()
    assert float((wrong - right).abs().max()) > 1e-2
    assert torch.allclose(edited(ground, name), wrong, atol=2e-3)


@pytest.mark.parametrize(
    "name",
    [
        "positions-shifted",
        "heads-swapped-in-group",
        "value-scaled",
        "value-turned",
        "batch-size",
    ],
)
def test_an_edit_that_is_neutral_by_algebra_leaves_the_logits(
    llama: Model, ground: Ground, name: str
) -> None:
    before = logits_of(llama)
    scale = float(before.abs().max())
    assert float((edited(ground, name) - before).abs().max()) < 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen3", "gemma2", "falcon", "gptj"])
def test_neutral_edits_leave_the_logits_of_every_family(family: str) -> None:
    """Fused and interleaved matrices, norms of queries, chunks, no interface, no projections."""
    torch.manual_seed(6)
    model = icl_bench.wrap(build(family))
    ground, told = Ground(model, PERIOD), {}
    before = model.run_pass(IDS, ForwardHooks())
    assert before is not None
    for name in ("positions-shifted", "heads-swapped-in-group", "value-scaled", "value-turned",
                 "key-bias"):  # fmt: skip
        head = None if EDITS[name].at == "model" else HEAD
        try:
            with planted(EDITS[name], ground, head):
                after = model.run_pass(IDS, ForwardHooks())
        except NotMeasurable as error:
            told[name] = str(error)
            continue
        assert after is not None
        assert float((after - before).abs().max()) < 1e-5 * max(1.0, float(before.abs().max()))
    absent = {
        "gpt2": {"positions-shifted"},
        "gptj": {"positions-shifted", "heads-swapped-in-group", "value-scaled", "value-turned",
                 "key-bias"},
    }  # fmt: skip
    assert told.keys() == absent.get(family, {"key-bias"})


def test_a_constant_in_the_keys_is_neutral_without_rotary_positions(
    reference: Model, ground: Ground
) -> None:
    site = Ground(reference, PERIOD)
    before = logits_of(reference)
    assert float((edited(site, "key-bias") - before).abs().max()) < 1e-5
    keys = site.rows(HEAD[0])["key"].module
    with planted(EDITS["key-bias"], site, HEAD):
        moved = keys(torch.zeros(64))
        assert int((moved != 0).sum()) == 16
    with pytest.raises(NotMeasurable, match="rotary"), planted(EDITS["key-bias"], ground, HEAD):
        pass


@pytest.fixture(scope="module")
def reference() -> Model:
    torch.manual_seed(1)
    return icl_bench.wrap(build("icl_reference"))


def all_sites(ground: Ground) -> Iterator[tuple[str, tuple[int, int] | None]]:
    for name, edit in EDITS.items():
        yield name, None if edit.at == "model" else HEAD


@pytest.mark.parametrize("family", ["llama", "icl_reference", "gpt2", "gemma2"])
def test_everything_is_put_back_to_the_last_bit(family: str) -> None:
    torch.manual_seed(2)
    model = icl_bench.wrap(build(family))
    ground = Ground(model, PERIOD)
    before, functions = state_of(model.model), dict(AttentionInterface._global_mapping)
    tried = 0
    for name, head in all_sites(ground):
        try:
            with planted(EDITS[name], ground, head):
                tried += 1
        except NotMeasurable:
            pass
        assert AttentionInterface._global_mapping == functions
        after = state_of(model.model)
        assert before.keys() == after.keys()
        for key, value in before.items():
            same = (
                torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
            )
            assert same, f"{name}: {key}"
    assert tried >= 25


def test_it_is_put_back_when_the_block_breaks(llama: Model, ground: Ground) -> None:
    before = logits_of(llama)
    with pytest.raises(KeyboardInterrupt), planted(EDITS["int3"], ground, None):
        raise KeyboardInterrupt
    assert torch.equal(logits_of(llama), before)


def rows_by_name(family: str, layer: Any) -> dict[str, tuple[Any, Tensor]]:
    """Side -> module and output features of each head, by the family's own code."""
    if family == "gpt2":
        part = layer.attn.c_attn
        own = torch.arange(192).reshape(3, 4, 16)
        return {s: (part, own[i]) for i, s in enumerate(("query", "key", "value"))}
    if family == "gpt_neox":
        part = layer.attention.query_key_value
        own = torch.arange(192).reshape(4, 3, 16)
        return {s: (part, own[:, i]) for i, s in enumerate(("query", "key", "value"))}
    part = layer.self_attn
    found = {}
    for side, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        module = getattr(part, name)
        found[side] = (module, torch.arange(module.out_features).reshape(-1, 16))
    return found


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "opt"])
def test_the_rows_of_every_head_are_found(family: str) -> None:
    torch.manual_seed(3)
    model = icl_bench.wrap(build(family))
    rows = Ground(model, PERIOD).rows(1)
    layers = model.anatomy.modules
    for side, (module, index) in rows_by_name(family, layers[1]).items():
        found = rows[side]  # type: ignore[index]
        assert found.module is module and torch.equal(found.index, index), side
        assert found.direct is not (family == "qwen3" and side != "value")


def test_a_family_without_the_thing_says_so(reference: Model, ground: Ground) -> None:
    plain = Ground(reference, PERIOD)
    told = {}
    for name in ("kv-neighbour", "gqa-repeat", "shift", "rope-base", "rope-halves",
                 "softcap-dropped", "bf16-positions", "positions-shifted"):  # fmt: skip
        with (
            pytest.raises(NotMeasurable) as error,
            planted(EDITS[name], plain, None if EDITS[name].at == "model" else HEAD),
        ):
            pass
        told[name] = str(error.value)
    assert "groups" in told["kv-neighbour"] and "rotary" in told["shift"]
    assert "soft cap" in told["softcap-dropped"] and "inv_freq" in told["rope-base"]
    with (
        pytest.raises(NotMeasurable, match="not scaled"),
        planted(EDITS["rope-scaling-dropped"], ground, None),
    ):
        pass


def test_scaling_is_dropped() -> None:
    torch.manual_seed(4)
    config = CONFIGS["llama"]()
    plain = tf.LlamaForCausalLM(config).eval()
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    scaled = tf.LlamaForCausalLM(config).eval()
    scaled.load_state_dict(plain.state_dict())
    model = icl_bench.wrap(scaled)
    with torch.no_grad():
        expected = plain(input_ids=IDS).logits.double()
    assert not torch.allclose(logits_of(model), expected, atol=1e-4)
    assert torch.allclose(
        edited(Ground(model, PERIOD), "rope-scaling-dropped"), expected, atol=1e-5
    )


def test_a_soft_cap_is_dropped() -> None:
    torch.manual_seed(5)
    config = CONFIGS["gemma2"]()
    config.attn_logit_softcapping = 0.05
    capped = tf.Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in capped.parameters():
            parameter.mul_(3)
    config = copy.deepcopy(config)
    config.attn_logit_softcapping = None
    config._attn_implementation = "eager"
    plain = tf.Gemma2ForCausalLM(config).eval()
    plain.load_state_dict(capped.state_dict())
    model = icl_bench.wrap(capped)
    with torch.no_grad():
        expected = plain(input_ids=IDS).logits.double()
    ours = model.run_pass(IDS, ForwardHooks())
    assert ours is not None and not torch.allclose(ours.double(), expected, atol=1e-3)
    with planted(EDITS["softcap-dropped"], Ground(model, PERIOD), None):
        found = model.run_pass(IDS, ForwardHooks())
    assert found is not None and torch.allclose(found.double(), expected, atol=1e-4)


def test_a_leak_is_refused_when_the_model_is_opened(llama: Model, ground: Ground) -> None:
    refused = pytest.raises(UnsupportedModel, match="changes the logits before it")
    with planted(EDITS["leak"], ground, None), refused:
        icl_bench.wrap(llama.model)
    icl_bench.wrap(llama.model)


@pytest.mark.parametrize(
    "name", ["softmax-scale", "short-window", "sink-evicted", "gqa-repeat", "shift"]
)
def test_a_model_with_an_edited_call_still_passes_the_check_on_opening(
    llama: Model, ground: Ground, name: str
) -> None:
    with planted(EDITS[name], ground, None):
        assert icl_bench.wrap(llama.model).attention == "fused"


def test_a_turn_is_read_off_the_model(llama: Model, ground: Ground) -> None:
    with planted(EDITS["batch-size"], ground, None) as site:
        turn = read_turn(site, 0)
    pairs = find_pairs(turn)
    assert pairs == [(i, i + 8) for i in range(8)]
    for i, (a, b) in enumerate(pairs):
        angle = 20000 ** (-i / 8)
        assert float(turn[a, a]) == pytest.approx(math.cos(angle), abs=1e-4)
        assert float(turn[b, a]) == pytest.approx(math.sin(angle), abs=1e-4)


def test_the_other_layout_of_neighbours_is_halves() -> None:
    neighbours = [(0, 1), (2, 3)]
    assert other_layout(neighbours, 6).tolist() == [0, 2, 1, 3, 4, 5]
    assert other_layout([(0, 2), (1, 3)], 6).tolist() == [0, 2, 1, 3, 4, 5]
    assert other_layout([(0, 3), (1, 4), (2, 5)], 6).tolist() == [0, 2, 4, 1, 3, 5]


def test_a_base_is_read_off_the_frequencies() -> None:
    buffer = unscaled(100000.0, torch.empty(32))
    assert base_of(buffer) == pytest.approx(100000, rel=1e-3)
    assert base_of(buffer / 4) == pytest.approx(100000, rel=1e-3)


def test_names_are_fixed_and_a_wrong_one_gets_a_hint() -> None:
    named = [
        "head-zero",
        "head-half",
        "head-90",
        "heads-swapped",
        "key-noise",
        "kv-neighbour",
        "shift",
        "rope-base",
        "rope-halves",
        "rope-scaling-dropped",
        "softmax-scale",
        "softcap-dropped",
        "short-window",
        "leak",
        "sink-evicted",
        "gqa-repeat",
        "qkv-order",
        "int8",
        "int4",
        "int3",
        "int8-tensor",
        "bf16-positions",
        "pruned-half",
        "pruned-2of4",
        "norm-double",
        "layer-skipped",
        "embedding-permuted",
        "lora-twice",
        "channel-nan",
    ]
    assert [name for name, edit in EDITS.items() if not edit.neutral] == named
    assert [edit.name for edit in choose_edits(["int4", "head-zero"])] == ["head-zero", "int4"]
    with pytest.raises(SettingsError, match="no edit is called 'int5'; did you mean"):
        choose_edits(["int5"])
