"""`icl_bench.attention_attribution`: what the API gives, on the hand-wired model and by numbers."""

from __future__ import annotations

import pytest
import torch

import icl_bench
from icl_bench.errors import SettingsError


@pytest.fixture(scope="module")
def handwired():
    return icl_bench.load_model("builtin:handwired")


def test_the_hand_wired_head_matches_what_the_previous_token_head_wrote(handwired):
    tokens = icl_bench.repeated_tokens(handwired, sequences=3, period=8)
    frame = icl_bench.attention_attribution(handwired, tokens, [(1, 0)])
    assert set(zip(frame.layer, frame["head"])) == {(1, 0)}
    largest = frame.loc[frame.logit.idxmax()]
    assert (largest.key, largest["query"]) == ("0.0", "embedding")
    # The rest: codes of other tokens are a little like the one looked for.
    assert largest.logit > 0.8 * frame.logit.sum()
    assert frame.logit_stderr.notna().all()


def test_rows_add_up_to_the_difference_of_logits(handwired):
    """Against log-probabilities of plain eager attention, whose differences are those of logits."""
    model = icl_bench.load_model("builtin:induction-2l")
    tokens = icl_bench.repeated_tokens(model, sequences=2, period=6)
    frame = icl_bench.attention_attribution(model, tokens, [(1, 4), (1, 0), (1, 4)])
    assert list(dict.fromkeys(zip(frame.layer, frame["head"]))) == [(1, 0), (1, 4)]
    model.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = model.model(tokens.input_ids, output_attentions=True).attentions
    finally:
        model.model.set_attn_implementation("sdpa")
    for head in (0, 4):
        differences = []
        for matrix in layers[1][:, head].log():
            for i in range(7, 13):
                target = i - 5
                others = [float(matrix[i, j]) for j in range(i + 1) if j != target]
                differences.append(float(matrix[i, target]) - sum(others) / len(others))
        own = frame[frame["head"] == head]
        expected = sum(differences) / len(differences)
        assert own.logit.sum() == pytest.approx(expected, abs=1e-4)


def test_one_sequence_has_no_error_and_a_head_that_is_not_there_is_named(handwired):
    tokens = icl_bench.repeated_tokens(handwired, sequences=1, period=8)
    assert icl_bench.attention_attribution(handwired, tokens, [(1, 0)]).logit_stderr.isna().all()
    with pytest.raises(SettingsError, match=r"no head 1\.77"):
        icl_bench.attention_attribution(handwired, tokens, [(1, 77)])
    bench = icl_bench.api.Bench(handwired)
    assert len(bench.attention_attribution([(1, 0)], tokens))
