"""NaN, infinity and what is no data: an error with a name in it, never a null and never a pass."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import families
import numpy as np
import pytest
import torch
from conftest import Stage
from test_render_records import make_record
from trained import write_suite

import icl_bench
from icl_bench.errors import RecordError
from icl_bench.integrations import Reaches, TrainingGate
from icl_bench.probes import PROBES
from icl_bench.probes.heads import induction
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.reading import read_numbers, read_record
from icl_bench.records.record import RunRecord
from icl_bench.running.results import counts_as_failure

NAN, INF = float("nan"), float("inf")


def metric(**fields: Any) -> Measurement:
    return Measurement(probe="induction", metrics={"gain": Metric(**{"value": 1, **fields})})


MADE = f"(test_finite.py:{metric.__code__.co_firstlineno + 1})"


def head(**scores: Any) -> Measurement:
    rows = [{"layer": 0, "head": 0, "induction": 0.5}, {"layer": 1, "head": 0, **scores}]
    return Measurement(probe="induction", heads=rows)


def table(value: Any) -> Measurement:
    return Measurement(probe="induction", tables={"null": [{"draw": 0}, {"loss": value}]})


def later(change: Callable[[Measurement], None]) -> Measurement:
    """A measurement that is changed after it was made."""
    taken = Measurement(
        probe="induction",
        metrics={"gain": Metric(value=1)},
        heads=[{"layer": 1, "head": 0, "induction": 0.5}],
        tables={"null": [{"loss": 1.0}]},
    )
    change(taken)
    return taken


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a value": (lambda: metric(value=NAN), "metric 'gain' is nan"),
    "a value beyond floats": (lambda: metric(value=-INF), "metric 'gain' is -inf"),
    "a value of numpy": (lambda: metric(value=np.float32("nan")), "metric 'gain' is nan"),
    "a value of torch": (lambda: metric(value=torch.tensor(NAN)), "metric 'gain' is nan"),
    "an error": (lambda: metric(stderr=NAN), "metric 'gain': stderr is nan"),
    "a bound": (lambda: metric(ci_low=0, ci_high=INF), "metric 'gain': ci_high is inf"),
    "a sample": (lambda: metric(samples=[1, NAN]), "metric 'gain': samples.1 is nan"),
    "a value in a dictionary": (
        lambda: Measurement(probe="x", metrics={"gain": {"value": NAN}}),  # type: ignore[dict-item]
        "metric 'gain' is nan",
    ),
    "no value": (
        lambda: metric(value=None),
        f"Metric.value is None (Input should be a valid number) {MADE}",
    ),
    "a value of several numbers": (
        lambda: metric(value=torch.ones(2)),
        f"Metric.value is tensor([1., 1.]) (Input should be a valid number) {MADE}",
    ),
    "a score": (lambda: head(induction=NAN), "head 1.0: induction is nan"),
    "a score's error": (lambda: head(induction_stderr=INF), "head 1.0: induction_stderr is inf"),
    "a score of numpy": (lambda: head(induction=np.float64(NAN)), "head 1.0: induction is nan"),
    "a score of torch": (lambda: head(induction=torch.tensor(NAN)), "head 1.0: induction is nan"),
    "several scores": (
        lambda: head(induction=torch.ones(2)),
        "head 1.0: induction is [1.0, 1.0] ([1.0, 1.0] is not a finite number)",
    ),
    "no score": (
        lambda: head(induction=None),
        "head 1.0: induction is None (null is not a finite number)",
    ),
    "a set of scores": (
        lambda: head(induction={1}),
        "head 1.0: induction is [1] ([1] is not a finite number)",
    ),
    "a score that is an object": (
        lambda: head(induction=Path),
        "head 1.0: induction is <class 'pathlib.Path'> (type is not a finite number)",
    ),
    "a cell": (lambda: table(NAN), "table 'null', row 1: loss is nan"),
    "a cell of numpy": (lambda: table(np.float32("inf")), "table 'null', row 1: loss is inf"),
    "a cell in a list": (lambda: table((1, [NAN])), "table 'null', row 1: loss.1.0 is nan"),
    "a cell in an array": (lambda: table(np.array([1, NAN])), "table 'null', row 1: loss.1 is nan"),
    "a cell in a set": (lambda: table({NAN}), "table 'null', row 1: loss.0 is nan"),
    "a cell that is an object": (
        lambda: table(Path),
        "table 'null', row 1: loss is <class 'pathlib.Path'> (type is no plain data)",
    ),
    "a table that is none": (
        lambda: Measurement(probe="x", tables={"null": 3}),  # type: ignore[dict-item]
        "Measurement.tables.null is 3 (Input should be a valid list)",
    ),
    "a setting": (lambda: Measurement(probe="x", settings={"a": [NAN]}), "setting 'a.0' is nan"),
    "a value set later": (
        lambda: later(lambda one: setattr(one.metrics["gain"], "value", NAN)),
        "metric 'gain' is nan",
    ),
    "text for a value, set later": (
        lambda: later(lambda one: setattr(one.metrics["gain"], "value", "high")),
        "metric 'gain' is 'high' (Input should be a valid number, unable to parse string as a "
        "number)",
    ),
    "a score set later": (
        lambda: later(lambda one: one.heads[0].update(induction=NAN)),
        "head 1.0: induction is nan",
    ),
    "a cell set later": (
        lambda: later(lambda one: one.tables["null"][0].update(loss=NAN)),
        "table 'null', row 0: loss is nan",
    ),
}  # fmt: skip
RETURNED: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a dictionary": lambda: {"probe": "induction"},
}


def run_with(monkeypatch: pytest.MonkeyPatch, suite: Path, make: Callable[[], Any]) -> RunRecord:
    """Run the suite `small`, whose probe `induction` gives what `make` returns."""
    monkeypatch.setattr(induction, "PROBE", replace(induction.PROBE, measure=lambda *given: make()))
    return icl_bench.run([suite], "builtin:handwired")


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A suite with one check on a probe that is replaced, and one on another."""
    path = tmp_path / "both.yaml"
    path.write_text(
        textwrap.dedent("""\
            icl_suite: 1
            name: both
            defaults: {sequences: 4, period: 8}
            measure:
              odd: {probe: induction}
              good: {probe: losses}
              off: {probe: ablation, heads: {from: odd, top: 1}, null_sets: 0}
            checks:
              - {id: odd, on: odd, metric: induction_max, above: -1}
              - {id: good, on: good, metric: gain, above: -9}
              - {id: off, on: off, metric: gain, above: -9}
            """)
    )
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_probe_returns_is_finite_data_or_an_error_with_its_name(
    case: str, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, told = REFUSED[case]
    record = run_with(monkeypatch, both, make)
    taken = record.measurements["both/odd"]
    assert (taken.status, taken.reason) == ("error", f"probe 'induction': {told}")
    assert taken.settings["sequences"] == 4
    assert {one.id: one.verdict for one in record.checks} == {
        "odd": "error",
        "good": "pass",
        "off": "error",
    }
    assert record.checks[0].reason == taken.reason
    assert counts_as_failure(record)
    assert read_record(record.write(tmp_path / "results.json")) == record


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_no_measurement_is_an_error(
    case: str, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run_with(monkeypatch, both, RETURNED[case])
    reason = str(record.measurements["both/odd"].reason)
    assert reason.startswith("probe 'induction' broke: TypeError: it returned ")
    assert record.checks[0].verdict == "error" and record.checks[1].verdict == "pass"


def test_numbers_of_numpy_and_torch_become_those_that_are_read_again(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Measurement:
        return Measurement(
            probe="induction",
            settings={"file": Path("a/b"), "pair": (1, 2)},
            metrics={"induction_max": Metric(value=torch.tensor(0.5), exact=True)},  # type: ignore[arg-type]
            heads=[{"layer": np.int64(1), "head": torch.tensor(0), "induction": np.float32(0.25)}],
            tables={"curve": [{"step": np.int32(1), "losses": torch.ones(2), "low": None}]},
        )

    record = run_with(monkeypatch, both, make)
    taken = record.measurements["both/odd"]
    assert taken.status == "measured" and record.checks[0].verdict == "pass"
    assert taken.settings == {"file": str(Path("a/b")), "pair": [1, 2]}
    assert taken.heads == [{"layer": 1, "head": 0, "induction": 0.25}]
    assert [type(value) for value in taken.heads[0].values()] == [int, int, float]
    assert taken.tables == {"curve": [{"step": 1, "losses": [1.0, 1.0], "low": None}]}
    path = record.write(tmp_path / "results.json")
    assert read_record(path) == record
    assert read_numbers(path).measurements["both/odd"].metrics == taken.metrics


@pytest.mark.parametrize("apart", [[], ["-n", "1"]], ids=["here", "on a worker"])
def test_a_run_with_nan_ends_1_keeps_the_rest_and_can_be_read(
    stage: Stage, apart: list[str]
) -> None:
    if apart:
        pytest.importorskip("xdist")
    text = (stage.path / "mine.yaml").read_text()
    stage.write("mine.yaml", text.replace("tag: second", "tag: second, act: nan"))
    result = stage.run("--icl-model=stub:good", "mine.yaml", *apart)
    assert result.ret == 1
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*probe 'stub': metric 'level' is nan*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert stage.verdicts("stub-good") == {"high": "pass", "there": "pass", "low": "error"}
    assert {file.name for file in (stage.path / "reports" / "stub-good").iterdir()} >= {
        *("report.md", "report.html", "checks.csv", "heads.csv")
    }


def test_a_series_and_its_steps_are_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import series_probes

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROBES, "toy", "series_probes")
    for step in (1, 2, 3):
        checkpoints.write_llama(Path("runs", f"step{step}"), seed=step)
    Path("small.yaml").write_text(
        "icl_suite: 1\nname: small\ndefaults: {sequences: 4, period: 8}\n"
        "measure:\n  repeats: {probe: induction, control: false}\n"
        "  change: {probe: toy, scores: repeats}\n"
        "checks:\n  - {id: low, on: repeats, metric: induction_max, above: -1}\n"
        "  - {id: rises, on: change, metric: rise, above: -9}\n"
    )
    measure, calls = induction.measure, []

    def second_is_nan(*given: Any) -> Measurement:
        calls.append(1)
        taken = measure(*given)
        if len(calls) == 2:
            taken.heads[1]["induction"] = NAN
        return taken

    monkeypatch.setattr(induction, "PROBE", replace(induction.PROBE, measure=second_is_nan))
    record = icl_bench.run(["small.yaml"], "runs@*")
    taken = record.measurements["small/repeats"]
    (broken,) = taken.tables["broken_steps"]
    assert broken == {"step": 2, "reason": "probe 'induction': head 0.1: induction is nan"}
    assert [row["step"] for row in taken.tables["steps"]] == [1, 3]
    assert record.measurements["small/change"].status == "measured"
    assert read_record(record.write("results.json")) == record

    monkeypatch.setattr(
        series_probes,
        "measure_series",
        lambda *given: Measurement(probe="toy", metrics={"rise": Metric(value=NAN, exact=True)}),
    )
    record = icl_bench.run(["small.yaml"], "runs@*", cache=False)
    assert record.measurements["small/change"].reason.startswith(  # type: ignore[union-attr]
        "probe 'toy': metric 'rise' is nan"
    )
    assert [check.verdict for check in record.checks] == ["pass", "error"]
    assert read_record(record.write("results.json")) == record


def test_a_gate_of_a_training_run_does_not_hold_by_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        induction, "PROBE", replace(induction.PROBE, measure=lambda *given: metric(value=NAN))
    )
    gates = [Reaches("induction_max", above=-1, by_step=1)]
    gate = TrainingGate(families.build("llama"), [write_suite(tmp_path)], gates, folder=tmp_path)
    outcome = gate.check(1)
    (verdict,) = outcome.record.gates
    assert verdict.verdict == "error" and "metric 'gain' is nan" in verdict.reason
    assert outcome.path is not None
    assert read_record(outcome.path) == outcome.record


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a record at which a single value stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from places(inner, (*path, place))
    else:
        yield path


def put(record: RunRecord, path: tuple[Any, ...], value: Any) -> None:
    """Set one value of a record, as a program may."""
    inner: Any = record
    for step in path[:-1]:
        inner = getattr(inner, step) if hasattr(type(inner), "model_fields") else inner[step]
    if hasattr(type(inner), "model_fields"):
        setattr(inner, path[-1], value)
    else:
        inner[path[-1]] = value


def whole_record() -> RunRecord:
    """A record with something in every field that can hold a number."""
    record = make_record(step=3)
    taken = record.measurements["core/repeats"]
    taken.metrics["induction_max"].samples = [0.5, 0.25]
    taken.cached_steps, record.model.steps = [1, 2], [1, 2]
    taken.settings["deep"] = {"list": [1.0, {"x": 2.0}]}
    return record


@pytest.mark.parametrize("number", [NAN, INF, -INF, np.float32("nan"), torch.tensor(NAN)], ids=str)
def test_no_place_of_a_record_takes_what_is_not_finite(tmp_path: Path, number: Any) -> None:
    path = whole_record().write(tmp_path / "results.json")
    before = path.read_bytes()
    found = list(places(whole_record().model_dump()))
    assert len(found) > 300
    for place in found:
        record = whole_record()
        put(record, place, number)
        with pytest.raises(RecordError) as refused:
            record.write(path)
        named = ".".join(map(str, place)).replace("schema_version", "schema")
        assert f"{path}: not written: " in str(refused.value)
        assert named in str(refused.value) or "schema" in named, named
        assert "\n" not in str(refused.value) and path.read_bytes() == before
        with pytest.raises(RecordError):
            record.to_json()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_place_of_a_file_is_read_as_what_is_not_finite(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    written = json.loads(whole_record().to_json())
    for place in places(written):
        data = json.loads(json.dumps(written))
        inner = data
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = "HERE"
        path.write_text(json.dumps(data).replace('"HERE"', text))
        with pytest.raises(RecordError):
            read_record(path)
        if "heads" not in place and "tables" not in place and place not in (("step",),):
            with pytest.raises(RecordError):
                read_numbers(path)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("schema_version",), 99, "schema 99|later version"),
        (("status",), "done", "field status"),
        (("measurements", "core/repeats", "heads"), [{"layer": 0}], "heads.0: .* no 'head'"),
        (("measurements", "core/repeats"), 3, r"field measurements.core/repeats"),
        (("measurements", "core/repeats", "settings", "x"), Path, "settings.x: type is no plain"),
        (("measurements", "core/repeats", "settings", "x"), 10**5000, ".*"),
        (("checks", 0, "verdict"), "good", r"field checks.0.verdict"),
    ],
    ids=lambda part: "",
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, place: tuple[Any, ...], value: Any, named: str
) -> None:
    record = whole_record()
    put(record, place, value)
    with pytest.raises(RecordError, match=named):
        record.write(tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


def test_nothing_turns_nan_into_null(tmp_path: Path) -> None:
    taken = metric()
    taken.metrics["gain"].value = NAN
    assert math.isnan(taken.model_dump(mode="json")["metrics"]["gain"]["value"])
    assert "null" not in json.dumps(json.loads(taken.model_dump_json())["metrics"]["gain"]["value"])
