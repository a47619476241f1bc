"""A series probe in a suite: its sources are measurements of the same suite, or it is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from icl_bench.errors import SuiteError
from icl_bench.probes import PROBES, get_probe
from icl_bench.suite import json_schema, load_suite
from icl_bench.suite.plan import make_plan

HEAD = "icl_suite: 1\nname: small\n"
MEASURE = """\
measure:
  repeats: {probe: induction}
  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 0}
  change: {probe: toy, scores: repeats, losses: off}
"""
CHECKS = "checks:\n  - {id: rises, on: change, metric: rise, above: 0}\n"


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROBES, "toy", "series_probes")


def write(measure: str = MEASURE, checks: str = CHECKS, name: str = "small") -> Path:
    path = Path(f"{name}.yaml")
    path.write_text(HEAD.replace("small", name) + measure + checks)
    return path


def test_a_probe_knows_whether_it_is_about_a_series() -> None:
    assert get_probe("toy").is_series and get_probe("toy").sources == {"scores": "induction"}
    assert not get_probe("induction").is_series and get_probe("induction").sources == {}


def test_a_suite_with_a_series_probe_loads_and_is_planned() -> None:
    plan = make_plan([load_suite(write())])
    planned = plan.measurements["small/change"]
    assert planned.series and dict(planned.sources) == {
        "scores": "small/repeats",
        "losses": "small/off",
    }
    assert list(plan.measurements) == ["small/repeats", "small/off", "small/change"]
    assert not plan.measurements["small/repeats"].series


def test_sources_are_planned_wherever_they_stand_and_known_by_what_they_are() -> None:
    moved = """\
measure:
  shift: {probe: toy, losses: none, scores: scan}
  none: {probe: ablation, heads: {from: scan, top: 1}, null_sets: 0}
  scan: {probe: induction}
"""
    checks = CHECKS.replace("change", "shift")
    plan = make_plan([load_suite(write()), load_suite(write(moved, checks, "other"))])
    digests = {key: planned.digest for key, planned in plan.measurements.items()}
    assert digests["small/change"] == digests["other/shift"]
    seeded = make_plan([load_suite(write(MEASURE.replace("induction}", "induction, seed: 4}")))])
    assert seeded.measurements["small/change"].digest != digests["small/change"]
    swapped = make_plan([load_suite(write(MEASURE.replace(", losses: off", "")))])
    assert swapped.measurements["small/change"].digest != digests["small/change"]


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("scores: repeats", "scores: repeat", "6:32", "no measurement 'repeat' in this suite; did"),
        ("losses: off", "losses: of", "6:49", "no measurement 'of' in this suite"),
        (
            "scores: repeats",
            "scores: off",
            "6:32",
            "'scores' reads a 'induction' measurement; 'off' is 'ablation'",
        ),
        (
            "losses: off",
            "losses: change",
            "6:49",
            "'change' is made from a whole series; name what is measured at a step",
        ),
        (
            "{probe: induction}",
            "{probe: induction, until: decided, max_sequences: 64}",
            "6:32",
            "a series needs the same ones at every step: leave its 'until' out",
        ),
        ("scores: repeats, ", "", "6:11", "'scores' is missing"),
    ],
)
def test_a_source_that_does_not_serve_is_named_with_its_place(
    old: str, new: str, place: str, message: str
) -> None:
    path = write(MEASURE.replace(old, new))
    with pytest.raises(SuiteError, match=re.escape(message)) as caught:
        load_suite(path)
    assert str(caught.value).startswith(f"small.yaml:{place}: ")


def test_a_source_may_be_among_the_defaults() -> None:
    measure = MEASURE.replace("scores: repeats, losses: off", "losses: off")
    path = write(f"defaults: {{scores: repeats}}\n{measure}")
    assert load_suite(path).measure["change"].settings.sources["scores"] == "repeats"  # type: ignore[attr-defined]
    path.write_text(path.read_text().replace("scores: repeats", "scores: off"))
    with pytest.raises(SuiteError, match=r"small.yaml:3:20: 'scores' reads a 'induction'"):
        load_suite(path)


def test_heads_cannot_be_chosen_from_a_series() -> None:
    path = write(MEASURE.replace("from: repeats", "from: change"))
    with pytest.raises(SuiteError, match="heads come from an 'induction'"):
        load_suite(path)


def test_the_schema_offers_a_series_probe_with_its_settings() -> None:
    definition = json_schema()["$defs"]["measure.toy"]
    assert {"probe", "scores", "losses"} <= definition["properties"].keys()
