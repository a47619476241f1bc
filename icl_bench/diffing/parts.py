"""Parts of records: what two of them share, what is not text, and which sequences are the same."""

from __future__ import annotations

from collections.abc import Callable

from icl_bench.comparing.settings import differing_settings
from icl_bench.probes import kind_of
from icl_bench.records.keys import Key
from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord

TEXTS_LEFT_OUT = (
    "what is measured on text is not compared: the models cut text into other tokens, and a loss "
    "is that of one token"
)


def keep_shared(record: RunRecord, other: RunRecord) -> RunRecord:
    """Return a record with the suites that another one has too: the rest is not gone.

    Args:
        record: the record.
        other: the other one.
    """
    names = {suite.name for suite in other.suites}
    kept = _keep(record, lambda key, _: Key(key).suite in names)
    return kept.model_copy(
        update={"suites": [suite for suite in record.suites if suite.name in names]}
    )


def without_texts(record: RunRecord) -> RunRecord:
    """Return a record without what was measured on text.

    Args:
        record: the record.
    """
    return _keep(record, lambda _, taken: kind_of(taken.probe) != "texts")


def _keep(record: RunRecord, chosen: Callable[[str, Measurement], bool]) -> RunRecord:
    kept = {key: one for key, one in record.measurements.items() if chosen(key, one)}
    checks = [check for check in record.checks if check.measurement in kept]
    return record.model_copy(update={"measurements": kept, "checks": checks})


def pair_texts(
    a: RunRecord, b: RunRecord, before: RunRecord, after: RunRecord
) -> tuple[RunRecord, RunRecord]:
    """Return records of two models whose ids stand, place by place, for the same text.

    Digests are of ids; as the text is the same, B's measurements get A's.

    Args:
        a: A's record, measured on the shared ids.
        b: B's.
        before: A's record on its own ids, which describes the model.
        after: B's.
    """
    paired = {}
    for key, taken in b.measurements.items():
        other = a.measurements.get(key)
        same = other is not None and differing_settings(other, taken) is None
        if other is not None and same and (a.model.bos is None) == (b.model.bos is None):
            taken = taken.model_copy(update={"tokens_sha256": other.tokens_sha256})
        paired[key] = taken
    return (
        a.model_copy(update={"model": before.model}),
        b.model_copy(update={"model": after.model, "measurements": paired}),
    )
