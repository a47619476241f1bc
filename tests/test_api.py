"""The public names and what they refuse."""

from __future__ import annotations

import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError, SettingsError


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def tokens(model):
    return icl_bench.repeated_tokens(model, sequences=3, period=12)


def test_the_public_names_are_these():
    assert sorted(icl_bench.__all__) == [
        "IclError",
        "Model",
        "RepeatedTokens",
        "RunRecord",
        "__version__",
        "ablation_sweep",
        "attention_attribution",
        "diff",
        "head_scores",
        "load_model",
        "logit_attribution",
        "minimal_set",
        "ov_copying",
        "path_patching",
        "read_record",
        "repeated_tokens",
        "run",
        "token_losses",
        "weight_composition",
        "wrap",
    ]
    for name in icl_bench.__all__:
        assert getattr(icl_bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = icl_bench.nothing


def test_head_scores_is_a_table_with_errors(model, tokens):
    frame = icl_bench.head_scores(model, tokens)
    assert list(frame.columns) == [
        "layer",
        "head",
        "induction",
        "previous_token",
        "duplicate_token",
        "first_token",
        "induction_stderr",
        "previous_token_stderr",
        "duplicate_token_stderr",
        "first_token_stderr",
    ]
    assert len(frame) == 48
    one = icl_bench.repeated_tokens(model, sequences=1, period=12)
    assert icl_bench.head_scores(model, one)["induction_stderr"].isna().all()


def test_hand_built_tokens_are_scored(model):
    block = torch.arange(10, 20)
    ids = torch.cat([torch.tensor([model.bos]), block, block])[None]
    tokens = icl_bench.RepeatedTokens(ids, period=10, repeats=2, prefix=1)
    frame = icl_bench.head_scores(model, tokens).set_index(["layer", "head"])
    assert frame.loc[(1, 0), "induction"] > 0.99


def test_inputs_are_never_changed(model, tokens):
    before = tokens.input_ids.clone()
    icl_bench.head_scores(model, tokens)
    icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 0)])
    assert torch.equal(tokens.input_ids, before)


def test_token_losses_ablates_the_heads_that_are_named(model, tokens):
    clean = icl_bench.token_losses(model, tokens.input_ids)
    assert clean.shape == (3, 24)
    for method in ("zero", "mean"):
        off = icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 0)], method=method)
        assert (off - clean)[:, 13:].min() > 3
        idle = icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 7)], method=method)
        assert torch.allclose(idle, clean, atol=1e-4)


def test_the_sweep_finds_the_two_heads_that_matter(model, tokens):
    sweep = icl_bench.ablation_sweep(model, tokens)
    assert list(sweep.columns)[:4] == ["layer", "head", "repeated_loss", "delta"]
    assert set(sweep["sequences"]) == {len(tokens.input_ids)}
    hurt = sweep[sweep["delta"] > 1]
    assert list(zip(hurt["layer"], hurt["head"])) == [(0, 0), (1, 0)]
    clean = icl_bench.token_losses(model, tokens.input_ids)[:, 13:].mean()
    assert (sweep["repeated_loss"] - sweep["delta"]).to_numpy() == pytest.approx(
        float(clean), abs=1e-5
    )


def test_wrong_arguments_get_one_clear_message(model, tokens):
    with pytest.raises(SettingsError, match=r"no head 1\.99"):
        icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 99)])
    with pytest.raises(SettingsError, match="unknown method 'median'"):
        icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 0)], method="median")
    with pytest.raises(SettingsError, match="integers"):
        icl_bench.token_losses(model, torch.zeros(2, 4))
    with pytest.raises(SettingsError, match=r"0\.\."):
        icl_bench.token_losses(model, torch.tensor([[1, 10**6]]))
    with pytest.raises(SettingsError, match="sequences >= 1"):
        icl_bench.repeated_tokens(model, sequences=0)
    with pytest.raises(SettingsError, match="top=0"):
        icl_bench.ablation_sweep(model, tokens, exact=False, top=0)
    with pytest.raises(SettingsError, match="unknown method"):
        icl_bench.ablation_sweep(model, tokens, method="edge_knockout")
    with pytest.raises(SettingsError, match="share=1"):
        icl_bench.minimal_set(model, tokens, share=1)
    with pytest.raises(SettingsError, match="names nothing"):
        icl_bench.token_losses(model, tokens.input_ids, ablate=[("mlps", 0)])
    with pytest.raises(SettingsError, match="no layer 9"):
        icl_bench.token_losses(model, tokens.input_ids, ablate=[("layer", 9)])
    with pytest.raises(ModelError, match="expected a transformers model"):
        icl_bench.wrap(torch.nn.Linear(2, 2))


def test_scores_do_not_depend_on_what_ran_before(model, tokens):
    first = icl_bench.head_scores(model, tokens)
    icl_bench.ablation_sweep(model, tokens)
    icl_bench.token_losses(model, tokens.input_ids, ablate=[(0, 0), (1, 0)], method="mean")
    assert icl_bench.head_scores(model, tokens).equals(first)
