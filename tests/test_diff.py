"""What changed between two models: planted edits are named, and noise is none."""

from __future__ import annotations

import copy
import json

import pandas as pd
import pytest
import torch
from html_pages import HOSTILE, make_hostile
from planted import (
    INDUCTION,
    PREVIOUS,
    SUITE,
    keep,
    original,
    plant,
    round_rows,
    scale,
    skip,
    to_bfloat16,
)
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import icl_bench
from icl_bench.diffing.difference import Diff
from icl_bench.diffing.measuring import Rules, diff_sides
from icl_bench.diffing.places import Place
from icl_bench.diffing.sides import read_sides
from icl_bench.errors import SettingsError
from icl_bench.options import RunOptions
from icl_bench.progress import RunProgress
from icl_bench.records.record import RunRecord
from icl_bench.render.diff import diff_markdown, diff_text
from icl_bench.render.html.diff import diff_page

SMALL = SUITE.replace("period: 20", "period: 25")


@pytest.fixture(scope="module")
def before() -> RunRecord:
    return icl_bench.run(["gate"], original(), cache=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("suites") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def diff(small):
    """Compares the original with an edited copy, by a small suite."""
    return lambda edit: icl_bench.diff(original(), plant(edit), [small], cache=False)


@pytest.fixture(scope="module")
def damaged(before) -> Diff:
    """The previous-token head writes half: it is the heads that read it whose scores fall."""
    return icl_bench.diff(original(), plant(scale(*PREVIOUS, 0.5)), cache=False)


def test_a_damaged_previous_token_head_is_named_though_only_later_heads_show_it(damaged):
    states = {(one.name, one.state) for one in damaged.comparison.heads}
    assert states == {("1.0", "died"), ("1.4", "died"), ("0.9", "kept")}
    cause = damaged.cause
    assert cause.restored.place == Place("head", *PREVIOUS) and cause.mostly is None
    assert cause.restored.share == pytest.approx(1, abs=1e-4)
    assert damaged.verdict.startswith("REGRESSION: ")
    assert "Explained by head 0.9" in damaged.verdict and "its own scores" in damaged.verdict


def test_a_zeroed_induction_head_is_named(diff):
    found = diff(scale(*INDUCTION, 0.0))
    assert not found.passes
    assert found.cause.restored.place == Place("head", *INDUCTION)
    changed = [one.place.name for one in found.restored if one.differs]
    assert sorted(changed) == ["head 1.4", "layer 1"]


def test_a_skipped_layer_is_named_with_the_head_that_matters_in_it(diff):
    cause = diff(skip(0)).cause
    assert cause.restored.place == Place("layer", 0)
    assert cause.mostly.place == Place("head", *PREVIOUS)


def test_coarse_rounding_names_a_layer_and_says_that_others_differ(diff):
    found = diff(round_rows(4))
    assert found.cause.restored.place.kind == "layer"
    assert all(one.differs for one in found.restored if one.place.kind == "layer")
    assert 0 < found.cause.restored.share < 1


@pytest.mark.parametrize("edit", [keep, to_bfloat16])
def test_the_same_weights_and_rounded_ones_raise_no_alarm(edit, diff):
    found = diff(edit)
    assert found.passes and found.restored == [] and found.cause is None
    assert found.verdict.startswith("No change beyond noise from ")
    assert "a change of gain by 0.12 (2.0%)" in found.verdict


def test_another_seed_of_the_tokens_is_noise(before):
    sides = read_sides([before, original()], None, RunOptions(seed=1, cache=False))
    [found] = diff_sides(sides, Rules(), RunProgress())
    assert found.passes and not any(one.paired for one in found.comparison.metrics)


def test_what_got_better_is_no_regression_and_restores_nothing(before, damaged):
    found = icl_bench.diff(damaged.after, before)
    assert found.passes and found.restored == []
    assert found.verdict.startswith("No regression from ")
    assert "gain" in found.verdict


def test_the_lost_nats_are_those_of_the_models_on_the_first_sequences_of_losses(damaged):
    tokens = icl_bench.repeated_tokens(original(), 16, 25, stream="test")
    losses = [
        icl_bench.token_losses(model, tokens.input_ids)[:, 25 + tokens.prefix :].mean(1)
        for model in (original(), plant(scale(*PREVIOUS, 0.5)))
    ]
    assert damaged.lost == "copying"
    assert damaged.loss.value == pytest.approx(float((losses[1] - losses[0]).mean()), rel=1e-4)


def test_two_records_are_compared_without_a_model(before, damaged, tmp_path):
    damaged.after.write(tmp_path / "b.json")
    found = icl_bench.diff(before, tmp_path / "b.json")
    assert found.verdict.startswith("REGRESSION") and found.restored == []
    assert any("is a record" in remark for remark in found.remarks)
    assert [one.state for one in found.comparison.heads] == [
        one.state for one in damaged.comparison.heads
    ]


def test_models_of_other_shapes_are_compared_by_behaviour_and_it_is_said():
    found = icl_bench.diff(original(), "builtin:control-1l", cache=False)
    assert not found.passes and found.restored == []
    assert any("other shapes" in remark for remark in found.remarks)


def test_a_limit_is_kept_and_one_that_names_nothing_is_refused_before_measuring(before, damaged):
    weak = icl_bench.diff(before, damaged.after, limit=["*=100"], inconclusive="warn")
    assert not [one for one in weak.comparison.metrics if one.state == "regressed"]
    with pytest.raises(SettingsError, match="limit 'gian' names no metric"):
        icl_bench.diff("builtin:induction-2l", "builtin:control-1l", limit=["gian=1"])


def test_frames_say_what_changed(damaged, diff):
    for frame in (damaged.heads, damaged.metrics, damaged.explained):
        assert isinstance(frame, pd.DataFrame) and len(frame)
    gain = damaged.metrics.set_index("metric").loc["gain"]
    assert gain["state"] == "regressed"
    assert gain["seen"] == pytest.approx(gain["allowed"] + (gain["ci_high"] - gain["ci_low"]) / 2)
    best = damaged.explained.set_index("place").loc["head 0.9"]
    assert best["kind"] == "head" and (best["layer"], best["head"]) == (0, 9)
    assert list(damaged.heads["state"]).count("died") == 2
    empty = diff(keep).explained
    assert list(empty.columns) == list(damaged.explained.columns) and len(empty) == 0


def test_a_diff_shows_itself(damaged):
    assert "Explained by head 0.9" in repr(damaged) and len(repr(damaged)) < 1000
    shown = damaged._repr_html_()
    assert "died" in shown and "head 0.9" in shown


def test_files_hold_the_same_and_can_be_read(damaged, tmp_path):
    from icl_bench.reports.diffs import write_diffs

    paths = write_diffs([damaged], tmp_path)
    folder = f"diff-{damaged.before.model.slug}-{damaged.after.model.slug}"
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"{folder}/diff.{end}" for end in ("html", "md", "json")
    ]
    data = json.loads(paths[2].read_text())
    assert data["verdict"] == damaged.verdict and data["passed"] is False
    assert data["explained_by"]["name"] == "head 0.9"
    assert (
        "Explained by head 0.9" in paths[0].read_text() and "**REGRESSION" in paths[1].read_text()
    )


def test_text_begins_with_the_verdict_and_names_heads(damaged):
    text = diff_text(damaged, width=200)
    assert " ".join(text.split()).startswith(damaged.verdict)
    assert "induction head 1.4 died" in text


def test_hostile_names_are_text_on_every_page(damaged):
    hostile = make_hostile(damaged.before)
    found = icl_bench.diff(hostile, damaged.after)
    assert HOSTILE not in diff_page(found) and "<img" not in diff_page(found)
    assert "<img" not in diff_markdown(found)


def test_open_models_of_one_name_are_told_apart(damaged):
    assert damaged.names == ("builtin:induction-2l", "wrapped")
    assert icl_bench.diff(damaged.after, damaged.after).names == ("wrapped (A)", "wrapped (B)")


def test_something_else_than_a_model_is_refused():
    with pytest.raises(SettingsError, match="b is Linear; expected a spec, an open model"):
        icl_bench.diff("builtin:induction-2l", torch.nn.Linear(1, 1))


def reworded(more=8):
    """The original with further words, and its own in another order: the same model of a text."""
    a = original()
    order = torch.arange(len(a.embedding))
    words = torch.tensor(a.vocabulary)
    order[words] = words.flip(0)
    # The ids from the middle on move up, and the new words, which nothing says, stand there.
    order[order >= 200] += more
    module = copy.deepcopy(a.model)
    module.resize_token_embeddings(len(order) + more, mean_resizing=False)
    with torch.no_grad():
        for name in ("model.embed_tokens", "lm_head"):
            weight = module.get_submodule(name).weight
            weight[order] = a.model.get_submodule(name).weight
        module.lm_head.weight[200 : 200 + more] = 0
        module.model.embed_tokens.weight[200 : 200 + more] = 1
    data = json.loads(a.tokenizer.backend_tokenizer.to_str())
    ids = {word: int(order[index]) for word, index in data["model"]["vocab"].items()}
    data["model"]["vocab"] = ids | {f"new{index}": 200 + index for index in range(more)}
    for token in data["added_tokens"]:
        token["id"] = int(order[token["id"]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        **{f"{name}_token": getattr(a.tokenizer, f"{name}_token") for name in SPECIAL},
    )
    return icl_bench.wrap(module, tokenizer)


SPECIAL = ("bos", "unk", "pad", "eos")


def test_other_vocabularies_are_paired_by_the_ids_of_the_same_text(small):
    own = list(original().vocabulary)
    found = icl_bench.diff(original(), reworded(), [small], cache=False)
    assert original().vocabulary == own
    assert found.passes and all(one.paired for one in found.comparison.metrics)
    # The new words take a little of every prediction, and nothing of attention.
    assert max(abs(one.difference) for one in found.comparison.metrics) < 0.02
    assert any("measured on the" in remark for remark in found.remarks)
    assert any("text is not compared" in remark for remark in found.remarks)
