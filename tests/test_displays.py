"""What the API returns shows itself in a line, and in a notebook; records have tables."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import icl_bench
from icl_bench.errors import SettingsError
from icl_bench.records.parts import Measurement

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def model() -> icl_bench.Model:
    return icl_bench.load_model("builtin:induction-2l")


@pytest.fixture(scope="module")
def record(model: icl_bench.Model, tmp_path_factory: pytest.TempPathFactory) -> icl_bench.RunRecord:
    path = tmp_path_factory.mktemp("suite") / "mine.yaml"
    path.write_text(
        "icl_suite: 1\nname: mine\ndefaults: {sequences: 16, period: 20}\nmeasure:\n"
        "  repeats: {probe: induction}\n  sweep: {probe: sweep, sequences: 2}\n"
        "  text: {probe: icl_score}\n"
        "checks:\n  - {id: high, on: repeats, metric: induction_max, above: 0.3}\n"
        "  - {id: never, on: repeats, metric: induction_median, above: 0.7}\n"
    )
    return icl_bench.run([path], model, cache=False, progress=False)


def test_a_record_shows_itself_in_a_line(record: icl_bench.RunRecord) -> None:
    assert repr(record) == str(record)
    assert len(repr(record)) < 1000 and "\n" not in repr(record)
    for word in ("builtin:induction-2l", "2 layers × 12 heads", "mine: 1 pass, 1 fail", "complete"):
        assert word in repr(record)
    for part in (
        record.measurements["mine/repeats"],
        record.model,
        record.checks[0],
        record.suites,
    ):
        assert len(repr(part)) < 1000 and len(str(part)) < 1000
    metric = record.measurements["mine/repeats"].metrics["induction_max"]
    assert "<16 entries>" in repr(metric) and len(metric.samples or ()) == 16


def test_a_record_shows_itself_in_a_notebook(record: icl_bench.RunRecord) -> None:
    html = record._repr_html_()
    for word in ("high", "never", "induction_max above 0.3", "pass", "fail", "mine/text: skipped"):
        assert word in html
    bad = record.model_copy(update={"checks": [copy.copy(record.checks[0])] * 200})
    bad.checks[0].id = bad.model.spec = bad.suites[0].name = NASTY
    assert NASTY not in bad._repr_html_() and "and 140 more" in bad._repr_html_()
    assert len(bad._repr_html_()) < 40_000 and len(repr(bad)) < 1000


def test_metrics_of_a_record_are_a_table(record: icl_bench.RunRecord) -> None:
    frame = record.metrics
    assert list(frame) == ["measurement", "metric", "value", "stderr", "ci_low", "ci_high", "n"]
    assert len(frame) == sum(len(one.metrics) for one in record.measurements.values())
    row = frame[(frame.measurement == "mine/repeats") & (frame.metric == "induction_max")].iloc[0]
    metric = record.measurements["mine/repeats"].metrics["induction_max"]
    assert (row.value, row.ci_low, row.n) == (metric.value, metric.ci_low, 16)
    exact = frame[frame.metric == "uniform_level"].iloc[0]
    assert pd.isna(exact.stderr) and pd.isna(exact.ci_low)


def test_heads_of_a_record_are_a_table(record: icl_bench.RunRecord) -> None:
    frame = record.heads
    assert list(frame)[:3] == ["measurement", "layer", "head"]
    assert frame.groupby("measurement").size().to_dict() == {"mine/repeats": 24, "mine/sweep": 24}
    row = frame[(frame.measurement == "mine/repeats") & (frame.layer == 1) & (frame["head"] == 4)]
    told = next(
        one
        for one in record.measurements["mine/repeats"].heads
        if (one["layer"], one["head"]) == (1, 4)
    )
    assert row.induction.iloc[0] == told["induction"] and pd.isna(row.delta.iloc[0])
    empty = record.model_copy(update={"measurements": {}})
    assert list(empty.heads) == ["measurement", "layer", "head"] and empty.metrics.empty


def test_a_record_writes_its_reports(record: icl_bench.RunRecord, tmp_path: Path) -> None:
    written = record.report(tmp_path / "reports")
    assert written[0] == tmp_path / "reports" / "builtin-induction-2l" / "results.json"
    again = icl_bench.read_record(written[0])
    assert again.to_json() == record.to_json() and repr(again) == repr(record)
    for name in ("one.html", "one.md"):
        assert record.report(tmp_path / name) == [tmp_path / name]
        assert "induction_max" in (tmp_path / name).read_text()
    (tmp_path / "file").write_text("")
    for name in ("file", "file/x.html", "s3://bucket/x.html"):
        with pytest.raises(SettingsError):
            record.report(tmp_path / name if "://" not in name else name)


def test_reading_and_showing_a_record_needs_no_pandas_and_no_torch(
    record: icl_bench.RunRecord, tmp_path: Path
) -> None:
    record.write(tmp_path / "results.json")
    code = (
        "import sys, icl_bench\n"
        f"record = icl_bench.read_record({str(tmp_path / 'results.json')!r})\n"
        "repr(record), record._repr_html_(), record.report('x.html')\n"
        "assert not {'torch', 'pandas'} & set(sys.modules)\n"
        "record.metrics\nassert 'pandas' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_broken_measurement_says_why() -> None:
    taken = Measurement(probe="losses", status="error", reason="it broke " * 99)
    assert len(repr(taken)) < 200 and "error: it broke" in repr(taken)


def test_a_model_and_its_tokens_show_themselves(model: icl_bench.Model) -> None:
    assert "2 layers, 12 heads each, 332,544 parameters" in repr(model)
    assert "float32 on cpu, attention fused" in repr(model) and len(repr(model)) < 300
    html: Any = model._repr_html_()
    assert "<table>" in html and "builtin:induction-2l" in html
    tokens = icl_bench.repeated_tokens(model, 4, 50)
    assert repr(tokens) == "<RepeatedTokens: 4 sequences of 1 + 2 x 50 tokens>"
    from icl_bench.api import Bench

    assert "builtin:induction-2l" in repr(Bench(model))


def test_a_minimal_set_is_a_list_with_its_share_and_curve(model: icl_bench.Model) -> None:
    tokens = icl_bench.repeated_tokens(model, 4, 20)
    found = icl_bench.minimal_set(model, tokens, method="zero")
    assert found == list(found) and (0, 9) in found and found[0] in found.copy()
    losses = icl_bench.token_losses(model, tokens.input_ids, keep=found, method="zero")
    clean = icl_bench.token_losses(model, tokens.input_ids)
    gain = float(clean[:, 1:20].mean() - clean[:, 21:].mean())
    kept = 1 - float(losses[:, 21:].mean() - clean[:, 21:].mean()) / gain
    assert found.share == pytest.approx(kept, abs=1e-4) and found.share >= 0.9
    curve = found.curve.set_index("heads")
    assert curve.loc[24, "share"] == 1 and curve.loc[len(found), "share"] == found.share
    off = icl_bench.token_losses(model, tokens.input_ids, keep=[], method="zero")
    assert curve.loc[0, "repeated_loss"] == pytest.approx(float(off[:, 21:].mean()), abs=1e-4)
    assert repr(found).startswith("MinimalSet([(") and "<table" in found._repr_html_()
    assert pickle.loads(pickle.dumps(found)).share == found.share


def test_progress_is_shown_where_it_is_asked_for(
    model: icl_bench.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("icl_suite: 1\nname: x\nmeasure: {r: {probe: induction, sequences: 2}}\n")
    for progress, lines in ((None, False), (False, False), (True, True)):
        icl_bench.run([path], model, cache=False, progress=progress)
        assert bool(capsys.readouterr().err) == lines


def test_a_comparison_shows_itself(
    record: icl_bench.RunRecord, model: icl_bench.Model, tmp_path: Path
) -> None:
    from icl_bench.comparing import compare

    worse = icl_bench.RunRecord.model_validate(record.model_dump(by_alias=True))
    worse.checks[0].verdict = "fail"
    found = compare(record, worse)
    assert len(repr(found)) < 1000 and "does not pass; " in repr(found)
    html = found._repr_html_()
    assert "mine::high" in html and html.index("regressed</td>") < html.index("same</td>")
    assert "passes; " in repr(compare(record, record))
