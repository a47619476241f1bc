"""A first half of the circuit that is no head, found by cutting the edges to the token before."""

from __future__ import annotations

import families
import numpy as np
import pytest
import torch
from handset import textbook
from verdict_lookalikes import previous_token_only, shift_by_two
from verdict_models import shared_previous_token, token_shift

import icl_bench
from icl_bench.measures.tokens import draw_repeated
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import first_half, induction

CUT = "induction_without_previous"
PREVIOUS = "previous_token_max"
SMALL = {"sequences": 4, "period": 12}


def measure(built):
    return induction.measure(icl_bench.wrap(built), induction.Settings(**SMALL), Context())


def test_a_shift_writes_the_token_before_and_no_head_is_asked_for():
    found = measure(token_shift())
    assert PREVIOUS not in found.metrics
    why = found.unmeasured[PREVIOUS]
    assert "no head here" in why and "head 1.0 scores" in why and "token shift" in why
    assert found.metrics[CUT].value == pytest.approx(found.metrics["induction_max"].value, abs=1e-6)


def test_a_head_that_attends_to_the_token_before_is_the_first_half():
    found = measure(textbook())
    assert found.metrics[PREVIOUS].value > 0.9
    assert "a head attends to the token before" in found.unmeasured[CUT]


def test_heads_that_share_the_work_are_found_by_cutting_their_edges():
    built = shared_previous_token(4)
    found = measure(built)
    # The check on one head above .4 is decided, and fails: without those edges nothing is found.
    assert 0.2 < found.metrics[PREVIOUS].value < 0.4
    assert found.metrics[CUT].value < 0.5 * found.metrics["induction_max"].value
    assert found.metrics[CUT].value == pytest.approx(slow(built), abs=1e-5)


def slow(built):
    """Score of head 1.0 where every query of layer 0 gives nothing to the token before."""
    model = icl_bench.wrap(built)
    tokens = draw_repeated(model.vocabulary, bos=model.bos, **SMALL)
    ids, states = tokens.input_ids, []
    attention = built.model.layers[0].self_attn
    with torch.no_grad():
        hook = built.model.layers[0].register_forward_pre_hook(
            lambda module, given, named: states.append((given or (named["hidden_states"],))[0]),
            with_kwargs=True,
        )
        built(ids)
        hook.remove()
    stream, width = states[0].double(), attention.head_dim
    length = ids.shape[1]
    after = stream.clone()

    def pattern(layer, head, where, cut):
        own = built.model.layers[layer].self_attn
        rows = slice(head * width, (head + 1) * width)
        query = where @ own.q_proj.weight.double()[rows].T
        key = where @ own.k_proj.weight.double()[rows].T
        scores = own.scaling * query @ key.transpose(1, 2)
        hidden = torch.ones(length, length).triu(1).bool()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return weights * (1 - torch.diag(torch.ones(length - 1), -1)) if cut else weights

    for head in range(4):
        rows = slice(head * width, (head + 1) * width)
        weights = pattern(0, head, stream, cut=True)
        value = stream @ attention.v_proj.weight.double()[rows].T
        after += weights @ value @ attention.o_proj.weight.double()[:, rows].T
    later = pattern(1, 0, after, cut=False)
    queries = range(tokens.prefix + tokens.period, length)
    return float(
        np.mean(
            [later[:, q, q - tokens.period + 1].mean().item() for q in queries if q < length - 1]
        )
    )


@pytest.mark.parametrize("built", [previous_token_only, shift_by_two])
def test_without_a_head_that_matches_there_is_no_half_to_look_for(built):
    found = measure(built())
    assert PREVIOUS in found.metrics and CUT in found.unmeasured


def test_a_family_whose_edges_cannot_be_cut_keeps_its_score(monkeypatch):
    monkeypatch.setattr(first_half, "MATCHES", -1.0)
    found = measure(families.build("bloom"))
    assert "single edges cannot be removed" in found.unmeasured[CUT]
    assert found.metrics[PREVIOUS].value < 1


def test_a_head_of_the_first_layer_has_no_heads_below_that_could_lose_edges(monkeypatch):
    monkeypatch.setattr(first_half, "MATCHES", -1.0)
    found = measure(families.build("icl_reference", num_hidden_layers=1))
    assert found.metrics[CUT].value in [
        pytest.approx(row["induction"], abs=1e-6) for row in found.heads
    ]
