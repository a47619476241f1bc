"""A model of which each process holds a part is refused in every process; copies are measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import split_models
import torch
from torch import nn
from waiting import run_in_two

import icl_bench
from icl_bench.errors import UnsupportedModel
from icl_bench.models.module import sharding
from icl_bench.models.module.sharding import refuse_split
from icl_bench.models.module.unwrapping import find_module

SCRIPT = """\
import json, sys, warnings
import split_models
from torch import distributed
import icl_bench
from icl_bench.errors import IclError
from icl_bench.models.module.unwrapping import find_module

warnings.simplefilter("ignore")
distributed.init_process_group("gloo")

def loss(model):
    heads = [(1, 0)]
    return icl_bench.token_losses(model, split_models.TOKENS, ablate=heads, method="zero").mean()

told = {}
ways = {
    "wrap": lambda name: icl_bench.wrap(getattr(split_models, name)()),
    "load_model": lambda name: icl_bench.load_model(f"split_models:{name}"),
    "training": lambda name: icl_bench.wrap(find_module(getattr(split_models, name)())),
}
for name in (*split_models.SPLIT, "plain", "replicated"):
    for way, open_it in ways.items():
        try:
            told[f"{way} {name}"] = float(loss(open_it(name)))
        except IclError as error:
            told[f"{way} {name}"] = f"{type(error).__name__}: {error}"
        except Exception as error:
            told[f"{way} {name}"] = f"broke: {type(error).__name__}: {error}"
with open(f"{sys.argv[1]}/told-{distributed.get_rank()}.json", "w") as stream:
    json.dump(told, stream)
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes says of every model: the loss without a head, or the error."""
    folder = tmp_path_factory.mktemp("split")
    run_in_two(SCRIPT, folder, str(folder), SPLIT_MODELS=str(folder))
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("way", ["wrap", "load_model", "training"])
@pytest.mark.parametrize("name", split_models.SPLIT)
def test_a_split_model_is_refused_in_every_process(
    told: list[dict[str, Any]], way: str, name: str
) -> None:
    for process in told:
        text = process[f"{way} {name}"]
        assert isinstance(text, str), f"accepted, with loss {text}"
        assert text.startswith("UnsupportedModel: "), text
        assert "its weights are split over" in text and "measure a saved checkpoint" in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensor_parallel", "split over 2 processes (tensor parallelism), .*; load it without tp_"),
        ("fully_sharded", "FSDP.*; gather them into a plain model"),
        ("fsdp", "FullyShardedDataParallel: .* (FSDP)"),
        ("halves", "layers.0.self_attn.q_proj.weight is 1/2 of what its config says"),
    ],
)
def test_the_reason_says_how_it_is_split_and_what_to_do(
    told: list[dict[str, Any]], name: str, words: str
) -> None:
    import re

    pattern = ".*".join(map(re.escape, words.split(".*")))
    assert re.search(pattern, told[1][f"wrap {name}"]), told[1][f"wrap {name}"]


def test_a_whole_model_in_every_process_is_measured_as_in_one(told: list[dict[str, Any]]) -> None:
    model = icl_bench.wrap(split_models.plain())
    alone = float(
        icl_bench.token_losses(model, split_models.TOKENS, ablate=[(1, 0)], method="zero").mean()
    )
    for process in told:
        for case in ("wrap plain", "load_model plain", "training plain", "training replicated"):
            assert process[case] == pytest.approx(alone, abs=1e-5), case


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "openelm", "zamba2", "mixtral", "gpt2"])
def test_layers_that_differ_by_the_config_are_no_parts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind not in split_models.registry.TYPES:
        pytest.skip(f"this transformers has no {kind}")
    monkeypatch.setattr(sharding, "_world_size", lambda: 2)
    model = split_models.plain(kind)
    before = torch.get_rng_state()
    refuse_split(model)
    assert torch.equal(torch.get_rng_state(), before)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings // 2)
    refuse_split(model)


def test_adapters_around_a_whole_model_are_no_parts_and_around_a_half_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(sharding, "_world_size", lambda: 2)

    def adapt(model: Any) -> Any:
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=["k_proj"], r=2))

    refuse_split(adapt(split_models.plain()))
    model = split_models.plain()
    for layer in model.model.layers:
        split_models._cut(layer.self_attn.k_proj, 0, 1)
    with pytest.raises(UnsupportedModel, match=r"k_proj.base_layer.weight is 1/2 of what"):
        refuse_split(adapt(model))


def test_a_narrower_model_in_one_process_is_nobodys_part() -> None:
    model = split_models.plain()
    split_models._cut(model.model.layers[0].mlp.up_proj, 0, 0)
    refuse_split(model)


def test_layers_named_as_those_of_deepspeed_and_megatron_are_parts_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = split_models.plain()
    model.model.layers[0].self_attn.o_proj.__class__ = type("LinearAllreduce", (nn.Linear,), {})
    refuse_split(model)
    monkeypatch.setattr(sharding, "_world_size", lambda: 2)
    with pytest.raises(UnsupportedModel, match=r"tensor parallelism, LinearAllreduce"):
        refuse_split(model)


def test_the_layers_of_another_stage_of_a_pipeline_are_missing() -> None:
    model = split_models.plain()
    model.model.layers[0] = type("PipelineIdentityLayer", (nn.Identity,), {})()
    for opened in (icl_bench.wrap, find_module):
        with pytest.raises(UnsupportedModel, match="pipeline parallelism"):
            opened(model)


def test_the_partitions_of_zero_3_are_refused_by_wrap_too() -> None:
    model = split_models.plain()
    weight = model.lm_head.weight
    weight.data, weight.ds_id = torch.empty(0), 1
    with pytest.raises(UnsupportedModel, match=r"ZeRO 3, lm_head.weight"):
        icl_bench.wrap(model)
