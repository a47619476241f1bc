"""What `wrap` says of things that are no transformers model, or no tokenizer."""

from __future__ import annotations

import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError
from icl_bench.reference.handwired import handwired


class PeftModel(torch.nn.Module):
    """Stands for the adapter package's class, which tells itself by its name."""


class PeftModelForCausalLM(PeftModel):
    """What that package makes of a language model."""


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (lambda model: torch.nn.DataParallel(model), "wrap its .module"),
        (lambda model: PeftModelForCausalLM(), r"merge the adapter first: wrap\(model.merge_and"),
        (lambda model: torch.compile(model), r"wrap what was given to torch.compile \(._orig_mod"),
        (lambda model: "gpt2", r"icl_bench.load_model\(NAME\) opens a model by its name"),
        (lambda model: torch.nn.Linear(2, 2), r"\(PreTrainedModel\), not Linear$"),
    ],
    ids=["DataParallel", "PeftModel", "compiled", "str", "Linear"],
)
def test_it_says_what_to_wrap_instead(made, advice):
    with pytest.raises(ModelError, match=advice):
        icl_bench.wrap(made(handwired()))


@pytest.mark.parametrize(("given", "said"), [("gpt2", "not 'gpt2'"), (3, "not int")])
def test_a_tokenizer_has_to_be_one(given, said):
    with pytest.raises(ModelError, match=f"expected a transformers tokenizer, {said}; AutoTok"):
        icl_bench.wrap(handwired(), given)
