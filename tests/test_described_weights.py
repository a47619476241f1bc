"""Reports and leaderboards say what has been done to a model's weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from boards import make, write
from test_render_records import make_record

from icl_bench.comparing import compare
from icl_bench.ranking import rank, read_entries
from icl_bench.records.display import describe_weights
from icl_bench.records.record import RunRecord
from icl_bench.render import markdown
from icl_bench.render.html.report import report_page
from icl_bench.render.terminal import summary
from icl_bench.reports.leaderboard import write_leaderboard

WEIGHTS = {
    "quantization": "bitsandbytes nf4, 4 bits",
    "adapter": "my-lora: LORA of rank 8, applied beside quantized weights",
    "base": "org/model",
    "base_revision": "c0ffee",
    "remarks": ["quantized layers couple the tokens of a batch"],
}
SHOWN = [*list(WEIGHTS.values())[:2], "org/model@c0ffee", "couple the tokens of a batch"]


@pytest.fixture
def record() -> RunRecord:
    record = make_record()
    record.model = record.model.model_copy(update=WEIGHTS)
    return record


def test_every_report_of_a_record_says_it(record: RunRecord) -> None:
    pages = [summary([record], width=200), report_page(record)]
    for page in pages:
        for text in SHOWN:
            assert text in page
    said = markdown.report(record)
    for text in (*SHOWN[:2], SHOWN[3]):
        assert text in said
    assert re.search(r"\| model base +\| org/model +\|", said)
    assert re.search(r"\| model base revision +\| c0ffee +\|", said)
    assert "bitsandbytes nf4" in repr(record)


def test_nothing_is_said_of_plain_weights() -> None:
    record = make_record()
    assert describe_weights(record.model) == []
    assert "remarks" not in markdown.report(record)


def test_leaderboards_say_it_in_every_format(tmp_path: Path) -> None:
    write(tmp_path, make("plain", 0.5), make("packed", 0.6, model=WEIGHTS))
    board = rank(read_entries([tmp_path]).read)
    for path in write_leaderboard(board, tmp_path, ["html", "md", "json"]):
        page = path.read_text(encoding="utf-8").replace("&#39;", "'")
        assert "quantization: bitsandbytes nf4, 4 bits" in page, path
        assert "base: org/model@c0ffee" in page, path
        assert "Models differ in quantization: bitsandbytes nf4, 4 bits, none." in page, path


def test_a_comparison_says_what_differs(record: RunRecord) -> None:
    remarks = compare(make_record(), record).remarks
    assert "quantization none, now bitsandbytes nf4, 4 bits" in remarks
    assert any(one.startswith("adapter none, now my-lora") for one in remarks)
