"""Models without a circuit share the last rank, and are in nobody's way."""

from __future__ import annotations

import json

import pytest
from boards import N, make, metric
from scipy import stats
from test_ranking import board_of, ranks

from icl_bench.ranking.circuit import LEAST, why_no_circuit
from icl_bench.ranking.entries import Figure, Taken
from icl_bench.records.record import RunRecord
from icl_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
from icl_bench.reports.leaderboard import write_leaderboard


def with_scores(made: RunRecord, **levels: float) -> RunRecord:
    """The record with further scores of the chosen head."""
    measured = made.measurements["core/repeats"]
    for name, level in levels.items():
        measured.unmeasured.pop(name, None)
        measured.metrics[name] = metric([level + 0.001 * (i % 2) for i in range(N)])
    return made


EVEN = 0.02
"""What even attention gives in these records."""


def test_models_no_better_than_even_attention_share_a_rank(tmp_path):
    board = board_of(
        tmp_path,
        make("none", EVEN, seed=1),
        make("less", EVEN - 0.01, seed=2),
        make("good", 0.9, seed=3),
        make("fair", 0.5, seed=4),
    )
    assert ranks(board) == {"good": (1, 1), "fair": (2, 2), "none": (3, 4), "less": (3, 4)}
    cells = [row.cells[board.score] for row in board.groups[0].rows]
    assert [bool(cell.no_circuit) for cell in cells] == [False, False, True, True]
    text, told = leaderboard_text(board, width=100), leaderboard_markdown(board)
    assert '2 models share the last rank, "no circuit"' in " ".join(text.split())
    assert told.count("| no circuit |") == 2
    _, _, csv, data = write_leaderboard(board, tmp_path / "out")
    assert csv.read_text().splitlines()[0].startswith("group,rank_low,rank_high,no_circuit,model")
    rows = json.loads(data.read_text())["groups"][0]["rows"]
    assert [row["rank"] for row in rows] == [[1, 1], [2, 2], [3, 4], [3, 4]]
    assert "even attention" in rows[-1]["no_circuit"] and rows[0]["no_circuit"] is None


def test_a_copier_by_position_stands_below_a_weak_circuit(tmp_path):
    whole = {"induction_excess_max": 0.1, "induction_varied_max": 0.12}
    board = board_of(
        tmp_path,
        with_scores(make("position", 1.0, seed=1), **{**whole, "induction_excess_max": 0.0}),
        with_scores(make("one-period", 0.9, seed=2), **{**whole, "induction_varied_max": EVEN}),
        with_scores(make("weak", 0.15, seed=3), **whole),
    )
    assert ranks(board) == {"weak": (1, 1), "position": (2, 3), "one-period": (2, 3)}


def test_all_of_them_without_one_share_all_ranks(tmp_path):
    board = board_of(tmp_path, make("a", 0.0, seed=1), make("b", EVEN, seed=2))
    assert set(ranks(board).values()) == {(1, 2)}


def test_other_metrics_rank_whoever_has_them(tmp_path):
    records = make("none", EVEN, seed=1), make("good", 0.9, seed=2)
    board = board_of(tmp_path, *records, score="repeated_loss")
    assert all(row.cells[board.score].no_circuit is None for row in board.groups[0].rows)


def taken(**figures: Figure) -> Taken:
    return Taken("induction", None, {}, None, figures, {})


@pytest.mark.parametrize("advantage", [0.0, 0.02, 0.03, 0.05, 0.2])
@pytest.mark.parametrize("error", [0.001, 0.01, 0.1])
def test_the_advantage_is_judged_by_students_interval(advantage, error):
    low = stats.t.interval(0.95, 15, loc=advantage, scale=error)[0]
    even = Figure(0.1, exact=True)
    score = Figure(0.1 + advantage, stderr=error, n=16)
    why = why_no_circuit(taken(induction_max=score, uniform_level=even), "induction_max")
    assert (why is None) is bool(low > LEAST)
    excess = Figure(advantage, stderr=error, n=16)
    assert (why_no_circuit(taken(induction_excess_max=excess), "induction_max") is None) is bool(
        low > LEAST
    )


def test_what_was_not_measured_takes_no_circuit_away():
    assert (
        why_no_circuit(taken(induction_max=Figure(0.0, stderr=0.1, n=8)), "induction_max") is None
    )
    assert why_no_circuit(taken(), "induction_max") is None
    one = taken(induction_excess_max=Figure(0.5, n=1))
    assert why_no_circuit(one, "induction_max") is None


def test_samples_of_the_package_are_told_apart():
    from pathlib import Path

    from icl_bench.ranking import rank, read_entries

    folder = Path(__file__).parents[1] / "reports" / "samples"
    [group] = rank(read_entries([folder]).read, suite="core", score="induction_max").groups
    without = {row.name for row in group.rows if any(cell.no_circuit for cell in row.cells)}
    assert without == {"builtin:control-1l"}
