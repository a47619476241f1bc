"""Adapters in folders of their own, on hubs and as BASE+ADAPTER: their base found, then merged."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.opening.opening import open_model
from icl_bench.models.sources.checking import check_one, check_spec
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps, read_training_loss
from icl_bench.models.sources.source import Opening
from icl_bench.models.sources.table import get_source
from icl_bench.naming import plain_name
from icl_bench.options import RunOptions

peft = pytest.importorskip("peft")

from adapters import KINDS, LORA, write_adapter  # noqa: E402
from hub_server import HubServer, Repo  # noqa: E402
from test_loading_hub import use_hub  # noqa: E402

OPTIONS = RunOptions(device="cpu")
Merged = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def merged(root: Path) -> Merged:
    """Adapters of every kind for the model in `base`, and what they make of its weights."""
    checkpoints.write_llama(root / "base")
    checkpoints.write_llama(root / "wide", hidden_size=64)
    made = {}
    for name, config in KINDS.items():
        base = checkpoints.make_llama()
        made[name] = write_adapter(base, root / name, config, named="../base")
    return made


@pytest.fixture(autouse=True)
def _here(merged: Merged, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def weights(text: str) -> dict[str, torch.Tensor]:
    return dict(load_parts(parse_spec(text), device="cpu").model.state_dict())


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(text))
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_into_the_base_that_it_names(kind: str, merged: Merged) -> None:
    parts = load_parts(parse_spec(f"./{kind}"), device="cpu")
    own = dict(checkpoints.make_llama().state_dict())
    assert_same(dict(parts.model.state_dict()), merged[kind])
    assert any(not torch.equal(own[name], tensor) for name, tensor in merged[kind].items())
    assert parts.base == "base" and parts.adapter is not None
    assert parts.adapter.startswith(f"{kind}: {'IA3' if kind == 'ia3' else 'LORA of rank'}")
    assert ("(DoRA)" in parts.adapter) == (kind == "dora")
    # Its own folder has no tokenizer.
    assert parts.tokenizer is not None and parts.tokenizer_note is None


def test_a_base_may_be_named_in_front_of_the_adapter(merged: Merged) -> None:
    assert_same(weights("base+lora"), merged["lora"])
    assert_same(weights("mine=./base+./lora"), merged["lora"])
    spec = parse_spec("base+lora")
    assert (spec.public, plain_name(spec), spec.base) == (
        "base+lora",
        "base-lora",
        parse_spec("base"),
    )
    assert len({spec.origin, parse_spec("lora").origin, parse_spec("wide+lora").origin}) == 3


def test_adapters_are_applied_in_the_order_in_which_they_are_named(merged: Merged) -> None:
    first = checkpoints.make_llama()
    first.load_state_dict(merged["lora"])
    expected = peft.PeftModel.from_pretrained(first, "ia3").merge_and_unload().state_dict()
    parts = load_parts(parse_spec("base+lora+ia3"), device="cpu")
    assert_same(dict(parts.model.state_dict()), dict(expected))
    assert parts.adapter == "lora: LORA of rank 4; ia3: IA3"
    assert parse_spec("base+lora+ia3").public == "base+lora+ia3"
    other = weights("base+ia3+lora")
    assert any(not torch.allclose(other[name], one, atol=1e-4) for name, one in expected.items())


def test_an_existing_path_with_a_plus_is_read_first(root: Path, merged: Merged) -> None:
    checkpoints.write_llama(root / "c++")
    assert parse_spec("c++").kind == "folder" and parse_spec("./c++").kind == "folder"
    write_adapter(checkpoints.make_llama(), root / "a+b", KINDS["lora"])
    assert_same(weights("c+++a+b"), merged["lora"])
    assert_same(weights("c+++lora"), merged["lora"])


def test_an_adapter_of_an_adapter_is_applied_to_both(root: Path, merged: Merged) -> None:
    first = checkpoints.make_llama()
    first.load_state_dict(merged["lora"])
    second = write_adapter(first, root / "second", KINDS["ia3"], named="../lora")
    assert_same(weights("second"), second)


def test_the_tokenizer_is_the_adapters_where_it_has_one(root: Path) -> None:
    write_adapter(checkpoints.make_llama(), root / "spoken", KINDS["lora"])
    checkpoints.write_tokenizer(root / "spoken")
    file = root / "spoken" / "tokenizer.json"
    file.write_text(file.read_text().replace('"fox"', '"wolf"'))
    tokenizer = load_parts(parse_spec("base+spoken"), device="cpu").tokenizer
    assert tokenizer is not None and "wolf" in tokenizer.get_vocab()


def test_added_embeddings_get_their_rows(root: Path) -> None:
    base = checkpoints.make_llama()
    base.resize_token_embeddings(20, mean_resizing=False)
    config = peft.LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"])
    expected = write_adapter(base, root / "longer", config)
    assert expected["lm_head.weight"].shape == (20, 32)
    assert_same(weights("base+longer"), expected)
    only = peft.LoraConfig(**LORA, modules_to_save=["embed_tokens"])
    base = checkpoints.make_llama()
    base.model.embed_tokens = torch.nn.Embedding(20, 32)
    write_adapter(base, root / "unread", only)
    with pytest.raises(ModelError, match="brings 20 embeddings, and no unembedding for them"):
        weights("base+unread")


def test_gpt2_keeps_its_weights_transposed(root: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=16))
    model.save_pretrained(root / "gpt2")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    expected = write_adapter(copy.deepcopy(model), root / "on-gpt2", config, named="gpt2")
    assert_same(weights("on-gpt2"), expected)


class TestSeries:
    @pytest.fixture
    def run(self, root: Path) -> list[dict[str, torch.Tensor]]:
        made = []
        for step in (10, 20):
            folder = root / "run" / f"checkpoint-{step}"
            base, config = checkpoints.make_llama(), KINDS["lora"]
            made.append(write_adapter(base, folder, config, seed=step, named="base"))
            state = {"log_history": [{"step": step, "loss": 2.5}]}
            (folder / "trainer_state.json").write_text(json.dumps(state))
        return made

    @pytest.mark.parametrize("text", ["run@*", "./run@*", "base+run@*"])
    def test_the_checkpoints_of_a_run_may_be_adapters(self, text: str, run: Any) -> None:
        series = parse_spec(text)
        steps = find_steps(series)
        assert check_spec(series) == steps and [one.step for one in steps] == [10, 20]
        for step, expected in zip(steps, run):
            parts = load_parts(step.spec, device="cpu")
            assert_same(dict(parts.model.state_dict()), expected)
            assert parts.adapter == f"run/checkpoint-{step.step}: LORA of rank 4"
            assert get_source(step.spec.kind).pour(step.spec, Opening(OPTIONS)) is None
        assert read_training_loss(series, steps) == {20: 2.5}

    def test_one_of_them_is_named_by_its_step(self, run: Any) -> None:
        for text in ("run@20", "base+run@checkpoint-20", "run/checkpoint-20"):
            assert_same(weights(text), run[1])
        assert parse_spec("run@20").public == "run@20"
        assert parse_spec("base+run@20").public == "base+run@20"


def test_base_and_adapters_tell_a_model_from_others(root: Path) -> None:
    base = checkpoints.write_llama(root / "kept")
    write_adapter(checkpoints.make_llama(), root / "own", KINDS["lora"], named="kept")

    def named(text: str) -> tuple[Any, Any]:
        spec = parse_spec(text)
        how = Opening(OPTIONS, check_one(spec))
        return identify(spec, OPTIONS, how.found), get_source(spec.kind).content(spec, how)

    found = [named("own"), named("kept"), named("kept+own+own")]
    assert named("kept+own") == named("own") == found[0]
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    found.append(named("own"))
    config = root / "own" / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    found.append(named("own"))
    for place in (0, 1):
        assert len({one[place] for one in found}) == 5 and None not in {one[place] for one in found}
    assert identify(parse_spec("a.b:c+own"), OPTIONS, None) is None


def test_the_record_says_base_and_adapter(merged: Merged) -> None:
    from icl_bench.running.description import describe_model

    spec = parse_spec("base+lora")
    model = open_model(spec, "mine", OPTIONS)
    described = describe_model(model, spec, "mine")
    assert (described.spec, described.base) == ("base+lora", "base")
    assert described.adapter == "lora: LORA of rank 4"
    assert described.parameters == sum(one.numel() for one in merged["lora"].values())


class TestMistakes:
    def change(self, root: Path, name: str, **changes: Any) -> str:
        write_adapter(checkpoints.make_llama(), root / name, KINDS["lora"], named="base")
        file = root / name / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return name

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"base_model_name_or_path": "./gone"},
                r"'./gone' .base_model_name_or_path. is not",
            ),
            ({"base_model_name_or_path": None}, "does not say which model it belongs to"),
            ({"base_model_name_or_path": "os:getcwd"}, "'os:getcwd' .* is not there"),
            ({"base_model_name_or_path": "."}, "."),
            ({"peft_type": "PREFIX_TUNING"}, "tokens of its own before each prompt"),
            ({"peft_type": None}, "names no peft_type"),
            ({"task_type": "SEQ_CLS"}, "for the task SEQ_CLS; expected CAUSAL_LM"),
            ({"r": 8}, "ranks do not fit: adapter_config.json says 8, and .* have 4"),
        ],
    )
    def test_its_config_is_read_first(self, root: Path, changes: Any, said: str) -> None:
        text = refusal(self.change(root, "wrong", **changes))
        assert re.search(said, text) and text.startswith("model 'wrong': ")

    def test_two_adapters_that_name_each_other_have_no_base(self, root: Path) -> None:
        self.change(root, "hen", base_model_name_or_path="egg")
        self.change(root, "egg", base_model_name_or_path="hen")
        assert "its base is an adapter whose base is that adapter again" in refusal("hen")

    def test_an_adapter_of_another_base_is_refused_before_it_is_opened(self, root: Path) -> None:
        text = refusal("wide+lora")
        assert "q_proj has a weight of 64 x 64 in this base, and the adapter is for 32 x 32" in text
        assert "is of another base" in refusal("wide+ia3")
        write_adapter(checkpoints.make_llama(num_hidden_layers=3), root / "deep", KINDS["lora"])
        assert "for layer 2 (base_model.model.model.layers.2." in refusal("base+deep")

    def test_what_the_model_does_not_use_is_refused(self, root: Path) -> None:
        self.change(root, "more", target_modules=["q_proj"])
        with pytest.raises(ModelError, match=r"'more' does not fit: 4 of its weights.*v_proj"):
            weights("base+more")

    def test_what_is_missing_is_named(self, root: Path) -> None:
        assert "there is no adapter folder" in refusal("base+./gone")
        assert "'base' is no adapter: it has no adapter_config.json" in refusal("wide+base")
        assert "there is no folder" in refusal("./gone+lora")

    def test_a_folder_of_several_asks_for_one(self, root: Path) -> None:
        for name in ("a", "b"):
            self.change(root, f"both/{name}")
        assert "it holds several adapters, give one of them: both/a, both/b" in refusal("./both")
        assert "it holds several, give one of them: a, b" in refusal("base+both")
        assert check_spec(parse_spec("base+both/a"))

    def test_a_pickle_needs_a_word(self, root: Path) -> None:
        from safetensors.torch import load_file

        folder = root / self.change(root, "pickled")
        file = folder / "adapter_model.safetensors"
        torch.save(load_file(file), folder / "adapter_model.bin")
        file.unlink()
        assert "adapter is stored as a pickle" in refusal("pickled")
        spec = parse_spec("pickled")
        assert check_one(spec, allow_pickle=True)
        parts = load_parts(spec, device="cpu", allow_pickle=True)
        assert parts.adapter == "pickled: LORA of rank 4"


def test_a_mistake_ends_the_run_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from icl_bench.cli import main

    for spec, said in (
        ("wide+lora", "the adapter is of another base"),
        ("base+./gone", "there is no adapter folder"),
        ("./lora+./lora+base", "'base' is no adapter"),
    ):
        assert main(["run", spec, "--suite=gate", "--no-cache"]) == 4
        told = capsys.readouterr()
        assert said in told.err + told.out and "Traceback" not in told.err


class TestHub:
    @pytest.fixture
    def hub(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        folder = root / "from-hub"
        base = checkpoints.make_llama()
        expected = write_adapter(base, folder, KINDS["lora"], named="org/tiny")
        repos = {"org/tiny": Repo({"main": root / "base"}), "org/lora": Repo({"main": folder})}
        with HubServer(repos) as server:
            use_hub(monkeypatch, server.endpoint, tmp_path / "cache")
            yield server, expected

    def test_adapter_and_base_come_from_hubs(self, hub: Any) -> None:
        server, expected = hub
        spec = parse_spec("org/lora")
        assert spec.kind == "hub"
        found = check_one(spec)
        parts = load_parts(spec, found=found, device="cpu")
        assert_same(dict(parts.model.state_dict()), expected)
        repos = server.repos
        assert (parts.base, parts.adapter) == ("org/tiny", "org/lora: LORA of rank 4")
        assert parts.revision == repos["org/lora"].commit("main")
        assert parts.base_revision == repos["org/tiny"].commit("main")
        assert identify(spec, OPTIONS, found) not in (
            None,
            identify(parse_spec("base"), OPTIONS, None),
        )
        assert get_source("hub").pour(spec, Opening(OPTIONS, found)) is None

    def test_each_may_be_named(self, hub: Any) -> None:
        _, expected = hub
        assert_same(weights("./base+org/lora"), expected)
        assert_same(weights("org/tiny@main+lora"), weights("base+lora"))
        assert "repository 'org/tiny' holds no adapter" in refusal("base+org/tiny")
        assert "has no such model" in refusal("org/none+org/lora")

    def test_without_the_hub_copies_serve(self, hub: Any) -> None:
        server, expected = hub
        assert_same(weights("org/lora"), expected)
        for name, repo in server.repos.items():
            server.repos[name] = replace(repo, status=503)
        assert_same(weights("org/lora"), expected)
