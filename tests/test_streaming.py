"""Checkpoints that are poured into one module give the numbers of checkpoints opened alone."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import families
import pytest
import torch
from hub_server import HubServer, Repo
from test_loading_hub import use_hub
from transformers import PreTrainedModel

from icl_bench.errors import IclError, ModelError, SpecError
from icl_bench.measures.tokens import draw_repeated, induction_pairs
from icl_bench.models.model import Model
from icl_bench.models.opening import loading, opening, streaming
from icl_bench.models.opening.conditions import describe_conditions
from icl_bench.models.opening.opening import open_model
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources import pretrained
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps
from icl_bench.options import RunOptions

CPU = RunOptions(device="cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every checkpoint that is opened in the ordinary way, not poured."""
    opened: list[str] = []
    original = opening.load

    def load(spec: Any, *options: Any) -> Any:
        opened.append(spec.revision)
        return original(spec, *options)

    monkeypatch.setattr(streaming, "load", load)
    return opened


def write_series(count: int = 3, **changes: Any) -> list[Path]:
    """Write checkpoints of one shape and different weights, as one run leaves them."""
    return [
        checkpoints.write_llama(Path("runs", f"step{seed}"), seed=seed, **changes)
        for seed in range(1, count + 1)
    ]


def numbers(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Induction scores and losses, by the functions that every probe uses."""
    tokens = draw_repeated(model.vocabulary, sequences=3, period=6, seed=2, bos=model.bos)
    scores = model.head_scores(tokens.input_ids, {"induction": induction_pairs(tokens)})
    return (
        torch.stack([scores["induction"][layer] for layer in sorted(scores["induction"])]),
        model.losses(tokens.input_ids).nll,
    )


def compare(text: str = "runs@*", options: RunOptions = CPU) -> None:
    """Open every checkpoint in the stream and alone, and compare everything."""
    stream = CheckpointStream()
    seen = []
    for checkpoint in find_steps(parse_spec(text)):
        poured = stream.open(checkpoint.spec, "slug", options)
        alone = open_model(checkpoint.spec, "slug", options)
        for one, other in zip(numbers(poured), numbers(alone)):
            assert torch.allclose(one, other, rtol=0, atol=1e-7)
        assert describe_conditions(poured) == describe_conditions(alone)
        assert poured.fingerprint == alone.fingerprint
        assert (poured.revision, poured.spec) == (alone.revision, alone.spec)
        assert (poured.tokenizer is None) == (alone.tokenizer is None)
        assert poured.tokenizer_note == alone.tokenizer_note
        seen.append(numbers(alone)[1])
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(seen, seen[1:]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"tokenizer": False},
    ],
    ids=str,
)
def test_poured_checkpoints_are_those_opened_alone(changes: Any, loads: list[str]) -> None:
    write_series(**changes)
    compare()
    assert loads == ["step1"]


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.bfloat16, "float16")],
)
def test_types_are_converted_as_in_opening(
    stored: torch.dtype, dtype: str, loads: list[str]
) -> None:
    for seed in (1, 2, 3):
        model = checkpoints.make_llama(seed)
        # The second was saved in another type than the others.
        model.to(torch.float32 if seed == 2 else stored).save_pretrained(f"runs/step{seed}")
    compare(options=RunOptions(device="cpu", dtype=dtype))
    assert loads == ["step1"]


def test_the_type_that_checkpoints_are_stored_in_is_kept_where_it_is_asked_for(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU a model keeps its own type; a CPU stands in for one here.
    monkeypatch.setattr(streaming, "_is_own_dtype", lambda parts, options: True)
    monkeypatch.setattr(loading, "_find_dtype", lambda text, place: None)
    for seed, stored in ((1, torch.bfloat16), (2, torch.bfloat16), (3, torch.float32)):
        checkpoints.make_llama(seed).to(stored).save_pretrained(f"runs/step{seed}")
    compare()
    assert loads == ["step1", "step3"]


def test_checkpoints_in_several_files_are_poured_too(loads: list[str]) -> None:
    for seed in (1, 2, 3):
        checkpoints.make_llama(seed).save_pretrained(f"runs/step{seed}", max_shard_size="12KB")
    assert Path("runs/step2/model.safetensors.index.json").is_file()
    compare()
    assert loads == ["step1"]


@pytest.mark.parametrize("family", families.CONFIGS)
def test_every_familys_checkpoints_are_poured(family: str, loads: list[str]) -> None:
    for seed in (1, 2):
        families.build(family, seed).save_pretrained(f"runs/step{seed}")
    compare()
    assert loads == ["step1"]


def test_experts_that_transformers_merges_are_the_same_either_way(loads: list[str]) -> None:
    # From transformers 5 on, a file holds each expert's weights and the module all of them in one.
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {**checkpoints.SIZES, "num_local_experts": 3, "num_experts_per_tok": 2}
    for seed in (1, 2):
        torch.manual_seed(seed)
        MixtralForCausalLM(MixtralConfig(**sizes)).save_pretrained(f"runs/step{seed}")
    compare()


def test_a_hubs_revisions_are_poured(
    loads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = write_series()
    checkpoints.write_shards(tmp_path / "shards")
    repo = Repo({f"step{n}": folder for n, folder in enumerate(folders, start=1)})
    repo.revisions["step9"] = tmp_path / "shards"
    with HubServer({"org/run": repo}) as server:
        use_hub(monkeypatch, server.endpoint, tmp_path / "cache")
        compare("org/run@*")
        assert loads == ["step1"]
        # All of it is in the hub's cache by now.
        repo.status = 503
        compare("org/run@*")


def test_the_files_of_checkpoints_are_left_as_they_are() -> None:
    # The first one's weights may be read from its file only when they are needed.
    folders = write_series()
    before = [(folder / "model.safetensors").read_bytes() for folder in folders]
    stream = CheckpointStream()
    for checkpoint in find_steps(parse_spec("runs@*")):
        numbers(stream.open(checkpoint.spec, "slug", CPU))
    assert [(folder / "model.safetensors").read_bytes() for folder in folders] == before


def test_what_does_not_fit_is_opened_alone(loads: list[str]) -> None:
    write_series(6)
    checkpoints.edit_config(Path("runs/step2"), rope_theta=500.0, rope_parameters=None)
    shutil.rmtree("runs/step4")
    checkpoints.write_llama(Path("runs/step4"), seed=4, hidden_size=16, intermediate_size=32)
    config = Path("runs/step6/config.json")
    noted = {"transformers_version": "9", "torch_dtype": "float16", "_name_or_path": "there"}
    config.write_text(json.dumps(json.loads(config.read_text()) | noted))
    compare()
    # Each is the first of a shape, the last is not.
    assert loads == ["step1", "step2", "step3", "step4", "step5"]


def test_a_pickle_is_opened_alone(loads: list[str]) -> None:
    write_series(2)
    checkpoints.write_pickle(Path("runs/step3"))
    compare(options=RunOptions(device="cpu", allow_pickle=True))
    assert loads == ["step1", "step3"]


def test_names_that_transformers_changes_are_told_by_their_values(loads: list[str]) -> None:
    for seed in (1, 2):
        write_renamed(seed, lambda name: name.replace("gate_proj", "w1"))
    checkpoints.write_llama(Path("runs/step3"), seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_load_model", load_renamed("w1", "gate_proj"))
        compare()
    # The third has the module's own names, which are as good.
    assert loads == ["step1"]


def test_names_that_could_be_several_are_opened_alone(loads: list[str]) -> None:
    # All norms of a fresh model are ones: which name is which cannot be told by values.
    for seed in (1, 2):
        write_renamed(seed, lambda name: name.replace("post_attention_layernorm", "ln"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_load_model", load_renamed("ln.", "post_attention_layernorm."))
        compare()
    assert loads == ["step1", "step2"]


def write_renamed(seed: int, change: Callable[[str], str]) -> None:
    rename(checkpoints.write_llama(Path("runs", f"step{seed}"), seed=seed), change)


def load_renamed(old: str, new: str) -> Callable[..., Any]:
    """Loading as by a version of transformers that knows a checkpoint's old names."""
    original = pretrained._load_model

    def load(source: str, *rest: Any) -> Any:
        # A new place each time: what was loaded may still be read from its file.
        copy = shutil.copytree(source, Path(tempfile.mkdtemp(dir=".")) / "copy")
        rename(Path(copy), lambda name: name.replace(old, new))
        return original(str(copy), *rest)

    return load


def rename(folder: Path, change: Callable[[str], str]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {change(name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_values_that_transformers_changes_are_opened_alone(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Same names and shapes, and yet not what is in the module: seen by comparing the first.
    original = pretrained._load_model

    def load(*arguments: Any) -> Any:
        model = original(*arguments)
        with torch.no_grad():
            model.model.norm.weight.mul_(2)
        return model

    monkeypatch.setattr(pretrained, "_load_model", load)
    write_series(2)
    compare()
    assert loads == ["step1", "step2"]


def test_each_checkpoint_has_its_own_tokenizer(loads: list[str]) -> None:
    folders = write_series(4)
    for file in folders[1].glob("tokenizer*"):
        file.unlink()
    tokenizer = folders[2] / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"fox"', '"cat"'))
    compare()
    assert loads == ["step1"]


def test_weights_that_are_tied_in_one_checkpoint_only_are_opened_alone(loads: list[str]) -> None:
    folders = write_series(3, tie_word_embeddings=True)
    head = checkpoints.make_llama(9).lm_head.weight.detach().clone()
    checkpoints.edit_weights(folders[1], lm_head__weight=head)
    embedding = checkpoints.make_llama(3, tie_word_embeddings=True).lm_head.weight.detach().clone()
    checkpoints.edit_weights(folders[2], lm_head__weight=embedding)
    stream = CheckpointStream()
    for checkpoint in find_steps(parse_spec("runs@*")):
        poured = numbers(stream.open(checkpoint.spec, "slug", CPU))
        alone = numbers(open_model(checkpoint.spec, "slug", CPU))
        assert torch.allclose(poured[1], alone[1], rtol=0, atol=1e-7)
    # transformers unties the second; the third says twice what the first says once.
    assert loads[:2] == ["step1", "step2"]


def broken_by(change: Callable[[Path], None]) -> str:
    """What is said of the second of three checkpoints; the third is what it is alone."""
    folders = write_series()
    change(folders[1])
    stream = CheckpointStream()
    first, second, third = (one.spec for one in find_steps(parse_spec("runs@*")))
    stream.open(first, "slug", CPU)
    with pytest.raises(IclError) as caught:
        stream.open(second, "slug", CPU)
    found = stream.open(third, "slug", CPU)
    alone = open_model(third, "slug", CPU)
    assert found.fingerprint == alone.fingerprint
    assert all(torch.equal(one, other) for one, other in zip(numbers(found), numbers(alone)))
    message = str(caught.value)
    assert message.startswith("model 'runs@step2': ") and "\n" not in message
    return message


def poke(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weight = checkpoints.make_llama().lm_head.weight.detach().clone()
        weight[2, 3] = value
        checkpoints.edit_weights(folder, lm_head__weight=weight)

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "model.safetensors is cut short or damaged"),
        (poke(float("nan")), "1 of 512 values of lm_head.weight are NaN or infinite"),
        (poke(float("inf")), "1 of 512 values of lm_head.weight are NaN or infinite"),
        (lambda f: (f / "config.json").unlink(), "the folder has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "the folder has no model.safetensors"),
        (
            lambda f: checkpoints.edit_weights(f, model__norm__weight=None),
            "1 weights are missing from the checkpoint: model.norm.weight",
        ),
        (
            lambda f: checkpoints.edit_weights(f, adapter__weight=torch.ones(2)),
            "holds 1 weight (adapter.weight) that the model does not use",
        ),
        (
            lambda f: checkpoints.edit_weights(f, model__norm__weight=torch.ones(31)),
            "model.norm.weight has the shape (31,), and the other checkpoints' (32,)",
        ),
    ],
)
def test_a_broken_checkpoint_is_told_and_leaves_no_trace(
    change: Callable[[Path], None], message: str, loads: list[str]
) -> None:
    assert message in broken_by(change)
    assert loads == ["step1"]


def test_a_misfit_is_seen_before_anything_is_overwritten() -> None:
    folders = write_series(2)
    checkpoints.edit_weights(folders[1], lm_head__weight=torch.ones(5, 5))
    stream = CheckpointStream()
    first, second = (one.spec for one in find_steps(parse_spec("runs@*")))
    model = stream.open(first, "slug", CPU)
    before = numbers(model)
    with pytest.raises(ModelError, match="shape"):
        stream.open(second, "slug", CPU)
    assert all(torch.equal(one, other) for one, other in zip(numbers(model), before))


def test_the_first_checkpoint_may_be_the_broken_one(loads: list[str]) -> None:
    folders = write_series()
    poke(float("nan"))(folders[0])
    stream = CheckpointStream()
    first, *others = (one.spec for one in find_steps(parse_spec("runs@*")))
    with pytest.raises(ModelError, match="NaN"):
        stream.open(first, "slug", CPU)
    for spec in others:
        assert stream.open(spec, "slug", CPU).fingerprint == open_model(spec, "", CPU).fingerprint
    assert loads == ["step1", "step2"]


def test_a_checkpoint_that_went_away_is_an_error() -> None:
    write_series(2)
    stream = CheckpointStream()
    first, second = (one.spec for one in find_steps(parse_spec("runs@*")))
    stream.open(first, "slug", CPU)
    shutil.rmtree("runs/step2")
    with pytest.raises(SpecError, match="there is no folder"):
        stream.open(second, "slug", CPU)


def test_buffers_that_no_checkpoint_holds_are_put_back() -> None:
    write_series(2)
    stream = CheckpointStream()
    first, second = (one.spec for one in find_steps(parse_spec("runs@*")))
    model = stream.open(first, "slug", CPU)
    (buffer,) = [
        b for name, b in model.model.named_buffers() if name.endswith("rotary_emb.inv_freq")
    ]
    buffer.mul_(3)  # as families do that stretch their positions with the sequence
    poured, alone = stream.open(second, "slug", CPU), open_model(second, "slug", CPU)
    assert torch.equal(numbers(poured)[1], numbers(alone)[1])


class Watched:
    """How many models are alive when a checkpoint is built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        self.alive: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
        original = PreTrainedModel.__init__

        def build(module: PreTrainedModel, *arguments: Any, **options: Any) -> None:
            original(module, *arguments, **options)
            if type(module).__name__.endswith("ForCausalLM"):
                self.alive.add(module)
                if len(self.alive) > 1:
                    gc.collect()
                self.most = max(self.most, len(self.alive))

        monkeypatch.setattr(PreTrainedModel, "__init__", build)


@pytest.mark.parametrize("fitting", [True, False])
def test_no_more_than_one_model_is_in_memory(
    fitting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    for seed in (1, 2, 3):
        size = 64 if fitting else 64 + seed
        checkpoints.write_llama(Path(f"runs/step{seed}"), seed=seed, intermediate_size=size)
    gc.collect()
    assert len(watched.alive) == 0
    watched.most = 0
    others = {id(one) for one in gc.get_objects() if type(one) is torch.nn.Parameter}
    stream, modules = CheckpointStream(), set()
    for checkpoint in find_steps(parse_spec("runs@*")):
        # The name is taken away from the model before, as a run does.
        model = None
        model = stream.open(checkpoint.spec, "slug", CPU)
        modules.add(id(model.model))
    assert watched.most == 1
    # Nothing else holds what the checkpoints before were made of.
    parameters = [one for one in gc.get_objects() if type(one) is torch.nn.Parameter]
    own = {id(parameter) for parameter in model.model.parameters()}  # type: ignore[attr-defined]
    assert {id(parameter) for parameter in parameters} - own <= others
    del model, parameters
    stream.close()
    gc.collect()
    assert len(watched.alive) == 0
    if fitting:
        assert len(modules) == 1
