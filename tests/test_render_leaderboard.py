"""Leaderboards as text, Markdown, CSV, JSON and a page."""

from __future__ import annotations

import csv
import json
import re

import pytest
from boards import make, write

from icl_bench.ranking import rank, read_entries
from icl_bench.render.html.leaderboard import leaderboard_page
from icl_bench.render.leaderboard import (
    leaderboard_markdown,
    leaderboard_text,
    rank_text,
    size_text,
)
from icl_bench.render.leaderboard_data import ALL_PAIRS, as_data, leaderboard_json, write_csv

EVIL = "<script>alert(1)</script>|`x`*b*\x1b[31m\u202e</script>{{x}}"


def board_of(tmp_path, *records, **options):
    return rank(read_entries([write(tmp_path, *records)]).read, **options)


@pytest.fixture
def board(tmp_path):
    return board_of(
        tmp_path,
        make("good", 0.9, seed=1, model={"parameters": 134_515_008}),
        make("mid", 0.5, seed=2, status="partial"),
        make("bad", 0.1, seed=3, model={"parameters": None}),
        make("mamba", None),
        make("other", 0.3, settings={"seed": 1}),
    )


def embedded(page):
    found = re.search(r'<script type="application/json" id="icl-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_the_table_fits_eighty_columns_and_names_are_never_cut(tmp_path):
    name = "an-organization/a-model-with-a-very-long-name-indeed-7B-instruct"
    text = leaderboard_text(
        board_of(tmp_path, make(name, 0.9, model={"slug": "x"}), make("b", 0.1))
    )
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("Rank  Model"))
    start, end = header.index("Model"), header.index("Params")
    assert "".join(line[start:end].strip() for line in lines).count(name) == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(board, width):
    text = leaderboard_text(board, width=width)
    assert max(map(len, text.splitlines())) <= width
    plain = leaderboard_text(board, width=80, unicode=False)
    assert plain.isascii()


def test_the_text_tells_ranks_groups_and_what_was_not_measured(board):
    text = leaderboard_text(board)
    lines = text.splitlines()
    row = next(line for line in lines if " good " in line)
    assert row.split()[:3] == ["1", "good", "134.5M"] and row.endswith("1/0/1")
    assert "Group 2: suite core (aaaaaaaa), 1 model" in text
    assert "Kept apart: repeats was measured with seed 1 (in group 1 0)." in text
    assert "Not measured: mamba: no head to look at" in text
    assert "mid [partial]" in text
    assert "hold the true ranks together" in text.replace("\n", " ")


def test_markdown_has_the_columns_of_lm_eval_and_the_further_metrics(board):
    text = leaderboard_markdown(board)
    header = next(line for line in text.splitlines() if line.startswith("|") and "Rank" in line)
    cells = [cell.strip() for cell in header.split("|")[1:-1]]
    assert cells[:11] == [
        *("Rank", "Model", "Architecture", "Parameters", "Metric", "", "Value", "", "Stderr"),
        *("Interval", "Checks"),
    ]
    assert cells[11:] == ["collapse.repeated_loss ↓"]
    assert "- not measured: mamba: no head to look at" in text
    assert "good/results.json" in text


def test_names_full_of_markup_are_text_everywhere(tmp_path):
    board = board_of(
        tmp_path,
        make(EVIL, 0.9, reason=EVIL, model={"slug": "evil", "architecture": EVIL}),
        make("plain", None, reason=EVIL),
    )
    page = leaderboard_page(board)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 4  # the data, the charting script, the page's own two
    assert embedded(page)["groups"][0]["rows"][0]["name"].startswith("<script>alert(1)")
    text, markdown = leaderboard_text(board), leaderboard_markdown(board)
    for shown in (page, text, markdown):
        assert "\x1b" not in shown and "\u202e" not in shown
    assert "&lt;script>" in markdown or "&lt;script" in markdown
    assert all(line.count("|") >= 3 for line in markdown.splitlines() if line.startswith("|"))


def test_json_holds_groups_ranks_intervals_pairs_and_where_it_is_from(board):
    data = json.loads(leaderboard_json(board))
    assert (data["suite"], data["score"]) == ("core", "core/repeats.induction_max")
    first, second = data["groups"]
    assert [row["model"] for row in first["rows"]] == ["good", "mid", "bad", "mamba"]
    assert [row["rank"] for row in first["rows"]] == [[1, 1], [2, 2], [3, 3], None]
    good, *_, mamba = first["rows"]
    told = good["metrics"]["core/repeats.induction_max"]
    assert told["ci_low"] < told["value"] < told["ci_high"] and told["rank"] == [1, 1]
    assert mamba["metrics"]["core/repeats.induction_max"] == {"reason": "no head to look at"}
    assert good["record"] == "good/results.json" and good["environment"]["device"] == "cpu"
    assert len(first["pairs"]) == 3 and first["pairs_are"] == "all"
    pair = first["pairs"][0]
    assert (pair["first"], pair["second"]) == ("good", "mid")
    assert pair["paired"] and pair["told_apart"]
    assert pair["ci_low"] < pair["difference"] < pair["ci_high"]
    assert second["why"].startswith("Kept apart")
    names = {one["name"]: one for one in data["columns"]}
    assert names["core/collapse.null_p_value"]["not_ranked"]


def test_beyond_fifty_models_only_neighbours_are_listed(tmp_path):
    count = ALL_PAIRS + 1
    board = board_of(tmp_path, *(make(f"m{i}", i / count, seed=i) for i in range(count)))
    [group] = as_data(board)["groups"]
    assert group["pairs_are"] == "neighbours" and len(group["pairs"]) == ALL_PAIRS
    page = embedded(leaderboard_page(board))
    assert page["groups"][0]["ranked"] == count


def test_csv_has_a_row_for_every_record_and_columns_for_every_metric(board, tmp_path):
    with write_csv(board, tmp_path / "x.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == ["good", "mid", "bad", "mamba", "other"]
    assert [row["group"] for row in rows] == list("11112")
    assert [row["rank_low"] for row in rows] == ["1", "2", "3", "", "1"]
    assert float(rows[0]["core/repeats.induction_max"]) == pytest.approx(0.9, abs=0.1)
    assert rows[3]["core/repeats.induction_max_reason"] == "no head to look at"
    assert rows[0]["core/collapse.repeated_loss_rank_low"] == "1"
    assert rows[1]["passed"] == "1" and rows[1]["inconclusive"] == "1"


def test_the_page_has_every_row_in_its_tables_and_can_be_sorted_from_the_keyboard(board):
    page = leaderboard_page(board)
    assert page.count('<tr data-row="') == 5 and page.count('<table class="board"') == 2
    heads = re.findall(r"<th scope=\"col\"[^>]*aria-sort[^>]*><button type=\"button\"", page)
    assert len(heads) == 2 * 7
    assert "not measured" in page and "no head to look at" in page
    assert (
        'http-equiv="Content-Security-Policy"' in page and "http://" not in page.split("<script")[0]
    )


def test_pairs_in_the_page_are_those_of_the_ranking(board):
    import base64

    import numpy as np

    packed = embedded(leaderboard_page(board))["groups"][0]["pairs"]
    pairs = board.groups[0].pairs
    half = np.frombuffer(base64.b64decode(packed["half"]), dtype="<f4")
    assert half == pytest.approx(pairs.half[np.triu_indices(3, 1)], rel=1e-6)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["apart"]), dtype=np.uint8))
    assert bits[:3].tolist() == [1, 1, 1]


def test_ranks_and_sizes_in_short(board):
    rows = board.groups[0].rows
    assert rank_text(rows[0].cells[board.score]) == "1"
    assert rank_text(rows[3].cells[board.score]) == ""
    assert [size_text(n) for n in (None, 7, 332_544, 134_515_008, 7_240_000_000)] == [
        "",
        "7",
        "332.5k",
        "134.5M",
        "7.24B",
    ]
