"""Small RunRecords written by hand, which the tests of `render` work from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icl_bench.records.parts import Check, Environment, Measurement, Metric, ModelInfo, SuiteRef
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord


def make_check(id: str, **fields: Any) -> Check:
    """A passing check on `repeats`, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "id": id,
        "suite": "core",
        "measurement": "core/repeats",
        "metric": "induction_max",
        "direction": "up",
        "value": 0.90213,
        "stderr": 0.0083,
        "ci_low": 0.885,
        "ci_high": 0.919,
        "rule": "above",
        "threshold": 0.4,
        "verdict": "pass",
    }
    return Check(**{**defaults, **fields})


def all_verdicts() -> list[Check]:
    """One check of every verdict, a quiz item among them."""
    return [
        make_check("has-induction-heads", description="A head matches the prefix."),
        make_check(
            "ablation-collapses-copying",
            measurement="core/collapse",
            metric="loss_ratio",
            value=4.41,
            stderr=0.311,
            ci_low=3.82,
            ci_high=5.08,
            threshold=2,
        ),
        make_check(
            "beyond-random-heads",
            measurement="core/collapse",
            metric="null_p_value",
            direction="down",
            value=0.2,
            stderr=None,
            ci_low=None,
            ci_high=None,
            rule="below",
            threshold=0.05,
            verdict="fail",
            reason="required < 0.05, measured 0.2",
        ),
        make_check(
            "some-head-looks-back",
            metric="previous_token_max",
            value=0.41,
            stderr=0.03,
            ci_low=0.35,
            ci_high=0.47,
            verdict="inconclusive",
            reason="0.41 ± 0.03: the 95% interval [0.35, 0.47] straddles 0.4",
        ),
        make_check(
            "five-heads",
            metric="induction_heads",
            value=None,
            stderr=None,
            ci_low=None,
            ci_high=None,
            rule="equals",
            threshold={"value": 5, "tolerance": 1},
            verdict="skipped",
            reason="applies only to gpt2",
        ),
        make_check(
            "meaning-of-a-low-score",
            kind="quiz",
            metric="induction_median",
            direction=None,
            value=0.0213,
            stderr=0.0011,
            ci_low=0.019,
            ci_high=0.0236,
            rule="supports",
            threshold=[],
            question="What does a score of 0.02 mean?",
            options={"a": "an induction head", "b": "no more than even attention"},
            expected="b",
            supports="b",
        ),
        make_check(
            "answers-harry-potter",
            measurement="core/harry",
            metric="margin",
            value=None,
            stderr=None,
            ci_low=None,
            ci_high=None,
            rule="above",
            threshold=0,
            verdict="error",
            reason="the tokenizer failed",
        ),
    ]


def make_heads() -> list[dict[str, Any]]:
    """Twelve heads of two layers: 1.0 is an induction head, 0.3 a previous-token head."""
    rows = []
    for layer in range(2):
        for head in range(6):
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "induction": 0.021 + 0.001 * (6 * layer + head),
                    "induction_stderr": 0.0011,
                    "induction_control": 0.02,
                    "induction_excess": 0.001 * (6 * layer + head) + 0.001,
                    "previous_token": 0.0312,
                    "duplicate_token": 0.05,
                    "first_token": 0.3,
                }
            )
    rows[6].update(induction=0.90213, induction_stderr=0.0083, induction_excess=0.88213)
    rows[3].update(previous_token=0.98765)
    return rows


def make_record(**fields: Any) -> RunRecord:
    """A complete record of a two-layer model with every verdict, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "icl_bench": "0.1.0",
        "created": "2025-01-02T03:04:05Z",
        "model": ModelInfo(
            spec="builtin:tiny",
            slug="builtin-tiny",
            fingerprint="f" * 64,
            architecture="TinyForCausalLM",
            layers=2,
            heads=6,
            kv_heads=6,
            parameters=134_515_008,
            dtype="float32",
            attention="fused",
            bos=0,
        ),
        "environment": Environment(
            python="3.11.9", torch="2.13.0", transformers="5.23.0", platform="Linux", device="cpu"
        ),
        "suites": [SuiteRef(name="core", sha256="a" * 64, description="The circuit works.")],
        "measurements": {
            "core/repeats": Measurement(
                probe="induction",
                settings={"sequences": 32, "period": 50, "seed": 0},
                tokens_sha256="b" * 64,
                seconds=1.25,
                metrics={
                    "induction_max": Metric(
                        value=0.90213, stderr=0.0083, ci_low=0.885, ci_high=0.919, n=32
                    )
                },
                heads=make_heads(),
            ),
            "core/collapse": Measurement(
                probe="ablation",
                settings={"method": "mean", "heads": [[1, 0]], "seed": 0},
                tokens_sha256="c" * 64,
                metrics={
                    "heads": Metric(value=1, exact=True),
                    "first_loss": Metric(value=13.95, stderr=0.21, n=32),
                    "first_loss_ablated": Metric(value=13.97, stderr=0.22, n=32),
                    "repeated_loss": Metric(value=2.66, stderr=0.11, n=32),
                    "repeated_loss_ablated": Metric(value=11.731, stderr=0.2, n=32),
                    "copy_accuracy": Metric(value=0.7, stderr=0.02, n=32),
                    "copy_accuracy_ablated": Metric(value=0.1, stderr=0.01, n=32),
                    "loss_ratio": Metric(value=4.41, stderr=0.311, ci_low=3.82, ci_high=5.08, n=32),
                    "null_p_value": Metric(value=0.2, exact=True),
                },
                tables={
                    "ablated_heads": [{"layer": 1, "head": 0}],
                    "null": [
                        {"draw": draw, "heads": "1.1", "loss_ratio": 1 + draw / 10}
                        for draw in range(9)
                    ],
                },
            ),
            "core/harry": Measurement(
                probe="choice", status="error", reason="the tokenizer failed"
            ),
        },
        "checks": all_verdicts(),
    }
    return RunRecord(**{**defaults, **fields})


def test_a_record_made_by_hand_survives_writing_and_reading(tmp_path: Path) -> None:
    record = make_record()
    assert read_record(record.write(tmp_path / "results.json")) == record
