"""Every type of causal language model in transformers is measured exactly or refused.

The reference is a second model with the same weights under eager attention: the matrices that it
returns, told apart by the module that returned them; and for a head that is off, its logits when
the softmax of that head gives zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import pytest
import registry
import torch
import transformers
from torch import Tensor

import icl_bench
from icl_bench.errors import ModelError, NotMeasurable
from icl_bench.measures.tokens import Pairs, draw_repeated

SEQUENCES, PERIOD = 2, 12
LAYER = re.compile(r"\b(?:layers?|h|blocks?|attentions)\.(\d+)\.")
VERSION = transformers.__version__
PINNED, LINES = registry.committed()
pinned = pytest.mark.skipif(
    VERSION != PINNED, reason=f"the table in docs/models.md is of transformers {PINNED}"
)


WITHIN = 1e-5 if VERSION == PINNED else 1e-4
"""Rounding of scores; other versions add in other orders."""


def stop(why: str) -> NoReturn:
    """Skip a type of which another transformers gives no reference; the table's has to give one."""
    if VERSION == PINNED:
        pytest.fail(why)
    pytest.skip(f"transformers {VERSION}: " + " ".join(why.split())[:300])


def layer_of(name: str) -> int | None:
    """Return the decoder layer in a module's name; LongCat numbers two to a block."""
    found = LAYER.search(f"{name}.")
    if not found:
        return None
    twin = re.search(r"self_attn\.([01])$", name)
    return 2 * int(found.group(1)) + int(twin.group(1)) if twin else int(found.group(1))


def reference_attention(module: Any, ids: Tensor) -> dict[int, Tensor]:
    """Return layer -> attention (sequences, heads, length, length)."""
    owners: dict[int, tuple[int, Tensor]] = {}
    square = (ids.shape[1], ids.shape[1])

    def own(layer: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            for entry in output if isinstance(output, (tuple, list)) else ():
                if isinstance(entry, Tensor) and entry.ndim == 4:
                    # Kept, so that no later tensor gets its id.
                    owners.setdefault(id(entry), (layer, entry))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, part in module.named_modules():
            if (layer := layer_of(name)) is not None:
                stack.callback(part.register_forward_hook(own(layer)).remove)
        attentions = module(ids, output_attentions=True, use_cache=False).attentions
    kept = [a for a in attentions if a is not None and a.shape[-2:] == square]
    return {owners[id(a)][0]: a for a in kept}


@contextmanager
def sinks_counted(module: Any) -> Iterator[None]:
    """Granite returns attention as it was before the sink took its share: take it here."""
    file = __import__(type(module).__module__, fromlist=["eager_attention_forward"])
    own = getattr(file, "eager_attention_forward", None)
    if not module.config.model_type.startswith("granite") or own is None:
        yield
        return

    def counted(part, query, key, value, mask, scaling, **more):
        output, weights = own(part, query, key, value, mask, scaling=scaling, **more)
        if not hasattr(part, "sinks"):
            return output, weights
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query @ keys.transpose(2, 3) * scaling + mask
        sink = part.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return output, torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]

    file.eager_attention_forward = counted
    try:
        yield
    finally:
        file.eager_attention_forward = own


@contextmanager
def head_off(module: Any, layer: int, head: int, heads: int, ids: Tensor) -> Iterator[list[int]]:
    """Let the softmax of one head give zeros; yields a list that grows with each time it did."""
    running: list[int] = []
    done: list[int] = []
    kept = {"softmax": torch.softmax, "method": Tensor.softmax}
    rows, length = ids.shape

    def cut(weights: Tensor) -> Tensor:
        if running[-1:] != [layer] or weights.shape[-2] != length or weights.shape[-1] < length:
            return weights
        if weights.shape[:-2] == (rows, heads):
            done.append(layer)
            weights = weights.clone()
            weights[:, head] = 0
        elif weights.shape[:-2] == (rows * heads,):
            done.append(layer)
            weights = weights.clone()
            weights.view(rows, heads, *weights.shape[1:])[:, head] = 0
        return weights

    def leave(*_: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if (index := layer_of(name)) is not None:
                enter = part.register_forward_pre_hook(lambda *_, i=index: running.append(i))
                stack.callback(enter.remove)
                stack.callback(part.register_forward_hook(leave).remove)
        torch.softmax = lambda *a, **k: cut(kept["softmax"](*a, **k))
        Tensor.softmax = lambda *a, **k: cut(kept["method"](*a, **k))
        try:
            yield done
        finally:
            torch.softmax, Tensor.softmax = kept["softmax"], kept["method"]


def nll(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
    )


@pinned
def test_every_type_has_its_line_in_the_table():
    assert sorted(LINES) == registry.TYPES


@pinned
@pytest.mark.parametrize("kind", sorted(registry.UNBUILT))
def test_a_type_that_is_listed_as_not_buildable_cannot_be_built(kind):
    with pytest.raises((ImportError, ValueError)):
        registry.build(kind)


@pytest.mark.parametrize("kind", [k for k in registry.TYPES if k not in registry.UNBUILT])
def test_a_type_is_exact_or_refused(kind):
    try:
        module = registry.build(kind)
    except Exception as error:
        stop(f"the tiny config makes no model: {error}")
    try:
        found: Any = icl_bench.wrap(module)
    except ModelError as error:
        found = error
    row = registry.describe(kind, found)
    if VERSION == PINNED:
        assert str(row) == LINES[kind]
    if row.path == "refused":
        assert row.note
        return
    tokens = draw_repeated(
        found.vocabulary, sequences=SEQUENCES, period=PERIOD, seed=3, bos=found.bos
    )
    ids = tokens.input_ids
    try:
        with torch.no_grad():
            own = registry.build(kind)(ids, use_cache=False).logits
    except Exception as error:
        stop(f"the model itself breaks: {error}")
    clean = found.losses(ids).nll
    if row.path == "none":
        with pytest.raises(NotMeasurable, match="no attention heads"):
            icl_bench.head_scores(found, tokens)
        assert bool(torch.isfinite(clean).all())
        return
    reference = build_reference(kind)
    with torch.no_grad():
        if not torch.allclose(reference(ids, use_cache=False).logits, own, atol=1e-3):
            stop("eager attention gives other logits than the model's own default")
    compare_scores(found, reference, ids)
    first, last = min(found.heads), max(found.heads)
    for layer, head in {(first, 1), (last, found.heads[last] - 1)}:
        compare_ablation(found, reference, ids, clean, layer, head)


def test_the_comparisons_can_fail():
    found = registry.open_model("llama")
    tokens = draw_repeated(found.vocabulary, sequences=SEQUENCES, period=PERIOD, seed=3)
    ids, clean = tokens.input_ids, found.losses(tokens.input_ids).nll
    with pytest.raises(AssertionError, match="layer 0 is off by"):
        compare_scores(found, registry.build("llama", seed=1, attention="eager"), ids)
    reference = registry.build("llama", attention="eager")
    compare_ablation(found, reference, ids, clean, 2, 3)
    with torch.no_grad():  # the same model but for one column of one head
        reference.model.layers[2].self_attn.o_proj.weight[:, 0] *= 1.1
    with pytest.raises(AssertionError):
        compare_ablation(found, reference, ids, clean, 2, 3)


def build_reference(kind: str) -> Any:
    """Return the model under eager attention, which in Falcon adds ALiBi to its mask as well."""
    module = registry.build(kind, attention="eager")
    if module.config.model_type == "falcon" and module.config.alibi:

        def add_once(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "alibi": torch.zeros_like(kwargs["alibi"])}

        for block in module.transformer.h:
            block.self_attention.register_forward_pre_hook(add_once, with_kwargs=True)
    return module


def compare_scores(found: Any, reference: Any, ids: Tensor) -> None:
    query, key = torch.tril_indices(ids.shape[1], ids.shape[1])
    scores = found.head_scores(ids, {"all": Pairs(query, key)}, raw=True)["all"]
    with sinks_counted(reference):
        expected = reference_attention(reference, ids)
    if found.model.config.model_type == "minimax":
        # Its linear layers return the state that they carry, which happens to be square.
        kinds = reference.config.layer_types
        expected = {i: a for i, a in expected.items() if kinds[i] == "full_attention"}
    if not expected.keys() >= scores.keys():
        stop("matrices of layers that share their attention cannot be told apart")
    assert sorted(scores) == sorted(expected)
    for layer, matrix in expected.items():
        off = (scores[layer] - matrix[:, :, query, key]).abs().max()
        assert off < WITHIN, f"layer {layer} is off by {off:.2g}"


def compare_ablation(
    found: Any, reference: Any, ids: Tensor, clean: Tensor, layer: int, head: int
) -> None:
    ablated = icl_bench.token_losses(found, ids, ablate=[(layer, head)])
    with torch.no_grad(), head_off(reference, layer, head, found.heads[layer], ids) as done:
        logits = reference(ids, use_cache=False).logits
    assert done == [layer]
    assert torch.allclose(ablated, nll(logits, ids), atol=1e-4)
    assert not torch.allclose(ablated, clean, atol=1e-5)
