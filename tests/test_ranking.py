"""Records in order: groups, ties, what was not measured, and what ranks."""

from __future__ import annotations

import numpy as np
import pytest
from boards import N, around, make, metric, write
from conftest import unsigned
from scipy import stats

from icl_bench.errors import RecordError, SettingsError
from icl_bench.ranking import rank, read_entries
from icl_bench.records.parts import Metric, SuiteRef


def board_of(tmp_path, *records, **options):
    return rank(read_entries([write(tmp_path, *records)]).read, **options)


def ranks(board, group=0):
    """Name -> rank by the score, in order."""
    return {row.name: row.cells[board.score].rank for row in board.groups[group].rows}


def column(board, name):
    return next(i for i, one in enumerate(board.columns) if one.short == name)


def test_better_models_rank_higher_and_ties_share_a_range(tmp_path):
    twins = (make("b", 0.7, seed=1), make("c", 0.7, seed=2))
    board = board_of(tmp_path, make("low", 0.1, seed=3), *twins, make("high", 0.9, seed=4))
    assert board.column.name == "core/repeats.induction_max"
    first, *middle, last = ranks(board).items()
    assert first == ("high", (1, 1)) and last == ("low", (4, 4))
    assert [found for _, found in middle] == [(2, 3), (2, 3)]


def test_less_is_better_where_the_probe_says_so(tmp_path):
    board = board_of(tmp_path, make("a", 0.1), make("b", 0.9), score="repeated_loss")
    assert ranks(board) == {"b": (1, 1), "a": (2, 2)}
    assert board.column.direction == "down"


def test_every_other_metric_has_ranks_of_its_own(tmp_path):
    board = board_of(tmp_path, make("a", 0.1), make("b", 0.9))
    b, a = board.groups[0].rows
    loss = column(board, "collapse.repeated_loss")
    assert (b.cells[loss].rank, a.cells[loss].rank) == ((1, 1), (2, 2))
    # No standard error: not told apart. No better way, or a p-value: no rank, and why.
    assert b.cells[column(board, "repeats.induction_heads")].rank in ((1, 2), None)
    for name in ("repeats.uniform_level", "collapse.null_p_value"):
        place = column(board, name)
        assert b.cells[place].figure is not None and b.cells[place].rank is None
        assert board.columns[place].no_rank


def test_the_interval_is_that_of_paired_differences_for_all_pairs(tmp_path):
    records = [make(name, level, seed=i) for i, (name, level) in enumerate(zip("abc", (3, 2, 1)))]
    pairs = board_of(tmp_path, *records).groups[0].pairs
    low, high = stats.ttest_rel(around(3, 0), around(2, 1)).confidence_interval(1 - 0.05 / 3)
    assert pairs.paired[0, 1]
    assert pairs.centre[0, 1] - pairs.half[0, 1] == pytest.approx(low)
    assert pairs.centre[0, 1] + pairs.half[0, 1] == pytest.approx(high)


def test_other_tokens_of_the_same_settings_stay_in_the_group_but_unpaired(tmp_path):
    board = board_of(tmp_path, make("a", 0.7), make("b", 0.6, tokens="u" * 64))
    assert len(board.groups) == 1 and not board.groups[0].pairs.paired.any()
    assert board.groups[0].remarks[0].startswith("0 of 1 pairs measured the same tokens")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"settings": {"seed": 1}}, "repeats was measured with seed 1 (in group 1 0)"),
        ({"settings": {"period": 20}}, "period 20 (in group 1 50)"),
        ({"sha256": "b" * 64}, "suite core is not the one of group 1"),
        (
            {"settings": {"text_sha256": "9" * 64}},
            "another text (SHA-256 99999999, in group 1 not set",
        ),
    ],
)
def test_what_was_measured_in_another_way_is_kept_apart(tmp_path, changed, told):
    records = (make("a", 0.7), make("b", 0.6), make("other", 0.9, **changed))
    board = board_of(tmp_path, *records)
    assert [sorted(ranks(board, i)) for i in range(2)] == [["a", "b"], ["other"]]
    assert board.groups[0].why is None
    assert told in board.groups[1].why
    assert ranks(board, 1) == {"other": (1, 1)}


def test_settings_that_a_model_decides_do_not_part(tmp_path):
    growing = {"until": "decided", "max_sequences": 64}
    one = make("a", 0.7, settings={"mlps": [27, 28], **growing, "sequences": 32})
    other = make("b", 0.6, settings={"mlps": [9, 10], **growing, "sequences": 64})
    assert len(board_of(tmp_path, one, other).groups) == 1


def test_records_from_before_a_setting_was_there_stay_in_the_group(tmp_path):
    new = make("new", 0.6, settings={"looks": 1, "order": "given"})
    assert len(board_of(tmp_path / "same", make("old", 0.7), new).groups) == 1
    other = make("other", 0.6, settings={"looks": 3, "order": "random"})
    assert len(board_of(tmp_path / "other", make("old", 0.7), other).groups) == 2


def test_how_many_documents_it_took_until_decided_does_not_part(tmp_path):
    settings = {"until": "decided", "max_documents": 64, "order": "random"}
    one = make("a", 0.7, settings={**settings, "documents": 16})
    more = make("b", 0.6, settings={**settings, "documents": 32})
    assert len(board_of(tmp_path / "one", one, more).groups) == 1
    budget = make("b", 0.6, settings={**settings, "documents": 32, "max_documents": 32})
    assert len(board_of(tmp_path / "two", one, budget).groups) == 2


def test_dtype_and_attention_are_told_and_do_not_part(tmp_path):
    other = make("b", 0.6, model={"dtype": "bfloat16", "attention": "eager"})
    board = board_of(tmp_path, make("a", 0.7), other)
    assert len(board.groups) == 1
    told = " ".join(board.groups[0].remarks)
    assert "dtype: bfloat16, float32" in told and "attention: eager, fused" in told


def test_another_measurement_with_other_settings_has_no_rank_in_its_column(tmp_path):
    odd = make("odd", 0.8)
    odd.measurements["core/collapse"].settings = {"seed": 7}
    board = board_of(tmp_path, make("a", 0.7), make("b", 0.6), odd)
    row = next(row for row in board.groups[0].rows if row.name == "odd")
    cell = row.cells[column(board, "collapse.repeated_loss")]
    assert row.cells[board.score].rank == (1, 1)
    assert cell.rank is None and cell.reason == "not comparable: seed 7 (elsewhere 0)"


def test_what_was_not_measured_comes_last_with_its_reason_and_is_not_counted(tmp_path):
    board = board_of(tmp_path, make("mamba", None), make("bad", 0.01), make("good", 0.9))
    assert ranks(board) == {"good": (1, 1), "bad": (2, 2), "mamba": None}
    row = board.groups[0].rows[-1]
    assert row.cells[board.score].reason == "no head to look at"
    assert board.groups[0].ranked == 2


def test_one_metric_that_is_absent_says_why(tmp_path):
    board = board_of(tmp_path, make("a", 0.7))
    cell = board.groups[0].rows[0].cells[column(board, "repeats.induction_excess_max")]
    assert cell.figure is None and cell.reason == "control: false in the suite"


def test_partial_records_take_part_with_what_they_have(tmp_path):
    part = make("part", 0.8, status="interrupted")
    del part.measurements["core/collapse"]
    bare = make("bare", 0.8, status="partial", measurements={}, checks=[])
    board = board_of(tmp_path, part, bare, make("whole", 0.5))
    assert ranks(board) == {"part": (1, 1), "whole": (2, 2), "bare": None}
    rows = {row.name: row for row in board.groups[0].rows}
    assert rows["part"].remarks == ["interrupted run: it takes part with what it has"]
    assert rows["bare"].cells[board.score].reason == "not in this partial run"
    missing = rows["part"].cells[column(board, "collapse.repeated_loss")]
    assert missing.reason == "not in this interrupted run"


def test_the_same_weights_twice_are_both_shown_newest_first_and_counted_once(tmp_path):
    old = make("m", 0.7, model={"slug": "old"})
    new = make("m", 0.7, model={"slug": "new"}, created="2026-02-02T00:00:00+00:00")
    board = board_of(tmp_path, old, new, make("low", 0.1), make("high", 0.9))
    assert list(ranks(board).items()) == [
        ("high", (1, 1)),
        ("m (new)", (2, 2)),
        ("m (old)", (2, 2)),
        ("low", (3, 3)),
    ]
    assert [row.twin for row in board.groups[0].rows] == [None, None, 1, None]
    assert "the same weights as m (new)" in board.groups[0].rows[2].remarks[0]


def test_an_older_run_stands_in_where_the_newest_was_not_measured(tmp_path):
    old = make("m", 0.7, model={"slug": "old"})
    new = make("m", None, model={"slug": "new"}, created="2026-02-02T00:00:00+00:00")
    board = board_of(tmp_path, old, new, make("low", 0.1))
    assert ranks(board) == {"m (old)": (1, 1), "low": (2, 2), "m (new)": None}


def test_a_series_takes_part_with_its_last_step(tmp_path):
    board = board_of(tmp_path, make("run@*", 0.7, model={"steps": [1, 10, 500]}))
    assert board.groups[0].rows[0].remarks == ["a series: it takes part with its last step, 500"]


def test_models_of_one_name_are_told_by_their_folders(tmp_path):
    one = make("x", 0.7, model={"slug": "x-1", "fingerprint": "1"})
    other = make("x", 0.6, model={"slug": "x-2", "fingerprint": "2"})
    assert list(ranks(board_of(tmp_path, one, other))) == ["x (x-1)", "x (x-2)"]


def test_one_sequence_has_no_standard_error_and_ties_with_all(tmp_path):
    single = make("single", 0.99)
    single.measurements["core/repeats"].metrics["induction_max"] = metric([0.99])
    board = board_of(tmp_path, single, make("a", 0.9), make("b", 0.1))
    assert ranks(board) == {"single": (1, 3), "a": (1, 2), "b": (2, 3)}
    assert "one model has no standard error and cannot be compared by it." in (
        board.groups[0].remarks
    )


def test_exact_scores_are_compared_exactly(tmp_path):
    records = []
    for name, value in (("a", 3), ("b", 2), ("c", 2)):
        records.append(make(name, 0.5))
        records[-1].measurements["core/repeats"].metrics["induction_max"] = Metric(
            value=value, exact=True
        )
    board = board_of(tmp_path, *records)
    assert ranks(board) == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    assert "is exact" in board.groups[0].remarks[0]


def test_without_core_the_first_check_of_the_most_shared_suite_ranks(tmp_path):
    records = [make("a", 0.7, suite="mine"), make("b", 0.6, suite="mine"), make("c", 1, suite="x")]
    for record in records:
        record.checks.reverse()
    board = board_of(tmp_path, *records)
    assert board.column.name == "mine/collapse.repeated_loss"
    assert board.absent == [("c", ["x"])]
    assert board_of(tmp_path, suite="x").column.name == "x/collapse.repeated_loss"


def test_core_ranks_although_others_share_more(tmp_path):
    records = [make(name, 0.7, suite="gate") for name in "abc"]
    records += [make(name, 0.7) for name in "de"]
    assert board_of(tmp_path, *records).suite == "core"
    assert board_of(tmp_path, score="gate/repeats.induction_max").suite == "gate"


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ("inductionmax", "did you mean 'induction_max'"),
        ("qqq", "valid names: .*induction_max"),
        ("uniform_level", "ranks no model: neither more nor less"),
        ("null_p_value", "ranks no model: a p-value says whether"),
        ("collapse.induction_max", "did you mean"),
    ],
)
def test_scores_that_cannot_rank_are_refused_with_a_reason(tmp_path, score, told):
    with pytest.raises(SettingsError, match=told):
        board_of(tmp_path, make("a", 0.5), score=score)


def test_a_score_that_several_measurements_have_has_to_be_named_in_full(tmp_path):
    record = make("a", 0.5)
    record.measurements["core/more"] = record.measurements["core/repeats"]
    with pytest.raises(SettingsError, match="core/repeats.induction_max, core/more.induction_max"):
        board_of(tmp_path, record, score="induction_max")
    assert board_of(tmp_path, record, score="more.induction_max").column.key == "core/more"


def test_an_unknown_suite_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'core'"):
        board_of(tmp_path, make("a", 0.5), suite="cor")


def test_records_are_found_in_folders_and_given_as_files(tmp_path):
    write(tmp_path / "reports", make("a", 0.5), make("b", 0.6))
    alone = make("c", 0.7).write(tmp_path / "c.json")
    one = tmp_path / "reports" / "a"
    found = read_entries([tmp_path / "reports", alone, one, one / "results.json"])
    assert sorted(entry.model.spec for entry in found.read) == ["a", "b", "c"]


def test_broken_files_are_named_and_the_others_read(tmp_path):
    write(tmp_path, make("a", 0.5))
    texts = {"b": "{", "c": '{"schema": 2}', "d": "[]", "e": '{"schema": 1}'}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "results.json").write_bytes(b"\xff\xfe")
    found = read_entries([tmp_path])
    assert len(found.read) == 1 and len(found.broken) == 5
    for name, told in zip("bcdef", ("not a JSON file", "schema 2", "no 'schema'", "field", "JSON")):
        assert any(f"/{name}/results.json" in one and told in one for one in found.broken), told
    (tmp_path / "a" / "results.json").unlink()
    with pytest.raises(RecordError, match="no record could be read"):
        read_entries([tmp_path])


def test_not_a_number_is_refused_where_it_is_read(tmp_path):
    path = write(tmp_path, make("a", 0.5)) / "a" / "results.json"
    path.write_text(unsigned(path.read_text()).replace('"value": 0.02', '"value": NaN'))
    with pytest.raises(RecordError, match="finite number"):
        read_entries([tmp_path])


def test_an_empty_folder_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(RecordError, match=r"no results\.json in"):
        read_entries([tmp_path])
    with pytest.raises(RecordError, match="no such file or folder"):
        read_entries([tmp_path / "gone"])


def test_the_order_of_records_changes_nothing(tmp_path):
    records = [make(f"m{i}", level, seed=i) for i, level in enumerate(np.linspace(0, 0.05, 12))]
    there = read_entries([write(tmp_path, *records)]).read
    assert ranks(rank(there)) == ranks(rank(there[::-1]))
    assert len(records[0].measurements["core/repeats"].metrics["induction_max"].samples or []) == N


def test_a_record_of_several_suites_is_ranked_in_each(tmp_path):
    both = make("a", 0.5)
    other = make("a", 0.6, suite="gate")
    both.suites.append(SuiteRef(name="gate", sha256="c" * 64))
    both.measurements |= other.measurements
    both.checks += other.checks
    for suite, value in (("core", 0.5), ("gate", 0.6)):
        board = board_of(tmp_path, both, suite=suite)
        figure = board.groups[0].rows[0].cells[board.score].figure
        assert figure.value == pytest.approx(value, abs=0.05)
        assert sum(board.groups[0].rows[0].verdicts.values()) == 2
