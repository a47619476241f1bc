"""What `wrap` says of things that are no transformers model, or no tokenizer."""

from __future__ import annotations

import warnings

import checkpoints
import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.reference.handwired import handwired


class Holder(torch.nn.Module):
    """A module of somebody's own around a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


def prepared(model: torch.nn.Module) -> torch.nn.Module:
    accelerate = pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accelerate.Accelerator(cpu=True).prepare(model)


@pytest.mark.parametrize(
    "around",
    [torch.nn.DataParallel, torch.compile, prepared, lambda m: torch.compile(prepared(m))],
    ids=["DataParallel", "compiled", "prepared", "both"],
)
def test_what_training_puts_around_a_model_is_taken_off(around):
    model = checkpoints.make_llama()
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6]])
    expected = icl_bench.wrap(model).losses(ids).nll
    wrapped = icl_bench.wrap(around(model))
    assert wrapped.model is model and wrapped.adapter is None
    assert torch.equal(wrapped.losses(ids).nll, expected)


def test_adapters_in_a_wrapped_model_act_and_are_named(tmp_path):
    peft = pytest.importorskip("peft")
    from adapters import KINDS, write_adapter

    merged = checkpoints.make_llama()
    merged.load_state_dict(write_adapter(checkpoints.make_llama(), tmp_path / "a", KINDS["lora"]))
    model = peft.PeftModel.from_pretrained(checkpoints.make_llama(), tmp_path / "a")
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6]])
    wrapped, expected = icl_bench.wrap(model), icl_bench.wrap(merged)
    assert wrapped.adapter == "default: LORA of rank 4, beside the weights"
    torch.testing.assert_close(wrapped.losses(ids).nll, expected.losses(ids).nll)
    assert wrapped.parameters == expected.parameters
    ours, theirs = (one.anatomy.layers[1].output_matrix() for one in (wrapped, expected))
    torch.testing.assert_close(ours, theirs)
    with model.disable_adapter():
        plain = icl_bench.wrap(model)
        assert plain.adapter is None
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(UnsupportedModel, match="puts tokens of its own before each prompt"):
        icl_bench.wrap(peft.get_peft_model(checkpoints.make_llama(), prompts))


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (lambda model: "gpt2", r"icl_bench.load_model\(NAME\) opens a model by its name"),
        (lambda model: torch.nn.Linear(2, 2), r"\(PreTrainedModel\), .* not Linear$"),
        (lambda model: Holder(model), r"not Holder: give its .model$"),
    ],
    ids=["str", "Linear", "holder"],
)
def test_it_says_what_to_wrap_instead(made, advice):
    with pytest.raises(ModelError, match=advice):
        icl_bench.wrap(made(handwired()))


@pytest.mark.parametrize(("given", "said"), [("gpt2", "not 'gpt2'"), (3, "not int")])
def test_a_tokenizer_has_to_be_one(given, said):
    with pytest.raises(ModelError, match=f"expected a transformers tokenizer, {said}; AutoTok"):
        icl_bench.wrap(handwired(), given)
