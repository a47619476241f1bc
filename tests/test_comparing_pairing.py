"""Where samples of two records do not belong together, the comparison says why."""

from __future__ import annotations

import html
from collections.abc import Callable

import numpy as np
import pytest
from test_comparing import BEFORE, of, record

from icl_bench.cli import main
from icl_bench.comparing import compare, parse_limit
from icl_bench.probes.ablations.margins import measure_margins
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown, comparison_text

NOTE = "the model comes without a tokenizer"


def edited(edit: Callable[[Measurement], object], **made: object) -> RunRecord:
    found = record(**made)
    edit(found.measurements["mine/repeats"])
    return found


def lose_samples(measured: Measurement) -> None:
    for metric in measured.metrics.values():
        metric.samples = None


def lose_digest(measured: Measurement) -> None:
    measured.tokens_sha256 = None


def model(made: RunRecord, **fields: object) -> RunRecord:
    made.model = made.model.model_copy(update=fields)
    return made


WHY: dict[str, tuple[RunRecord, RunRecord, str]] = {
    "other seed": (record(seed=0), record(tokens="b", seed=3), "other tokens: seed 0, now 3"),
    "other tokenizer": (
        record(),
        record(tokens="b"),
        "other tokens: another tokenizer or vocabulary",
    ),
    "other BOS": (
        model(record(), bos=1),
        model(record(tokens="b"), bos=None),
        "other tokens: BOS 1, now none",
    ),
    "no tokenizer now": (
        record(),
        model(record(tokens="b"), tokenizer_note=NOTE),
        f"other tokens: in this run {NOTE}; a callable may return (model, tokenizer)",
    ),
    "no tokenizer before": (
        model(record(), tokenizer_note=NOTE),
        record(tokens="b"),
        f"other tokens: in the baseline {NOTE}; a callable may return (model, tokenizer)",
    ),
    "fewer samples": (record(), record(BEFORE[:20]), "32 samples, now 20"),
    "no samples before": (edited(lose_samples), record(), "no samples in the baseline"),
    "no samples now": (record(), edited(lose_samples), "no samples in this run"),
    "no samples at all": (
        edited(lose_samples),
        edited(lose_samples),
        "no samples in either record",
    ),
    "tokens not said": (
        edited(lose_digest),
        record(),
        "the baseline does not say which tokens it used",
    ),
}
"""What differs -> baseline, run, and what is said of it."""


@pytest.mark.parametrize("name", WHY)
def test_a_comparison_that_cannot_pair_says_why_on_its_line(name: str) -> None:
    before, now, why = WHY[name]
    found = compare(before, now)
    change = of(found, "induction_max")
    assert (change.paired, change.unpaired) == (False, why)
    assert found.passes()
    wide = comparison_text(found, width=250).splitlines()
    [row] = [line for line in wide if line.startswith("repeats.induction_max")]
    assert f"not paired: {why}" in row
    told = html.unescape(comparison_markdown(found)).replace("\\", "")
    assert f"not paired: {why}" in told
    narrow = " ".join(comparison_text(found, width=80).split())
    assert f"Not paired ({why}): mine/repeats.induction_max" in narrow


@pytest.mark.parametrize("name", WHY)
def test_where_pairs_are_required_it_fails(name: str) -> None:
    before, now, why = WHY[name]
    found = compare(before, now, require_paired=True)
    assert not found.passes() and not found.passes(inconclusive_fails=False)
    change = of(found, "induction_max")
    assert change.state == "unpaired" and change.reason == f"not paired, as is required: {why}"
    assert "REGRESSION: 2 not paired" in comparison_text(found)


def test_pairs_satisfy_and_a_regression_stays_one() -> None:
    assert compare(record(), record(), require_paired=True).passes()
    found = compare(record(), record(BEFORE - 0.3, tokens="b"), require_paired=True)
    assert of(found, "induction_max").state == "regressed"


def test_exact_numbers_and_metrics_without_samples_need_no_pairs() -> None:
    def add(measured: Measurement) -> None:
        measured.metrics["uniform_level"] = Metric(value=0.1, exact=True)
        measured.metrics["induction_heads"] = Metric(value=2, ci_low=2, ci_high=2, n=32, stderr=0.1)

    limits = [parse_limit(text) for text in ("uniform_level=0", "induction_heads=0")]
    found = compare(edited(add), edited(add), limits, require_paired=True)
    assert found.passes()
    assert of(found, "uniform_level").unpaired is None
    assert of(found, "induction_heads").unpaired == "it keeps no value per sample"


def test_texts_that_are_lost_for_want_of_a_tokenizer_are_told_of() -> None:
    before, now = record(), model(record(), tokenizer_note=NOTE)
    now.measurements["mine/repeats"] = Measurement(
        probe="induction", status="skipped", reason=f"no text can be put to the model: {NOTE}"
    )
    told = f"in this run {NOTE}, so mine/repeats cannot be paired: a callable may return"
    assert any(line.startswith(told) for line in compare(before, now).remarks)
    assert any("in the baseline" in line for line in compare(now, before).remarks)
    assert not any(NOTE in line for line in compare(before, record()).remarks)


def test_a_margin_without_pairs_does_not_fail_by_chance_and_a_lost_one_is_seen() -> None:
    rng = np.random.default_rng(0)

    def margin(height: float) -> RunRecord:
        chosen, others = rng.normal(height, 0.05, 32), rng.normal(0.05, 0.05, (3, 32))
        found = measure_margins(chosen, 1.0, 3, lambda sets, start, stop: others[sets, start:stop])
        made = record()
        made.measurements["mine/repeats"].probe = "ablation"
        made.measurements["mine/repeats"].metrics["null_margin"] = found.metric()
        return made

    limits = [parse_limit("null_margin=0.02")]
    states = {
        of(compare(margin(0.95), margin(0.95), limits), "null_margin").state for _ in range(40)
    }
    assert states == {"same"}
    lost = compare(margin(0.95), margin(0.1), limits, require_paired=True)
    assert of(lost, "null_margin").state == "regressed"
    assert of(lost, "null_margin").unpaired == "it keeps no value per sample"


def test_the_command_takes_the_option(tmp_path, capsys) -> None:
    for name, made in (("a", record()), ("b", record(tokens="b"))):
        made.write(tmp_path / f"{name}.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["compare", *files]) == 0
    assert main(["compare", *files, "--require-paired", f"--json={tmp_path / 'c.json'}"]) == 1
    assert "UNPAIRED" in capsys.readouterr().out
    assert '"state": "unpaired"' in (tmp_path / "c.json").read_text()
