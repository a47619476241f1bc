"""The `composition` probe: which earlier heads induction heads read."""

from __future__ import annotations

import pytest
from circuit_probes import ABOVE, BEST, PERIOD, RECEIVER, held_out, run, scores, value

import icl_bench
from icl_bench.errors import MeasurementError
from icl_bench.probes.heads import composition
from icl_bench.reference.handwired import handwired


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def blind():
    """The twin without a previous-token head."""
    return icl_bench.wrap(handwired(previous_token=False))


@pytest.fixture(scope="module")
def positional():
    """The twin whose head 1.0 finds the target by its distance alone."""
    return icl_bench.wrap(handwired(positional_offset=PERIOD - 1))


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


@pytest.fixture(scope="module")
def control():
    return icl_bench.load_model("builtin:control-1l")


# composition


@pytest.fixture(scope="module")
def composed(model):
    return run(composition, model, scores(model), heads=ABOVE)


def test_the_hand_wired_head_gets_its_keys_from_the_previous_token_head(composed):
    assert (value(composed, "receivers"), value(composed, "senders")) == (1, 24)
    assert value(composed, "induction_clean") > 0.999
    for name in ("key_drop", "key_drop_previous_token"):
        assert value(composed, name) == pytest.approx(1, abs=1e-3)
    assert value(composed, "key_sender_previous_token") > 0.999
    collapsed = composed.metrics["key_collapsed"]
    # Of 4 sequences, 60% of others may have gone unseen.
    assert (collapsed.value, collapsed.ci_low, collapsed.ci_high) == (1, 0, 1)
    assert value(composed, "key_collapsed_share") == 1
    for name in ("key_drop_others", "query_drop", "query_drop_previous_token", "value_drop_others"):
        assert value(composed, name) == pytest.approx(0, abs=1e-5)


def test_what_the_hand_wired_head_writes_does_not_need_the_previous_token_head(composed):
    """The value side, patterns clean: only `- previous` goes, a small part of what is written."""
    assert value(composed, "value_clean") > 10
    for name in ("value_drop", "value_drop_previous_token"):
        assert abs(value(composed, name)) < 0.05


def test_the_table_has_a_row_for_each_sender_receiver_and_side(composed):
    rows = composed.tables["composition"]
    assert len(rows) == 24 * 3
    best = max((r for r in rows if r["side"] == "key"), key=lambda row: row["drop"])
    assert (best["sender_layer"], best["sender_head"], best["layer"], best["head"]) == (0, 0, 1, 0)
    assert best["sender_previous_token"] > 0.999 and best["drop_stderr"] < 1e-3
    assert best["clean"] - best["patched"] == pytest.approx(best["drop"])
    others = [row["sender_previous_token"] for row in rows if row["sender_head"] != 0]
    assert max(others) < 0.2


def test_metrics_equal_the_table_of_path_patching(trained):
    """The same numbers from the Python function, averaged by hand."""
    heads = [[1, 0], [1, 4]]
    found = run(composition, trained, heads=heads, sides=["key", "query"])
    ids = held_out(trained)
    tokens = icl_bench.RepeatedTokens(ids, PERIOD, 2, 1)
    frame = icl_bench.path_patching(trained, tokens, heads, side=["key", "query"])
    assert len(found.tables["composition"]) == len(frame) == 2 * 12 * 2
    for row, expected in zip(
        sorted(found.tables["composition"], key=lambda r: (r["side"], r["head"], r["sender_head"])),
        frame.sort_values(["side", "head", "sender_head"]).to_dict("records"),
    ):
        for name, number in expected.items():
            assert row[name] == (
                number if isinstance(number, str) else pytest.approx(number, abs=1e-5)
            )
    own = frame[frame["side"] == "key"]
    lost = own.groupby("sender_head")["drop"].mean()
    clean = own.groupby("head")["clean"].first().mean()
    assert value(found, "induction_clean") == pytest.approx(clean)
    # Both halves choose the same sender, so that cross-fitting changes nothing.
    assert lost.idxmax() == 9
    assert value(found, "key_drop") == pytest.approx(lost.max() / clean)
    assert value(found, "key_drop_previous_token") == pytest.approx(lost[9] / clean)
    others = lost.drop(9)
    assert others.min() <= value(found, "key_drop_others") * clean <= others.max()
    worst = own.groupby("head").apply(lambda group: (group["drop"] > group["clean"] / 2).any())
    assert value(found, "key_collapsed") == worst.sum()
    scored = icl_bench.head_scores(trained, tokens).set_index(["layer", "head"])
    assert value(found, "key_sender_previous_token") == pytest.approx(
        scored.loc[(0, 9), "previous_token"]
    )
    assert found.unmeasured["value_drop"] == "the suite leaves this side out"


def test_the_trained_model_composes_on_the_key_side(trained):
    found = run(composition, trained, scores(trained), heads=ABOVE)
    assert value(found, "receivers") == 2
    assert value(found, "key_drop") > 0.8
    assert value(found, "key_drop_previous_token") == pytest.approx(value(found, "key_drop"))
    assert value(found, "key_collapsed") == 2
    assert value(found, "key_sender_previous_token") > 0.9
    assert value(found, "query_drop_previous_token") < 0.2
    assert value(found, "value_drop_previous_token") < 0.2


def test_a_head_that_attends_by_position_gets_its_keys_from_nobody(positional):
    found = run(composition, positional, heads=RECEIVER)
    assert value(found, "induction_clean") > 0.999
    for name in ("key_drop", "key_drop_previous_token", "query_drop"):
        assert value(found, name) == pytest.approx(0, abs=1e-5)
    assert value(found, "key_collapsed") == 0


def test_without_a_previous_token_head_nothing_collapses(blind):
    found = run(composition, blind, heads=RECEIVER)
    assert value(found, "induction_clean") < 0.1
    assert (value(found, "key_collapsed"), value(found, "key_collapsed_share")) == (0, 0)
    assert "not above 0.1" in found.unmeasured["key_drop"]


def test_one_layer_cannot_compose(control):
    best = run(composition, control, scores(control), heads=BEST)
    assert best.reason == "no head lies below the chosen ones"
    assert (value(best, "receivers"), value(best, "key_collapsed")) == (1, 0)
    none = run(composition, control, scores(control), heads=ABOVE)
    assert none.reason == "no head has induction above 0.4"
    assert none.unmeasured["key_drop"] == none.reason and value(none, "key_collapsed") == 0


def test_senders_can_be_listed_and_replaced_by_their_mean(model):
    listed = run(composition, model, heads=RECEIVER, senders=[[0, 0], [0, 7]], method="mean")
    assert value(listed, "senders") == 2
    assert value(listed, "key_drop") == pytest.approx(1, abs=0.05)
    single = run(composition, model, heads=RECEIVER, senders=[[0, 0]])
    assert single.unmeasured["key_drop_others"] == "there is one sender only"
    with pytest.raises(MeasurementError, match=r"sender 1\.3 lies below no receiver"):
        run(composition, model, heads=RECEIVER, senders=[[1, 3]])
    with pytest.raises(MeasurementError, match=r"no head 0\.99"):
        run(composition, model, heads=RECEIVER, senders=[[0, 99]])


def test_one_sequence_gives_drops_without_intervals(model):
    found = run(composition, model, heads=RECEIVER, sequences=1)
    assert value(found, "key_drop") == pytest.approx(1, abs=1e-3)
    assert found.metrics["key_drop"].stderr is None
    assert found.tables["composition"][0]["drop_stderr"] is None
