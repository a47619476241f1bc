"""The usual slips in Python get one message that says what to write instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import icl_bench
from icl_bench.errors import IclError, NotMeasurable
from icl_bench.integrations import ICLCallback, Reaches, TrainingGate
from icl_bench.measures.tokens import digest_tokens


@pytest.fixture(scope="module")
def model() -> icl_bench.Model:
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def tokens(model: icl_bench.Model) -> icl_bench.RepeatedTokens:
    return icl_bench.repeated_tokens(model, sequences=3, period=12)


SLIPS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "one suite": (lambda m, t: icl_bench.run("core", m), r'not a list: .*run\(\["core"\], model\)'),
    "no model": (lambda m, t: icl_bench.run(["core"]), "a model is required"),
    "one suite and no model": (lambda m, t: icl_bench.run("core"), "not a list"),
    "no suite": (lambda m, t: icl_bench.run([], m), "suites is empty"),
    "the model first": (lambda m, t: icl_bench.run(m, ["core"]), "suites is a list .*, not Model"),
    "a suite's name": (lambda m, t: icl_bench.run(["cor"], m), "did you mean 'core'"),
    "a module to run": (lambda m, t: icl_bench.run(["core"], m.model), "icl_bench.wrap"),
    "a module": (lambda m, t: icl_bench.head_scores(m.model, t), r"icl_bench\.wrap\(model"),
    "a spec": (lambda m, t: icl_bench.head_scores("a/b", t), r"load_model\('a/b'\) opens it"),
    "a path": (lambda m, t: icl_bench.repeated_tokens(Path("a")), r"load_model\('a'\)"),
    "the other way round": (
        lambda m, t: icl_bench.head_scores(t, m),
        "first argument is the model",
    ),
    "a spec to wrap": (lambda m, t: icl_bench.wrap("gpt2"), "load_model"),
    "a model to wrap": (lambda m, t: icl_bench.wrap(m), "wrapped already"),
    "a module to load": (lambda m, t: icl_bench.load_model(m.model), "wrap"),
    "a model to load": (lambda m, t: icl_bench.load_model(m), "open already"),
    "ids that are to repeat": (
        lambda m, t: icl_bench.head_scores(m, t.input_ids),
        "RepeatedTokens",
    ),
    "text that is to repeat": (lambda m, t: icl_bench.head_scores(m, "text"), "not text"),
    "text": (lambda m, t: icl_bench.token_losses(m, "text"), r"not text: model\.tokenizer"),
    "texts": (lambda m, t: icl_bench.token_losses(m, ["a", "b"]), r"not text: model\.tokenizer"),
    "tokens for ids": (lambda m, t: icl_bench.token_losses(m, t), "give tokens.input_ids"),
    "a tokenizer's answer": (
        lambda m, t: icl_bench.token_losses(m, {"input_ids": t.input_ids}),
        "give its input_ids",
    ),
    "anything": (lambda m, t: icl_bench.token_losses(m, object()), "whole numbers, not object"),
    "text by hand": (lambda m, t: icl_bench.RepeatedTokens("text", 4), "not str"),  # type: ignore
    "a stream": (lambda m, t: icl_bench.repeated_tokens(m, stream="tets"), "did you mean 'test'"),
    "a pool": (
        lambda m, t: icl_bench.repeated_tokens(m, token_pool="uniforn"),  # type: ignore[arg-type]
        "did you mean 'uniform'",
    ),
    "one receiver": (lambda m, t: icl_bench.path_patching(m, t, (1, 4)), "a list of heads"),  # type: ignore
    "one head": (lambda m, t: icl_bench.token_losses(m, t.input_ids, (1, 4)), r"\(layer, head\)"),  # type: ignore
    "one suite in training": (lambda m, t: ICLCallback("gate"), r"must be a list: \['gate'\]"),
    "one gate": (
        lambda m, t: ICLCallback(["gate"], Reaches("gain", above=1, by_step=9)),  # type: ignore
        r"gates: must be a list: \[Reaches",
    ),
    "no gate": (lambda m, t: ICLCallback(["gate"], ["gain"]), "'gain' is no gate"),  # type: ignore
    "a model in training": (lambda m, t: TrainingGate(m), r"give its \.model"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_gets_one_message(
    slip: str, model: icl_bench.Model, tokens: icl_bench.RepeatedTokens
) -> None:
    make, says = SLIPS[slip]
    with pytest.raises(IclError, match=says) as caught:
        make(model, tokens)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def headless() -> icl_bench.Model:
    sizes = {"vocab_size": 99, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 2}
    config = transformers.MambaConfig(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return icl_bench.wrap(transformers.MambaForCausalLM(config).eval())


NEEDS_HEADS: dict[str, Callable[[Any, Any], Any]] = {
    "head_scores": icl_bench.head_scores,
    "token_losses": lambda m, t: icl_bench.token_losses(m, t.input_ids, ablate=[(0, 0)]),
    "token_losses, keep": lambda m, t: icl_bench.token_losses(m, t.input_ids, keep=[]),
    "ablation_sweep": icl_bench.ablation_sweep,
    "minimal_set": icl_bench.minimal_set,
    "path_patching": lambda m, t: icl_bench.path_patching(m, t, [(1, 0)]),
    "logit_attribution": icl_bench.logit_attribution,
    "attention_attribution": lambda m, t: icl_bench.attention_attribution(m, t, [(1, 0)]),
    "ov_copying": icl_bench.ov_copying,
    "weight_composition": lambda m, t: icl_bench.weight_composition(m, [(1, 0)]),
}


@pytest.mark.parametrize("name", NEEDS_HEADS)
def test_what_needs_heads_says_the_same_where_there_are_none(
    name: str, headless: icl_bench.Model
) -> None:
    tokens = icl_bench.repeated_tokens(headless, sequences=2, period=8)
    with pytest.raises(NotMeasurable) as caught:
        NEEDS_HEADS[name](headless, tokens)
    assert str(caught.value) == headless.no_heads


def test_losses_need_no_heads(headless: icl_bench.Model) -> None:
    tokens = icl_bench.repeated_tokens(headless, sequences=2, period=8)
    assert icl_bench.token_losses(headless, tokens.input_ids).shape == (
        2,
        tokens.input_ids.shape[1] - 1,
    )


@pytest.mark.parametrize(
    "more", [{}, {"token_pool": "frequent"}, {"bos": "never"}], ids=["plain", "pool", "bos"]
)
def test_sequences_of_a_suite_can_be_drawn(
    more: dict[str, Any], model: icl_bench.Model, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sequences": 3, "period": 9, "repeats": 3, "seed": 5, **more}
    path = tmp_path / "x.yaml"
    entry = {"probe": "losses", "varied": False, **settings}
    path.write_text(json.dumps({"icl_suite": 1, "name": "x", "measure": {"it": entry}}))
    record = icl_bench.run([path], model, cache=False)
    drawn = icl_bench.repeated_tokens(model, stream="test", **settings)
    assert record.measurements["x/it"].tokens_sha256 == digest_tokens(drawn.input_ids)
    others = icl_bench.repeated_tokens(model, **settings)
    assert not torch.equal(drawn.input_ids, others.input_ids)


def test_a_suite_and_a_model_may_be_paths(tmp_path: Path) -> None:
    with pytest.raises(IclError, match="there is no folder"):
        icl_bench.run([Path("core")], tmp_path / "none")
    with pytest.raises(IclError, match="there is no folder"):
        icl_bench.load_model(tmp_path / "none")
