"""Planted edits of a model under a suite: what is killed, what passes, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_calls import call

import icl_bench
from icl_bench.api import mutations
from icl_bench.errors import InputError, ModelError, SettingsError
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.model import Model
from icl_bench.mutating import behaviour, judging
from icl_bench.mutating.behaviour import Difference, state_of, watch
from icl_bench.mutating.circuit import find_circuit
from icl_bench.mutating.edits import EDITS
from icl_bench.mutating.outcome import Moved, Mutation, Outcome
from icl_bench.mutating.planting import Ground, planted
from icl_bench.mutating.prefixes import Prefixes
from icl_bench.mutating.report import blocks, mutation_text, write_mutation
from icl_bench.running.job import Job
from icl_bench.running.request import Request
from icl_bench.running.setup import Setup
from icl_bench.suite import find_suite

SPEC = "builtin:induction-2l"
INDUCTION, PREVIOUS = "1.4", "0.9"
"""The circuit of that model."""


SMALL = """\
icl_suite: 1
name: small
defaults: {sequences: 32, period: 12}
measure:
  repeats: {probe: induction}
  copying: {probe: losses}
checks:
  - {id: has-induction-heads, on: repeats, metric: induction_max, above: 0.1}
  - {id: copies, on: copying, metric: gain_varied, above: 0}
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return icl_bench.load_model(SPEC)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite `small`, in the working directory, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICL_BENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_damage_of_the_circuit_is_killed_and_neutral_edits_pass(model: Model, suite: Path) -> None:
    names = ["head-zero", "value-scaled", "idle-head-zero", "leak", "channel-nan"]
    before = {name: one.detach().clone() for name, one in model.model.named_parameters()}
    frame = icl_bench.mutate(model, [suite], edits=names)
    assert list(frame.columns[:5]) == ["edit", "place", "change", "verdict", "killed_by"]
    rows = {(row.edit, row.place): row for row in frame.itertuples()}
    for place in (INDUCTION, PREVIOUS):
        row = rows["head-zero", place]
        assert (row.change, row.verdict) == ("changed", "killed")
        assert row.killed_by and row.gain_ci_high < -0.1 and row.gain_ci_low < row.gain_change
        assert rows["value-scaled", place].verdict == "passed"
    idle = [row for (name, _), row in rows.items() if name == "idle-head-zero"]
    assert len(idle) == 2 and {row.verdict for row in idle} == {"passed"}
    assert rows["leak", "model"].killed_by[0].startswith("opening: ")
    assert "changes the logits before it" in rows["leak", "model"].killed_by[0]
    assert all(rows["channel-nan", f"layer {n}"].killed_by[0].startswith("opening") for n in (0, 1))
    assert np.isnan(rows["channel-nan", "layer 1"].gain_change)
    assert frame.attrs["kill_rate"] == 1 and frame.attrs["false_alarms"] == 0
    assert frame.attrs["changed"] == frame.attrs["killed"] == 5
    for name, one in model.model.named_parameters():
        assert torch.equal(one, before[name]), name


def test_an_edit_that_the_family_does_not_have_is_listed_or_refused(
    model: Model,
    suite: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SettingsError, match="'kv-neighbour' is not in this family: its heads"):
        icl_bench.mutate(model, [suite], edits=["head-zero", "kv-neighbour"])
    assert call("mutate", SPEC, "--suite=small.yaml", "--edits=rope-base") == 4
    told = capsys.readouterr().err
    assert "edit 'rope-base' is not in this family: it has no buffer of rotary" in told
    some = ["kv-neighbour", "shift", "rope-base", "gqa-repeat", "batch-size"]
    monkeypatch.setattr(mutations, "choose_edits", lambda names: [EDITS[name] for name in some])
    frame = icl_bench.mutate(model, [suite])
    absent = frame[frame.verdict == "absent"]
    assert set(absent.edit) == set(some[:-1])
    assert all(absent.reason) and absent.change.isna().all()
    assert list(frame[frame.edit == "batch-size"].verdict) == ["passed"]


def test_what_must_change_nothing_and_does_is_damage(
    model: Model, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = replace(EDITS["head-zero"], neutral=True)
    broken = replace(EDITS["batch-size"], home="heads:zero")  # has no place to do that
    monkeypatch.setattr(mutations, "choose_edits", lambda names: [false, broken])
    frame = icl_bench.mutate(model, [suite])
    assert list(frame.verdict) == ["killed", "killed", "not planted"]
    assert frame.attrs["neutral"] == 0 and frame.attrs["changed"] == 2
    assert frame.reason[2].startswith("AssertionError")


def test_the_command_writes_a_page_and_fails_below_a_share(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["mutate", SPEC, "--suite=small.yaml", "--edits=head-zero,batch-size"]
    assert call(*run, "--fail-below=90%") == 0
    out = capsys.readouterr().out
    assert "Kill rate: 2 of 2 edits that changed behaviour (100%)" in out
    assert "False alarms: 0 of 1 neutral edits" in out
    folder = Path("reports/mutate-builtin-induction-2l")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("mutation.html", "mutation.json", "mutation.md")
    ]
    data = json.loads((folder / "mutation.json").read_text())
    assert (data["killed"], data["kill_rate"], data["status"]) == (2, 1.0, "complete")
    assert data["outcomes"][0]["edit"] == "head-zero" and data["pace"] > 0
    for name in ("mutation.md", "mutation.html"):
        text = (folder / name).read_text()
        assert (
            "head-zero" in text
            and INDUCTION in text
            and "a head's output is 0" in (text.replace("&#39;", "'"))
        )
    assert len((folder / "mutation.html").read_text()) < 100_000  # without the charting script
    # A suite that looks at nothing that the edit moves.
    suite.write_text(weak_suite())
    assert call(*run, "--fail-below=0.9") == 1
    seen = capsys.readouterr()
    assert "Kill rate: 0 of 2" in seen.out and "survived: head-zero 1.4" in seen.out
    assert "--fail-below=0.9: kill rate 0" in seen.err
    assert call(*run) == 0
    capsys.readouterr()
    assert call("mutate", SPEC, "--suite=small.yaml", "--edits=batch-size", "--fail-below=0") == 1
    assert "unknown, because no edit changed behaviour" in capsys.readouterr().err


def weak_suite() -> str:
    """A suite whose only check reads the loss of a first copy."""
    return """\
icl_suite: 1
name: weak
defaults: {sequences: 32, period: 8, seed: 5}
measure:
  copying: {probe: losses}
checks:
  - {id: knows-tokens, on: copying, metric: first_loss, below: 20}
"""


def test_a_survivor_is_told_with_what_would_have_caught_it(model: Model, suite: Path) -> None:
    suite.write_text(weak_suite())
    frame = icl_bench.mutate(model, [suite], edits=["head-zero"])
    assert set(frame.verdict) == {"survived"} and set(frame.change) == {"changed"}
    assert all("a check on copying.gain_varied" in reason for reason in frame.reason)
    assert frame.attrs["kill_rate"] == 0


def test_a_suite_without_checks_kills_by_the_comparison(model: Model, suite: Path) -> None:
    suite.write_text(weak_suite().partition("checks:")[0])
    frame = icl_bench.mutate(model, [suite], edits=["head-zero", "value-turned"])
    kills = frame[frame.edit == "head-zero"].killed_by
    assert all("copying.gain_varied" in names for names in kills)
    assert set(frame[frame.edit == "value-turned"].verdict) == {"passed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--edits=int5"], "no edit is called 'int5'; did you mean 'int"),
        (["--edits=head-zero,hed-half"], "did you mean 'head-half'?"),
        (["--fail-below=2"], "--fail-below=2: must be a share from 0 to 1"),
        (["--fail-below=many"], "--fail-below=many: must be a share from 0 to 1"),
        (["--suite=gaet"], "gate"),
        (["--device=split"], "a split model cannot be edited"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_measured(
    suite: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("mutate", SPEC, *arguments) == 4
    seen = capsys.readouterr()
    assert message in seen.err and "Traceback" not in seen.err and not seen.out


def test_no_model_or_a_series_is_a_mistake(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("mutate") == 4
    assert "no model is given: icl-bench mutate SPEC" in capsys.readouterr().err
    assert call("mutate", f"{SPEC}@*", "--suite=small.yaml") == 4
    assert "is a series of checkpoints; name one of them: SPEC@STEP" in capsys.readouterr().err
    with pytest.raises(InputError, match="series"):
        icl_bench.mutate(f"{SPEC}@*", [suite])


def test_edits_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("mutate", "--list") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in EDITS)
    assert out.index("head-zero") < out.index("edits that change nothing") < out.index("batch-size")


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = judging.Judge.judge, 0

    def judge(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(judging.Judge, "judge", judge)
    run = ["mutate", SPEC, "--suite=small.yaml", "--edits=head-zero,head-half,value-scaled"]
    assert call(*run) == 2
    seen = capsys.readouterr()
    assert "interrupted; the same command continues" in seen.err
    assert "Interrupted: 4 edits were not tried" in seen.out
    path = Path("reports/mutate-builtin-induction-2l/mutation.json")
    first = json.loads(path.read_text())
    assert first["status"] == "interrupted" and len(first["outcomes"]) == 2
    assert first["not_tried"][0] == f"head-half {INDUCTION}"
    # Only the rest is measured, and what was kept is as it was.
    assert call(*run) == 0 and calls == 3 + 4
    second = json.loads(path.read_text())
    assert [one["cached"] for one in second["outcomes"]] == [True, True, *[False] * 4]
    for old, new in zip(first["outcomes"], second["outcomes"]):
        assert {**old, "cached": True} == new
    assert call(*run) == 0 and calls == 7
    assert call(*run, "--no-cache") == 0 and calls == 13


def test_python_gets_the_interruption(
    model: Model, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = model.embedding.detach().clone()
    monkeypatch.setattr(judging.Judge, "judge", stop)
    with pytest.raises(KeyboardInterrupt):
        icl_bench.mutate(model, [suite], edits=["int3"], report_dir="reports")
    assert list(Path("reports").glob("mutate-*/mutation.json"))
    assert torch.equal(model.embedding, before)


def test_a_model_that_is_not_measured_is_an_error(
    model: Model, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write_text(SMALL.replace("period: 12", "period: 300"))
    with pytest.raises(icl_bench.IclError, match="does not fit into the model's context of"):
        icl_bench.mutate(model, [suite])
    monkeypatch.setattr(model, "no_heads", "mamba is a state-space model: it has no heads")
    suite.write_text(SMALL)
    with pytest.raises(ModelError, match="no edit can be planted: mamba"):
        icl_bench.mutate(model, [suite])


def test_the_circuit_and_idle_heads_are_found(model: Model) -> None:
    circuit = find_circuit(model, 25, 0)
    assert circuit.induction == (1, 4) and circuit.previous == (0, 9)
    assert len(circuit.idle) == 2 and not {(1, 4), (0, 9)} & set(circuit.idle)
    assert circuit.places(EDITS["head-zero"]) == [(1, 4), (0, 9)]
    assert circuit.places(EDITS["int4"]) == [None]


def test_the_true_change_is_that_of_whole_passes(model: Model) -> None:
    """Against losses computed from the edited module's own logits, without prefix reuse."""
    seen = watch(model, 12, 0, [1])
    assert 1 in seen.repeats.streams
    ground = Ground(model, 12)

    def gains() -> np.ndarray:
        with torch.no_grad():
            logits = model.model(input_ids=seen.varied.input_ids).logits.double()
        nll = -logits.log_softmax(-1)[:, :-1].gather(-1, seen.varied.input_ids[:, 1:, None])
        values = []
        for row, (first, second, size) in enumerate(
            zip(seen.varied.first, seen.varied.second, seen.varied.block)
        ):
            place = seen.varied.prefix - 1
            start = [int(one) + 1 + place for one in (first, second)]
            copies = [float(nll[row, at : at + int(size) - 1].mean()) for at in start]
            values.append(copies[0] - copies[1])
        return np.array(values)

    before = gains()
    with planted(EDITS["head-half"], ground, (1, 4)) as site:
        found, after = seen.compare(site)["gain"], gains()
    # A quarter of the sequences decides.
    quarter = len(before) // 4
    assert found.value == pytest.approx(float((after - before)[:quarter].mean()), abs=1e-4)
    with planted(EDITS["head-90"], ground, (0, 9)) as site:
        found, after = seen.compare(site)["gain"], gains()
    assert found.value == pytest.approx(float((after - before).mean()), abs=1e-4)
    assert found.delta == pytest.approx(0.02 * float(before.mean()), rel=1e-3)
    assert found.low is not None and found.high is not None
    assert found.low < float((after - before).mean()) < found.high
    assert seen.no_text is not None and "does not know the words" in seen.no_text


def test_changed_is_wholly_beyond_and_neutral_wholly_inside() -> None:
    def difference(low: float, high: float) -> Difference:
        return Difference((low + high) / 2, low, high, 0.1)

    states = {
        (0.11, 0.3): "changed",
        (-0.3, -0.11): "changed",
        (-0.09, 0.09): "neutral",
        (0.05, 0.15): "unclear",
        (-0.2, 0.2): "unclear",
    }
    for bounds, state in states.items():
        assert difference(*bounds).state == state
    assert Difference(None, None, None, 0.1).state == "changed"
    small, large, either = difference(-0.01, 0.01), difference(1, 2), difference(0, 0.2)
    assert state_of([small, small]) == "neutral" and state_of([small, large]) == "changed"
    assert state_of([either, small]) == "unclear" and state_of([either, large]) == "changed"
    assert behaviour.TEXT_DELTA == 0.02


def outcome(edit: str, verdict: Any, change: Any, **more: Any) -> Outcome:
    return Outcome(edit, "1.4", EDITS[edit].change, verdict, change, **more)


def test_figures_count_what_changed_and_what_is_neutral(tmp_path: Path) -> None:
    moved = Moved(-1.0, -1.2, -0.8, 0.1)
    mutation = Mutation("mine", ["gate"], 9, 9, 10.0)
    mutation.outcomes = [
        outcome("head-zero", "killed", "changed", killed_by=("a",), gain=moved, seconds=2.0),
        outcome("head-half", "survived", "changed", gain=moved, reason="a check on x", seconds=8.0),
        outcome("head-90", "killed", "unclear", killed_by=("a", "b", "c", "d"), seconds=5.0),
        outcome("int8", "false alarm", "neutral", killed_by=("b",)),
        outcome("batch-size", "passed", "neutral", neutral=True),
        outcome("shift", "absent", None, reason="its positions are not rotary"),
    ]
    assert mutation.kill_rate == 0.5 and mutation.pace == pytest.approx(0.5)
    text = mutation_text(mutation, width=160)
    assert "Kill rate: 1 of 2 edits that changed behaviour (50%)" in text
    assert "False alarms: 1 of 2 neutral edits (int8 1.4)" in text
    assert "survived: head-half 1.4; would have caught it: a check on x" in text
    assert "not clear whether they changed behaviour: 1" in text
    assert "a, b, c and 1 more" in text and "Not in this family: shift" in text
    assert "Text" not in text.splitlines()[2]
    assert max(map(len, mutation_text(mutation, width=80).splitlines())) <= 80
    assert [block.title for block in blocks(mutation)] == [
        *("Verdict", "Survivors", "Edits", "What noticed", "Not in this family"),
        "What the edits do",
    ]
    written = write_mutation(mutation, tmp_path / "new")
    assert [path.name for path in written] == ["mutation.html", "mutation.md", "mutation.json"]
    assert "-1.000 [-1.200, -0.800]" in written[1].read_text()
    for one in mutation.outcomes:
        assert Outcome.read(json.loads(json.dumps(one.as_data()))) == one


def test_what_lies_below_an_edit_is_not_computed_again(model: Model, suite: Path) -> None:
    """The same record with and without, to rounding; only the edit above layer 0 starts later."""
    job = Job(Request(models=[model], suites=[find_suite(suite)], prefix=""))
    job.check()
    job.prepare()
    [run] = job.runs.values()
    baseline, ground = run.run(), Ground(model, 12)
    [spec] = job.specs.values()
    judges = [judging.Judge(baseline, spec, Setup(job.plan)) for _ in range(2)]
    watch(model, 12, 0, [1])
    prefixes = judges[1].remember(model, {0, 1})
    assert prefixes.layers == (1,) and prefixes.used == 0
    for name, head, reused in (("head-90", (1, 4), True), ("head-90", (0, 9), False)):
        before, records = prefixes.used, []
        with planted(EDITS[name], ground, head) as site:
            for judge in judges:
                edited = judging._open(site, judge._prefixes)
                records.append(judge._run(edited, "x"))
            plain, short = (one.run() for one in records)
        assert (prefixes.used > before) is reused
        for key, measured in plain.measurements.items():
            for metric, value in measured.metrics.items():
                other = short.measurements[key].metrics[metric]
                assert other.value == pytest.approx(value.value, abs=1e-5)
            assert len(measured.heads) == len(short.measurements[key].heads) or not measured.heads
            for row, same in zip(measured.heads, short.measurements[key].heads):
                assert row == pytest.approx(same, abs=1e-5)


def test_a_pass_that_changes_something_or_is_watched_runs_whole(model: Model) -> None:
    ids = torch.arange(4, 24)[None]
    prefixes = Prefixes(model.anatomy.modules, (1,))
    hooks = ForwardHooks()
    assert prefixes.find(ids, hooks, 1) is None  # never seen
    stream = Stream(1, torch.zeros(1, 20, 8), False)
    prefixes.remember(ids, hooks, {1: stream})
    assert prefixes.find(ids, hooks, 1) is not None
    assert prefixes.find(ids + 1, hooks, 1) is None
    assert prefixes.find(ids, ForwardHooks(stop_after=0), 1) is None
    assert prefixes.find(ids, ForwardHooks(keep_outputs=[1]), 1) is None
    assert prefixes.find(ids, ForwardHooks(swap=lambda *given: given), 1) is None
    handle = model.anatomy.modules[1].register_forward_pre_hook(lambda *_: None)
    assert prefixes.find(ids, hooks, 1) is None
    handle.remove()
    small = Prefixes(model.anatomy.modules, (1,), room=10)
    small.remember(ids, hooks, {1: stream})
    assert small.find(ids, hooks, 1) is None
