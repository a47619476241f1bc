"""The HTML report as text: whole, safe, small, and true to the record."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from html_pages import HOSTILE, Reader, make_hostile, sample

from icl_bench.record import Check, RunRecord, read_record
from icl_bench.render import numbers
from icl_bench.render.files import write_reports
from icl_bench.render.html import circuit, copying, example, heads, tables
from icl_bench.render.html.page import embed, plotly_name
from icl_bench.render.html.report import report_page
from icl_bench.render.html.strips import draw_strip

NAMES = (
    "builtin-induction-2l",
    "builtin-control-1l",
    "builtin-handwired",
    "SmolLM2-135M-Instruct.Q4_1",
    "builtin-induction-2l--",
    "builtin-control-1l--",
)
LIMIT = 1_500_000


def without_plotly(record: RunRecord) -> str:
    return report_page(record, plotly="x.js")


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_one_whole_page(name: str) -> None:
    page = Reader(without_plotly(sample(name)))
    assert page.faults == []
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in page.attributes("href")]
    assert targets and set(targets) <= set(ids)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_of_a_network(name: str) -> None:
    page = Reader(report_page(sample(name)))
    assert page.attributes("src") == []
    assert not any(tag in ("link", "iframe", "object", "embed") for tag, _ in page.elements)
    policy = [own["content"] for _, own in page.elements if own.get("http-equiv")]
    assert policy and str(policy[0]).startswith("default-src 'none'")


@pytest.mark.parametrize("name", NAMES)
def test_every_check_is_told_with_its_value(name: str) -> None:
    record = sample(name)
    words = " ".join(Reader(without_plotly(record)).words)
    for check in record.checks:
        assert check.id in words
        if check.value is not None and check.kind == "check":
            assert numbers.number(check.value) in words
    for key in record.measurements:
        assert key in words


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_small(name: str) -> None:
    assert len(without_plotly(sample(name)).encode()) < LIMIT


def test_a_large_model_stays_below_the_limit() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    record.model.layers, record.model.heads = 64, 32
    for one in record.measurements.values():
        if one.heads:
            scored = [row for row in one.heads if row.get("induction") is not None] or one.heads
            one.heads = [
                {**scored[(layer * 32 + head) % len(scored)], "layer": layer, "head": head}
                for layer in range(64)
                for head in range(32)
            ]
        rows = one.tables.get("example_patterns")
        if rows:
            longest = "A" * 2_860  # Of 65 positions.
            one.tables["example_patterns"] = [
                {
                    **rows[(layer * 32 + head) % len(rows)],
                    **{"layer": layer, "head": head, "pattern": longest},
                }
                for layer in range(64)
                for head in range(32)
            ]
    page = without_plotly(record)
    assert len(page.encode()) < LIMIT
    # The heads of the circuit are among those that are kept.
    patterns = json.loads(page.split('id="icl-data">')[1].split("</script>")[0])["example"]
    assert {one["head"] for one in patterns["circuit"]} <= set(patterns["patterns"])


def test_hostile_text_stays_text() -> None:
    hostile = make_hostile(sample("builtin-induction-2l"))
    page = Reader(without_plotly(hostile))
    assert page.faults == []
    assert not any(tag in ("img", "b") and "onerror" in own for tag, own in page.elements)
    assert "img" not in {tag for tag, _ in page.elements}
    # No attribute runs code, whatever stands in it.
    assert not any(name.startswith("on") for _, own in page.elements for name in own)
    # It is shown as it is, up to its line separator, which names in one line do without.
    assert HOSTILE.split("\u2028")[0] in " ".join(page.words)
    assert "49" not in {word.strip() for word in page.words}


@pytest.mark.parametrize(
    "text", [HOSTILE, "<!--<script>", "\u2028\u2029", "\ud800", "a\\u003cb", "\x00\x1f", "日本語"]
)
def test_embedded_data_is_read_back_and_cannot_end_its_element(text: str) -> None:
    packed = str(embed({"text": text, text: [1, None, 0.5]}))
    assert "<" not in packed and ">" not in packed and "&" not in packed
    packed.encode()
    assert json.loads(packed) == {"text": text, text: [1, None, 0.5]}


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        embed({"value": math.nan})


def test_the_charting_script_is_shared_or_packed(tmp_path: Path) -> None:
    records = [sample("builtin-induction-2l"), sample("builtin-control-1l")]
    written = write_reports(records, tmp_path / "shared", plotly="shared")
    pages = [path for path in written if path.name == "report.html"]
    assert len(pages) == 2
    scripts = list((tmp_path / "shared").rglob("plotly*.js"))
    assert [path.name for path in scripts] == [plotly_name()]
    for path in pages:
        assert f'src="../{plotly_name()}"' in path.read_text(encoding="utf-8")
        assert path.stat().st_size < LIMIT
    packed = write_reports(records[:1], tmp_path / "inline")
    assert not list((tmp_path / "inline").rglob("*.js"))
    page = next(path for path in packed if path.name == "report.html")
    assert "icl-plotly" in page.read_text(encoding="utf-8")


def test_the_grid_of_a_score_holds_every_head() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1")
    made = heads.section(record)
    assert made is not None
    scores = {score["name"]: score for score in made["data"]["scores"]}
    rows = record.measurements["core/repeats"].heads
    for row in rows:
        shown = scores["induction"]["values"][row["layer"]][row["head"]]
        assert shown == pytest.approx(row["induction"], rel=1e-3, abs=1e-12)
        low = scores["induction"]["low"][row["layer"]][row["head"]]
        assert low == pytest.approx(row["induction_ci_low"], rel=1e-3, abs=1e-12)


def test_a_head_that_was_not_measured_is_a_hole_not_a_zero() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for one in record.measurements.values():
        one.heads = [row for row in one.heads if (row["layer"], row["head"]) != (1, 4)]
    made = heads.section(record)
    assert made is not None
    assert all(score["values"][1][4] is None for score in made["data"]["scores"])


def test_the_circuit_is_drawn_from_the_measured_edges() -> None:
    found = circuit.find_circuit(sample("SmolLM2-135M-Instruct.Q4_1"))
    assert found is not None
    assert next(iter(found.scores)) == (18, 6)
    into = [edge for edge in found.edges if edge["receiver"] == (18, 6) and edge["side"] == "key"]
    best = max(into, key=lambda edge: edge["share"])
    assert best["sender"] == (16, 0)
    assert best["share"] == pytest.approx(best["drop"] / best["clean"])


def test_without_composition_no_edge_is_drawn_and_the_page_says_so() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for key in [k for k, one in record.measurements.items() if one.probe == "composition"]:
        del record.measurements[key]
    made = circuit.section(record)
    assert made is not None
    assert made["edges"] == []
    assert 'class="edge' not in str(made["drawing"])
    assert any("was not measured" in words for words in made["words"])


def test_a_model_without_the_circuit_has_nothing_drawn() -> None:
    record = sample("builtin-control-1l")
    found = circuit.find_circuit(record)
    assert found is not None and not found.scores
    words = " ".join(Reader(without_plotly(record)).words)
    assert "Induction heads: none above 0.4" in words or "there is no circuit to draw" in words


def make_check(rule: str, threshold: object, value: float | None = 0.5) -> Check:
    return Check(
        **{"id": "c", "suite": "s", "measurement": "m", "metric": "x", "verdict": "pass"},
        rule=rule,
        threshold=threshold,
        value=value,
        ci_low=None if value is None else value - 0.1,
        ci_high=None if value is None else value + 0.1,
    )


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("above", 0.4),
        ("at_most", 2),
        ("between", [0.2, 0.9]),
        ("equals", {"value": 0.5, "tolerance": 0.1}),
        ("equals", 0.5),
    ],
)
def test_a_strip_shows_value_interval_and_zone(rule: str, threshold: object) -> None:
    strip = str(draw_strip(make_check(rule, threshold)))
    assert Reader(strip).faults == []
    x = float(re.search(r'circle class="value" cx="([\d.]+)"', strip)[1])  # type: ignore[index]
    zone = re.search(r'class="zone" x="([\d.]+)" y="3" width="([\d.]+)"', strip)
    assert zone is not None
    inside = float(zone[1]) <= x <= float(zone[1]) + float(zone[2]) + 0.2
    assert inside  # 0.5 fulfils every rule above
    assert "needed" in strip


def test_a_value_outside_the_zone_is_drawn_outside() -> None:
    strip = str(draw_strip(make_check("above", 0.9)))
    x = float(re.search(r'cx="([\d.]+)"', strip)[1])  # type: ignore[index]
    zone = float(re.search(r'class="zone" x="([\d.]+)"', strip)[1])  # type: ignore[index]
    assert x < zone


def test_what_was_not_measured_has_no_strip() -> None:
    assert draw_strip(make_check("above", 0.4, value=None)) is None
    assert draw_strip(make_check("supports", [{"option": "a"}])) is None
    assert draw_strip(make_check("above", "much")) is None


def test_an_empty_record_is_a_page_too() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    record.checks, record.measurements = [], {}
    page = Reader(without_plotly(record))
    assert page.faults == []
    assert "NO CHECKS" in " ".join(page.words)


def test_patterns_of_a_long_text_without_repeats_are_kept_by_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for one in record.measurements.values():
        for row in one.tables.get("example_patterns", []):
            row.pop("induction")
    monkeypatch.setattr(example, "MOST_PATTERNS", 2_000)
    made = example.section(record)
    assert made is not None and 0 < len(made["data"]["patterns"]) < 24


def test_words_about_edges_are_true() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1").model_copy(deep=True)
    found = circuit.find_circuit(record)
    assert found is not None and len(found.every_edge) > len(found.edges) > 0
    words = " ".join(circuit.section(record)["words"])  # type: ignore[index]
    assert f"{len(found.every_edge) - len(found.edges)} more edges" in words
    key = found.composed
    assert key is not None
    table = record.measurements[key].tables["composition"]
    # Only edges of 5 to 20% from heads that are not drawn: still not "less than 5% everywhere".
    drawn = set(found.previous) | set(found.others)
    record.measurements[key].tables["composition"] = [
        row
        for row in table
        if 0.05 < row["drop"] / row["clean"] < 0.2
        and (row["sender_layer"], row["sender_head"]) not in drawn
    ]
    words = " ".join(circuit.section(record)["words"])  # type: ignore[index]
    assert "everywhere" not in words and "more edges" in words
    record.measurements[key].tables.clear()
    record.measurements[key].reason = "no head is chosen"
    words = " ".join(circuit.section(record)["words"])  # type: ignore[index]
    assert "no head is chosen" in words and "everywhere" not in words


def test_heads_may_be_an_empty_list_and_names_half_a_sign(tmp_path: Path) -> None:
    record = sample("builtin-control-1l").model_copy(deep=True)
    record.model.heads = []
    record.model.spec = "half \ud83d"
    written = write_reports([record], tmp_path)
    assert all(path.stat().st_size for path in written)
    assert read_record(written[0]).model.spec == "half \ud83d"


def test_what_did_not_pass_is_named_at_the_top_and_linked() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1")
    missed = [one for one in record.checks if one.verdict in ("error", "fail", "inconclusive")]
    page = Reader(without_plotly(record))
    assert missed
    for check in missed:
        place = record.checks.index(check)
        assert f"#check-{place}" in page.attributes("href")
        assert f"check-{place}" in page.attributes("id")
    passed = record.model_copy(update={"checks": [c for c in record.checks if c not in missed]})
    assert 'class="missed"' not in without_plotly(passed)


def test_more_than_a_few_that_did_not_pass_are_counted() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for check in record.checks:
        check.verdict = "fail"
    words = " ".join(Reader(without_plotly(record)).words)
    assert f"and {len(record.checks) - 8} more below" in words


def test_an_ablation_that_two_suites_share_is_shown_once() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1").model_copy(deep=True)
    named = [one["keys"] for one in copying.section(record)["ablations"]]  # type: ignore[index]
    assert ["core/collapse", "quiz/collapse"] in named
    record.measurements["quiz/collapse"].metrics["loss_ratio"].value += 1
    named = [one["keys"] for one in copying.section(record)["ablations"]]  # type: ignore[index]
    assert ["core/collapse"] in named and ["quiz/collapse"] in named


def test_the_nulls_own_sequences_are_told() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1").model_copy(deep=True)
    measured = record.measurements["core/collapse"]
    own = measured.metrics["null_observed_ratio"]
    words = copying.section(record)["ablations"][0]["null"]  # type: ignore[index]
    told = f"On the null's own {own.n} sequences: loss ratio of the chosen heads "
    assert words.startswith(told + numbers.number(own.value))
    # An older record has the main effect alone.
    del measured.metrics["null_observed_ratio"]
    words = copying.section(record)["ablations"][0]["null"]  # type: ignore[index]
    main = numbers.number(measured.metrics["loss_ratio"].value)
    assert words.startswith(f"Loss ratio of the chosen heads {main}")


def test_heads_that_are_not_drawn_are_counted() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1")
    able = sum(row["induction"] > 0.4 for row in record.measurements["core/repeats"].heads)
    assert able > circuit.MOST
    words = " ".join(circuit.section(record)["words"])  # type: ignore[index]
    assert f"and {able - circuit.MOST} more above 0.4, which are not drawn" in words


def test_seeds_are_part_of_the_provenance() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    assert ("seed", "0") in tables.provenance_section(record)["rows"]
    record.measurements["core/repeats"].settings["seed"] = 7
    assert ("seed of core/repeats", "7") in tables.provenance_section(record)["rows"]
