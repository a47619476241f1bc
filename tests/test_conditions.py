"""What tells one open model from another: weights, and everything else that changes a number."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import checkpoints
import pytest
import torch

import icl_bench
from icl_bench.models.module.vocabulary import fingerprint
from icl_bench.models.opening.conditions import describe_conditions, digest_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_llama(tmp_path_factory.mktemp("model"))


def open_folder(folder: Path) -> icl_bench.Model:
    return icl_bench.load_model(str(folder), device="cpu")


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name, value in first.items() if second[name] != value}


def test_one_element_by_one_step_makes_another_fingerprint(folder: Path) -> None:
    model = open_folder(folder)
    before = fingerprint(model.model)
    for name, weight in model.model.state_dict().items():
        flat = weight.view(-1)
        kept = flat[-1].clone()
        flat[-1] = torch.nextafter(kept, torch.tensor(9.0))
        assert fingerprint(model.model) != before, name
        flat[-1] = kept
    assert fingerprint(model.model) == before


def test_the_same_model_opened_twice_has_the_same_conditions(folder: Path) -> None:
    assert differing(*(describe_conditions(open_folder(folder)) for _ in range(2))) == set()


def test_measuring_does_not_change_the_conditions(folder: Path) -> None:
    model = open_folder(folder)
    before = describe_conditions(model)
    icl_bench.head_scores(model, icl_bench.repeated_tokens(model, sequences=2, period=4))
    icl_bench.ablation_sweep(model, icl_bench.repeated_tokens(model, sequences=2, period=4))
    model.tokenizer(["the fox", "the"], truncation=True, max_length=3)
    assert differing(before, describe_conditions(model)) == set()


def test_threads_are_no_condition(folder: Path) -> None:
    model = open_folder(folder)
    threads = torch.get_num_threads()
    before = describe_conditions(model)
    try:
        torch.set_num_threads(threads + 1)
        assert differing(before, describe_conditions(model)) == set()
    finally:
        torch.set_num_threads(threads)


def hook(module: Any) -> None:
    module.model.layers[0].self_attn.register_forward_hook(lambda part, given, output: None)


def hook_before(module: Any) -> None:
    module.model.layers[0].register_forward_pre_hook(lambda part, given: None)


def patch(module: Any) -> None:
    layer = module.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda hidden: forward(hidden)


@pytest.mark.parametrize("change", [hook, hook_before, patch])
def test_a_model_with_hooks_cannot_be_told(folder: Path, change: Callable[[Any], None]) -> None:
    model = open_folder(folder)
    change(model.model)
    with pytest.raises(ValueError, match=r"layers\.[01].* has a hook or a forward of test_condi"):
        describe_conditions(model)


def turn(module: Any) -> None:
    module.model.rotary_emb.inv_freq.mul_(2)


def rescale(module: Any) -> None:
    module.model.layers[0].self_attn.scaling *= 1.5


def replace(module: Any) -> None:
    module.model.layers[0].mlp.act_fn = torch.nn.ReLU()


def scale(module: Any) -> None:
    with torch.no_grad():
        module.model.norm.weight.data.mul_(1.5)


def retitle(module: Any) -> None:
    module.config.max_position_embeddings = 32


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (turn, {"buffers"}),
        (rescale, {"attributes"}),
        (replace, {"behaviour", "implementation", "attributes"}),
        (scale, {"behaviour", "weights"}),
        (retitle, {"config"}),
    ],
)
def test_what_is_done_to_an_open_model_shows(
    folder: Path, change: Callable[[Any], None], where: set[str]
) -> None:
    model = open_folder(folder)
    before = describe_conditions(model)
    change(model.model)
    # Whether a small change reaches the rounded losses is left open.
    assert where <= differing(before, describe_conditions(model)) <= where | {"behaviour"}


def test_the_same_weights_under_another_config_show(folder: Path, tmp_path: Path) -> None:
    before = describe_conditions(open_folder(folder))
    other = checkpoints.write_llama(tmp_path / "other", rms_norm_eps=1e-5)
    after = describe_conditions(open_folder(other))
    assert before["weights"] == after["weights"] and "config" in differing(before, after)


def test_another_data_type_and_another_first_token_show(folder: Path) -> None:
    model = open_folder(folder)
    before = describe_conditions(model)
    model.bos = None
    model.vocabulary = model.vocabulary[:-1]
    assert differing(before, describe_conditions(model)) >= {"bos", "vocabulary"}
    narrow = describe_conditions(icl_bench.load_model(str(folder), device="cpu", dtype="bfloat16"))
    assert differing(before, narrow) >= {"dtype", "weights"}


def test_a_tokenizer_is_known_by_what_it_does(folder: Path, tmp_path: Path) -> None:
    tokenizer = open_folder(folder).tokenizer
    before = digest_tokenizer(tokenizer)
    checkpoints.write_tokenizer(tmp_path)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    assert digest_tokenizer(AutoTokenizer.from_pretrained(folder)) == before
    tokenizer.add_tokens(["jump"])
    assert digest_tokenizer(tokenizer) != before
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert digest_tokenizer(plain) != before
    assert digest_tokenizer(None) is None


class OldTokenizer:
    """A tokenizer that is known by the files it saves."""

    all_special_ids = (0,)
    bos_token_id = eos_token_id = 0

    def __init__(self, words: str) -> None:
        self.words = words

    def save_pretrained(self, folder: str) -> None:
        Path(folder, "vocab.txt").write_text(self.words)


def test_a_tokenizer_without_a_backend_is_known_by_the_files_it_saves() -> None:
    digests = [digest_tokenizer(OldTokenizer(words)) for words in ("a b", "a b", "a c")]
    assert digests[0] == digests[1] != digests[2]


CODE = """
from transformers import LlamaForCausalLM

class Mine(LlamaForCausalLM):
    scale = {}
"""


def load_code(path: Path, scale: int) -> ModuleType:
    path.write_text(CODE.format(scale))
    spec = importlib.util.spec_from_file_location("my_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_model"] = module
    spec.loader.exec_module(module)
    return module


def test_code_that_is_no_librarys_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "my_model", ModuleType("my_model"))
    found = []
    for scale in (1, 1, 2):
        code = load_code(tmp_path / "my_model.py", scale)
        module = code.Mine(checkpoints.make_llama().config)
        module.load_state_dict(checkpoints.make_llama().state_dict())
        found.append(describe_conditions(icl_bench.wrap(module)))
    assert differing(found[0], found[1]) == set()
    assert differing(found[0], found[2]) == {"implementation"}
    plain = describe_conditions(icl_bench.wrap(checkpoints.make_llama()))
    assert "implementation" in differing(found[0], plain)


def test_how_a_model_behaves_tells_what_nothing_else_does(folder: Path) -> None:
    model = open_folder(folder)
    before = describe_conditions(model)
    kind = type(model.model.model.norm)
    forward = kind.forward
    try:
        kind.forward = lambda self, hidden: 1.5 * forward(self, hidden)
        assert differing(before, describe_conditions(model)) == {"behaviour"}
    finally:
        kind.forward = forward
