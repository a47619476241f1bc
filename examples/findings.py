"""docs/findings.md from records: what holds of the theory on one model, and what does not.

    python -m pytest examples/findings.yaml --icl-suite=core --icl-suite=circuit \\
        --icl-suite=olsson --icl-suite=fewshot --icl-suite=fuzzy --icl-model=SPEC
    python examples/findings.py reports/SLUG/results.json > docs/findings.md

Every number is taken from the record and every verdict is that of a check; nothing is measured
here. `make findings` runs both lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from tabulate import tabulate

import icl_bench
from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render import circuits, sweeps, tables
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import escape

WORDS = {
    "pass": "holds",
    "fail": "**does not hold**",
    "inconclusive": "undecided",
    "skipped": "not measured",
    "error": "broke",
}


class Findings:
    """Numbers of one record, as text.

    Args:
        record: a run of the suites named above.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def taken(self, name: str) -> Measurement | None:
        """Return the measurement `SUITE/NAME`, when it was taken."""
        return self.record.measurements.get(name)

    def value(self, name: str, metric: str) -> str:
        """Return a metric with its interval, or why it is missing."""
        measurement = self.taken(name)
        if measurement is None:
            return "not measured"
        found = measurement.metrics.get(metric)
        if found is None:
            why = measurement.unmeasured.get(metric) or measurement.reason
            return f"not measured: {why}" if why else "not measured"
        if found.ci_low is None or found.ci_high is None:
            return numbers.number(found.value)
        interval = numbers.interval(found.ci_low, found.ci_high)
        return f"{numbers.number(found.value)} {interval}"

    def rows(self, wanted: Sequence[tuple[str, str, str]]) -> list[str]:
        """Return a table of (what, measurement, metric)."""
        cells = [[what, escape(self.value(name, metric))] for what, name, metric in wanted]
        return table(["", "value, 95% interval"], cells)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True).split("\n")


def _opening(found: Findings) -> Iterator[str]:
    model = found.record.model
    yield f"# Findings: {escape(model.spec)}"
    yield ""
    yield "Made by `make findings` from records. Every number is measured by the shipped suites"
    yield "or by `examples/findings.yaml`; every verdict is that of a check, whose threshold stands"
    yield "in its suite."
    machine = found.record.environment
    yield f"{escape(model.architecture)}, {model.layers} × {model.heads} heads, {model.dtype};"
    yield f"icl_bench {found.record.icl_bench}, torch {machine.torch},"
    yield f"transformers {machine.transformers}."


def _circuit(found: Findings) -> Iterator[str]:
    yield "## Which head feeds which"
    yield ""
    yield "One row a head with an induction score above 0.4. Needs: the one earlier head that"
    yield "costs most when it is taken out of that side alone (score before → after). Written by:"
    yield "the largest part of the attention logit. Writes: added to the correct token's logit."
    for suite, header, rows in circuits.circuit_tables(found.record):
        if suite == "circuit":
            yield ""
            yield from table(header, [[escape(cell) for cell in row] for row in rows])
    yield ""
    yield from found.rows(
        [
            (
                "share of the induction score lost without the worst sender: keys",
                "circuit/composition",
                "key_drop",
            ),
            ("the same, queries", "circuit/composition", "query_drop"),
            ("the same, values (logits written)", "circuit/composition", "value_drop"),
            (
                "previous-token score of the keys' worst sender",
                "circuit/composition",
                "key_sender_previous_token",
            ),
            (
                "share of the attention logit with the previous-token head on the key side",
                "circuit/match",
                "key_previous_token",
            ),
            (
                "with the token (embedding and first MLP) on the query side",
                "circuit/match",
                "query_token_state",
            ),
            ("with the raw embedding on the query side", "circuit/match", "query_embedding"),
            (
                "logits the induction heads write towards the token",
                "circuit/writing",
                "selected_logit",
            ),
            ("as a share of what all heads write", "circuit/writing", "selected_share"),
            ("induction heads that write next to nothing", "circuit/writing", "selected_silent"),
            (
                "copying lost without their edges i → i-n+1 alone",
                "circuit/edges",
                "copying_lost",
            ),
            ("copying lost with the heads zeroed", "circuit/zeroed", "copying_lost"),
            (
                "copying lost with patterns kept (25 tokens, 4 copies)",
                "olsson/pattern-preserving",
                "copying_lost",
            ),
        ]
    )


def _shares(found: Findings) -> Iterator[str]:
    yield "## What they carry: random repeats and natural text (claims 11, 13, 20)"
    yield ""
    yield from found.rows(
        [
            (
                "loss on repeats with the heads off / clean",
                "findings/on-repeats",
                "loss_ratio",
            ),
            (
                "share of the gain from repetition that is lost",
                "findings/on-repeats",
                "copying_lost",
            ),
            (
                "p-value against random heads of the same layers",
                "findings/on-repeats",
                "null_p_value",
            ),
            ("rise of the loss on natural text, nats", "findings/on-text", "text_delta"),
            (
                "windowed ICL score on natural text, nats",
                "findings/on-text",
                "icl_score_windowed",
            ),
            (
                "share of it that goes with the heads (mean)",
                "findings/on-text",
                "icl_share_text",
            ),
            ("largest share with random heads", "findings/on-text", "null_max_share"),
            (
                "the same with patterns kept, zeroed (Olsson et al.)",
                "olsson/text",
                "icl_share_text",
            ),
        ]
    )


def _smallest(found: Findings) -> Iterator[str]:
    yield "## How few heads are enough (claim 14)"
    yield ""
    measurement = found.taken("findings/smallest-set")
    if measurement is None or not measurement.metrics:
        yield "Not measured."
        return
    kept = sweeps.list_heads(measurement.tables.get("kept_heads", []))
    yield f"Backward elimination keeps these heads: {escape(kept)}."
    yield ""
    yield from found.rows(
        [
            ("heads kept", "findings/smallest-set", "heads"),
            ("as a share of all heads", "findings/smallest-set", "heads_share"),
            (
                "copying kept on other tokens, all other heads mean-ablated",
                "findings/smallest-set",
                "copying_kept",
            ),
            (
                "as many heads, those with the largest effects alone",
                "findings/smallest-set",
                "copying_kept_by_effect",
            ),
            (
                "as many heads, those with the highest induction scores",
                "findings/smallest-set",
                "copying_kept_by_induction",
            ),
            (
                "as many random heads, at best",
                "findings/smallest-set",
                "copying_kept_random_max",
            ),
        ]
    )
    yield ""
    yield from table(*sweeps.curve_table(measurement))


def _examples(found: Findings) -> Iterator[str]:
    yield "## What examples in the prompt owe to them (claim 22)"
    yield ""
    yield "Function-vector heads are chosen on other tasks than they are tested on."
    yield ""
    names = (
        ("gain in accuracy among choices, all heads on", "fewshot_gain"),
        ("lost with the heads off", "gain_lost"),
        ("lost with random heads of the same layers, median", "null_median_lost"),
        ("the same, most", "null_max_lost"),
        ("lost with random heads of any layer, median", "uniform_median_lost"),
        ("gain in first-token accuracy, all heads on", "first_token_gain"),
        ("lost with the heads off", "first_token_gain_lost"),
        ("p-value of that", "null_first_token_p_value"),
    )
    rows = [
        [
            what,
            escape(found.value("fewshot/induction-off", metric)),
            escape(found.value("fewshot/vectors-off", metric)),
        ]
        for what, metric in names
    ]
    yield from table(["", "induction heads", "function-vector heads"], rows)


def _fuzzy(found: Findings) -> Iterator[str]:
    yield "## By identity or by meaning (claim 21)"
    yield ""
    yield from found.rows(
        [
            ("effect of the word itself, nats", "fuzzy/synonyms", "exact_effect"),
            ("of a near-synonym", "fuzzy/synonyms", "fuzzy_effect"),
            ("of an unrelated word", "fuzzy/synonyms", "unrelated_effect"),
            ("share of the way", "fuzzy/synonyms", "fuzzy_share"),
            ("attention of the heads from the word itself", "fuzzy/synonyms", "exact_attention"),
            ("from a near-synonym", "fuzzy/synonyms", "fuzzy_attention"),
            ("from an unrelated word", "fuzzy/synonyms", "unrelated_attention"),
            (
                "effect of the word itself lost with the heads off",
                "fuzzy/synonyms",
                "exact_effect_lost",
            ),
            (
                "effect of a near-synonym lost with the heads off",
                "fuzzy/synonyms",
                "fuzzy_effect_lost",
            ),
        ]
    )


def _verdicts(found: Findings) -> Iterator[str]:
    yield "## What holds, what does not"
    yield ""
    rows = []
    for check in found.record.checks:
        if (check.description or "").startswith("Shown and not judged"):
            continue
        measured = "" if check.value is None else numbers.number(check.value)
        rule = "" if check.rule is None else tables.rule_cell(check)
        asked = escape(check.description or check.id)
        rows.append(
            [escape(check.suite), asked, escape(measured), escape(rule), WORDS[check.verdict]]
        )
    yield from table(["suite", "", "measured", "needed", ""], rows)


SECTIONS = (_opening, _verdicts, _circuit, _shares, _smallest, _examples, _fuzzy)


def write(record: RunRecord) -> str:
    """Return the page."""
    found = Findings(record)
    return "\n".join(line for section in SECTIONS for line in (*section(found), "")).strip() + "\n"


def main() -> None:
    """Read a record and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", metavar="results.json", nargs="+", help="of one model")
    first, *others = map(icl_bench.read_record, parser.parse_args().records)
    for other in others:
        if other.model.fingerprint != first.model.fingerprint:
            parser.error("the records are of different models")
        first.measurements |= other.measurements
        suites = {suite.name for suite in other.suites}
        kept = [check for check in first.checks if check.suite not in suites]
        first.checks = [*kept, *other.checks]
    print(write(first), end="")


if __name__ == "__main__":
    main()
