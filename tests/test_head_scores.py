"""Heads chosen by what they write and by their OV circuits, and tested on other sequences."""

from __future__ import annotations

import pytest

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable, SuiteError
from icl_bench.measures.tokens import digest_tokens, draw_repeated
from icl_bench.probes import get_probe
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import choose_heads, draw_unseen, name_stream
from icl_bench.probes.design.settings import HEAD_SOURCES, HeadSelection
from icl_bench.probes.heads import copying, logit_attribution
from icl_bench.records.parts import Measurement
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

MODEL = "builtin:induction-2l"
SUITE = """\
icl_suite: 1
name: mine
defaults: {{period: 12, sequences: 4}}
measure:
  repeats: {{probe: induction, control: false}}
  writing: {{probe: logit_attribution, heads: {{from: repeats, top: 2}}}}
  off: {{probe: ablation, heads: {{from: writing, {how}}}, null_sets: 0}}
checks:
  - {{id: c, on: off, metric: copying_lost, above: 0.3}}
"""


def load(folder, how="top: 2", text=SUITE):
    path = folder / "mine.yaml"
    path.write_text(text.format(how=how))
    return load_suite(path)


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model(MODEL)


@pytest.fixture(scope="module")
def written(model):
    settings = logit_attribution.Settings(sequences=4, period=12, heads=[[1, 0]])
    return logit_attribution.measure(model, settings, Context())


@pytest.fixture(scope="module")
def circuits(model):
    settings = copying.Settings(sequences=4, period=12, heads=[[1, 0]])
    return copying.measure(model, settings, Context())


def best(found, score, count=2):
    """The heads with the highest scores, by the record's rows."""
    values = {(row["layer"], row["head"]): row[score] for row in found.heads}
    return sorted(sorted(values, key=values.__getitem__)[-count:])


def choose(model, found, **how):
    heads = HeadSelection.model_validate({"from": "x", **how})
    return choose_heads(model, ablation.Settings(heads=heads), found)


def test_a_suite_ablates_the_heads_that_write_most(tmp_path, model, written):
    record = icl_bench.run([load(tmp_path).path], MODEL)
    off, rows = record.measurements["mine/off"], record.measurements["mine/writing"]
    chosen = [(row["layer"], row["head"]) for row in off.tables["chosen_heads"]]
    assert chosen == best(rows, "logit") == best(written, "logit")
    assert record.checks[0].verdict == "pass"
    # On sequences of its own, which the record names.
    tokens = draw_repeated(model.vocabulary, sequences=4, period=12, bos=model.bos, stream="retest")
    settings = ablation.Settings(
        varied=False,
        sequences=4,
        period=12,
        heads=[list(head) for head in chosen],
        null_sets=0,
        method="zero",
    )
    assert off.settings["stream"] == "retest"
    assert off.settings["heads"] == {"from": "writing", "top": 2}
    listed = ablation.measure(model, settings, Context())
    assert "stream" not in listed.settings
    again = ablation.measure(model, settings, Context(written))
    assert again.tokens_sha256 == digest_tokens(tokens.input_ids) != listed.tokens_sha256


def test_without_a_circuit_the_heads_that_write_most_carry_no_copying(tmp_path):
    """One layer writes towards tokens seen before, not towards the next one."""
    record = icl_bench.run([load(tmp_path).path], "builtin:control-1l")
    off = record.measurements["mine/off"]
    assert off.metrics["copy_accuracy"].value < 0.4
    assert off.metrics["copy_accuracy_ablated"].value < 0.4


@pytest.mark.parametrize("score", ["ov_behaviour", "ov_eigenvalue"])
def test_heads_are_chosen_by_their_circuits(model, circuits, score):
    assert choose(model, circuits, top=2, by=score) == best(circuits, score)
    rows = {(row["layer"], row["head"]): row[score] for row in circuits.heads}
    middle = sorted(rows.values())[len(rows) // 2]
    wanted = sorted(head for head, value in rows.items() if value > middle)
    assert choose(model, circuits, where={score: {"above": middle}}) == wanted


def test_top_orders_by_a_probes_first_score(model, circuits, written):
    assert choose(model, circuits, top=3) == best(circuits, "ov_behaviour", 3)
    assert choose(model, written, top=3) == best(written, "logit", 3)


def test_every_source_has_the_rows_that_it_promises(model, circuits, written):
    """What a probe's rows hold is what heads can be chosen by; nothing else is offered."""
    for found in (circuits, written):
        columns = {name for row in found.heads for name in row}
        assert {name for name in columns if not name.endswith("_stderr")} == {
            "layer",
            "head",
            *HEAD_SOURCES[found.probe],
        }


def test_a_head_without_the_score_does_not_qualify(model, circuits):
    rows = [dict(row) for row in circuits.heads]
    top = max(rows, key=lambda row: row["ov_behaviour"])
    del top["ov_behaviour"]
    found = circuits.model_copy(update={"heads": rows})
    chosen = choose(model, found, top=24, by="ov_behaviour")
    assert (top["layer"], top["head"]) not in chosen and len(chosen) == len(rows) - 1
    assert choose(model, found, where={"ov_behaviour": {"above": -2}}) == chosen


def test_a_score_that_the_model_does_not_allow_is_skipped_with_the_reason(model, circuits):
    rows = [{"layer": row["layer"], "head": row["head"]} for row in circuits.heads]
    why = {"ov_behaviour_others": "the family has no such circuit"}
    found = circuits.model_copy(update={"heads": rows, "unmeasured": why})
    with pytest.raises(NotMeasurable, match="not measured 'ov_behaviour': the family has no such"):
        choose(model, found, top=1)
    with pytest.raises(MeasurementError, match="'x' has not measured 'ov_eigenvalue'"):
        choose(model, found, top=1, by="ov_eigenvalue")


def test_no_head_is_tested_on_what_it_was_chosen_on(model, circuits):
    """Streams alternate along a chain of measurements that choose from one another."""
    fresh = Measurement(probe="induction")
    settings = copying.Settings(sequences=3, period=12, heads=[[1, 0]])
    streams, upstream = [], fresh
    for _ in range(4):
        streams.append(name_stream(upstream))
        upstream = copying.measure(model, settings, Context(upstream))
    assert streams == ["test", "retest", "test", "retest"]
    assert name_stream(None) == "test"
    drawn = [draw_unseen(model, settings, one).input_ids for one in (None, circuits)]
    own = draw_repeated(model.vocabulary, sequences=3, period=12, bos=model.bos).input_ids
    rows = [{tuple(row[1:13]) for row in ids.tolist()} for ids in (*drawn, own)]
    assert not rows[0] & rows[1] and not rows[1] & rows[2] and not rows[0] & rows[2]


@pytest.mark.parametrize(
    "probe",
    ["ablation", "composition", "attention_attribution", "logit_attribution", "offset_profile"],
)
def test_every_probe_that_tests_heads_changes_the_stream(model, circuits, probe):
    probe = get_probe(probe)
    more = {"null_sets": 0} if probe.name == "ablation" else {}
    settings = probe.settings(sequences=2, period=8, heads=[[1, 0]], **more)
    own, again = (probe.measure(model, settings, Context(one)) for one in (None, circuits))
    assert own.tokens_sha256 != again.tokens_sha256
    assert "stream" not in own.settings and again.settings["stream"] == "retest"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("top: 1, by: delta", "'writing' is 'logit_attribution', which has no score"),
        (
            "where: {induction: {above: 0.4}}",
            "no score 'induction' of heads; .*logit",
        ),
        ("top: 1, by: ov_eigenvalu", "did you mean 'ov_eigenvalue'"),
    ],
)
def test_a_score_of_another_probe_is_one_message(tmp_path, how, message):
    with pytest.raises(SuiteError, match=message) as caught:
        load(tmp_path, how)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'mine.yaml'}:7:")


def test_heads_that_would_come_from_themselves_are_refused(tmp_path):
    text = SUITE.replace("heads: {{from: repeats, top: 2}}", "heads: {{from: circuits, top: 2}}")
    text = text.replace(
        "  off:", "  circuits: {{probe: copying, heads: {{from: writing, top: 1}}}}\n  off:"
    )
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, text=text)
    lines = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "the heads of 'writing' would come from itself",
        "the heads of 'circuits' would come from itself",
    ]
    own = SUITE.replace("from: repeats", "from: writing")
    with pytest.raises(SuiteError, match="6:53: the heads of 'writing' would come from itself"):
        load(tmp_path, text=own)


def test_a_change_of_what_heads_come_from_is_another_measurement(tmp_path):
    plan = make_plan([load(tmp_path)]).measurements
    text = SUITE.replace("from: repeats, top: 2", "from: repeats, top: 3")
    other = make_plan([load(tmp_path, text=text)]).measurements
    assert plan["mine/off"].digest != other["mine/off"].digest
    assert plan["mine/off"].upstream == "mine/writing"
