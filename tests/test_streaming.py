"""Checkpoints that are poured into one module give the numbers of checkpoints opened alone."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import checkpoints
import families
import pytest
import torch
from hub_server import HubServer, Repo
from streamed import CPU, compare, numbers, write_series
from test_loading_hub import use_hub
from transformers import PreTrainedModel

from icl_bench.errors import SpecError
from icl_bench.models.opening import loading, opening, streaming
from icl_bench.models.opening.opening import open_model
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps
from icl_bench.options import RunOptions


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
