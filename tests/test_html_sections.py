"""The parts of the HTML report: what each shows is what the record holds."""

from __future__ import annotations

import base64
import math
import re
import struct

import pytest
from html_pages import Reader, sample

from icl_bench.records.parts import Check, GateVerdict, Metric
from icl_bench.records.record import RunRecord
from icl_bench.render.html import circuit, copying, example, heads, overview, tables
from icl_bench.render.html.interval_plots import draw_strip
from icl_bench.render.html.report import report_page
from icl_bench.render.writing import numbers


def without_plotly(record: RunRecord) -> str:
    return report_page(record, plotly="x.js")


def unpack(packed: str) -> list[float]:
    numbers = base64.b64decode(packed)
    return list(struct.unpack(f"<{len(numbers) // 4}f", numbers))


def test_the_grid_of_a_score_holds_every_head() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1")
    made = heads.section(record)
    assert made is not None
    scores = {score["name"]: score for score in made["data"]["scores"]}
    rows = record.measurements["core/repeats"].heads
    for row in rows:
        place = 9 * row["layer"] + row["head"]
        shown = unpack(scores["induction"]["values"])[place]
        assert shown == pytest.approx(row["induction"], rel=1e-6, abs=1e-12)
        low = unpack(scores["induction"]["low"])[place]
        assert low == pytest.approx(row["induction_ci_low"], rel=1e-6, abs=1e-12)


def test_a_head_that_was_not_measured_is_a_hole_not_a_zero() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for one in record.measurements.values():
        one.heads = [row for row in one.heads if (row["layer"], row["head"]) != (1, 4)]
    made = heads.section(record)
    assert made is not None
    assert all(math.isnan(unpack(score["values"])[16]) for score in made["data"]["scores"])


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
    assert "required" in strip


def test_a_value_outside_the_zone_is_drawn_outside() -> None:
    strip = str(draw_strip(make_check("above", 0.9)))
    x = float(re.search(r'cx="([\d.]+)"', strip)[1])  # type: ignore[index]
    zone = float(re.search(r'class="zone" x="([\d.]+)"', strip)[1])  # type: ignore[index]
    assert x < zone


def test_what_was_not_measured_has_no_strip() -> None:
    assert draw_strip(make_check("above", 0.4, value=None)) is None
    assert draw_strip(make_check("supports", [{"option": "a"}])) is None
    assert draw_strip(make_check("above", "much")) is None


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
    own = measured.metrics["null_observed_ratio"] = Metric(value=4.25, n=4, exact=True)
    measured.tables["null"] = [{"draw": i, "heads": "1.2", "loss_ratio": 1 + i} for i in range(3)]
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


def tiles(record: RunRecord) -> dict[str, str]:
    return {one["words"]: one["value"] for one in overview.overview(record)["tiles"]}


def test_the_numbers_at_the_top_are_those_of_the_induction_heads_off() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    lost = "of that lost without induction heads"
    main = record.measurements["core/collapse"].metrics
    assert tiles(record)[lost] == numbers.number(main["copying_lost"].value)
    # Others may come first by name: an edge, a layer, all heads but some, MLPs.
    for other in ("edges", "first-layer", "second-layer"):
        taken = record.measurements[f"quiz/{other}"].model_copy(deep=True)
        taken.metrics["copying_lost"].value = 0.123
        record.measurements = {f"a/{other}": taken, **record.measurements}
    kept = record.measurements["core/collapse"].model_copy(deep=True)
    kept.settings["keep_only"] = True
    kept.metrics["copying_lost"].value = 0.123
    record.measurements = {"a/kept": kept, **record.measurements}
    assert tiles(record)[lost] == numbers.number(main["copying_lost"].value)
    assert "0.123" not in tiles(record).values()
    # Alone, none of them is what the words say.
    for key in [k for k in record.measurements if k.endswith(("collapse", "collapse-zero"))]:
        del record.measurements[key]
    assert lost not in tiles(record)


def test_heads_that_were_listed_are_not_called_induction_heads() -> None:
    record = sample("SmolLM2-135M-Instruct.Q4_1").model_copy(deep=True)
    for key in [k for k, one in record.measurements.items() if one.probe == "ablation"]:
        if key != "core/collapse":
            del record.measurements[key]
    record.measurements["core/collapse"].settings["heads"] = [[17, 3], [17, 4]]
    assert "of that lost without 17.3, 17.4, 17.5, 18.6 and 4 more heads" in tiles(record)


def test_without_a_head_switched_off_nothing_is_said_to_be_lost() -> None:
    assert not any("lost" in words for words in tiles(sample("builtin-control-1l")))


def test_step_and_gates_of_a_training_run_stand_at_the_top() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    record.step = 1500
    record.gates = [
        GateVerdict(gate="induction_max > 0.9", verdict="fail", reason="measured 0.889")
    ]
    page = without_plotly(record)
    top = " ".join(Reader(page.split('id="checks"')[0]).words)
    assert "after optimizer step 1,500" in top
    assert "induction_max > 0.9" in top and "measured 0.889" in top and "FAIL" in top


@pytest.mark.parametrize("status", ["skipped", "error"])
def test_why_composition_is_missing_is_told(status: str) -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    for one in record.measurements.values():
        if one.probe == "composition":
            one.tables, one.metrics, one.heads = {}, {}, []
            one.status, one.reason = status, "keys cannot be told apart"  # type: ignore[assignment]
    words = " ".join(circuit.section(record)["words"])  # type: ignore[index]
    assert "keys cannot be told apart" in words and "suite circuit" not in words


def test_the_example_with_induction_heads_to_switch_off_is_shown_and_others_named() -> None:
    record = sample("builtin-induction-2l").model_copy(deep=True)
    key, one = example.find_example(record) or pytest.fail("no example")
    bare = one.model_copy(deep=True)
    bare.tables["switches"] = [r for r in bare.tables["switches"] if r["role"] != "induction"]
    record.measurements = {"a/bare": bare, **record.measurements}
    assert (example.find_example(record) or ("", None))[0] == key
    assert f"Shown is {key}; results.json also has a/bare." in without_plotly(record)


def test_how_heads_were_switched_off_is_told_as_in_the_other_report() -> None:
    made = copying.section(sample("builtin-induction-2l"))
    assert made is not None
    told = {key: one["off"] for one in made["ablations"] for key in one["keys"]}
    assert told["quiz/first-layer"] == "layer 0 (mean, patterns frozen)"
