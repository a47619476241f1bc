"""Seeded mutations of every input: refused by one message with its place, or used to the end."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from icl_bench.errors import SettingsError, SpecError, SuiteError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import read_size
from icl_bench.suite import load_suite

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [
        ("faulty_models", "mutate_models", 60),
        ("faulty_records", "mutate_records", 6),
        ("faulty_suites", "mutate_suites", 60),
        ("faulty_options", "mutate_options", 200),
        ("faulty_options", "mutate_commands", 8),
    ],
)
def test_a_share_of_each_generator_escapes_nowhere(
    generator, tmp_path: Path, module: str, name: str, count: int
) -> None:
    outcome = getattr(generator(module), name)(count, tmp_path)
    assert outcome.escaped == [] and outcome.tried == count
    assert outcome.told + outcome.accepted == count and outcome.told > 0 < outcome.accepted


def test_the_generators_do_not_depend_on_anything_but_their_seed(generator) -> None:
    suites, mutations = generator("faulty_suites"), generator("yaml_mutations")
    texts = [mutations.mutate_yaml(suites.SMALL, random.Random(4)) for _ in range(2)]
    assert texts[0] == texts[1] != suites.SMALL.encode()


def test_what_escapes_is_noticed(
    generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = generator("faulty_suites")
    monkeypatch.setattr(suites, "mutate_yaml", lambda text, draw: suites.SMALL.encode())
    monkeypatch.setattr(suites, "explain_undecided", lambda outcomes: None)
    monkeypatch.setattr(suites, "evaluate", _skipped(suites.evaluate))
    outcome = suites.mutate_suites(3, tmp_path)
    assert len(outcome.escaped) == 3 and "nothing was decided" in outcome.escaped[0]
    messages = generator("mutations").explain_message
    assert messages("one line") is None
    assert "control" in messages("a\x1b[1m") and "2 lines" in messages("a\nb")
    assert "order" in messages("::error::x") and messages(" ") == "an empty message"


def _skipped(evaluate: Any) -> Any:
    def skip(*given: Any) -> Any:
        return evaluate(*given).model_copy(update={"verdict": "skipped"})

    return skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("above: 1e200", "x.yaml:6:50: 1e200 is too large; at most 1e+100"),
        ("between: [0, -1e308]", "-1e308 is too large; at most 1e+100"),
        ("above: !!float 1e999", "1e999 is too large"),
    ],
)
def test_a_number_that_no_record_holds_is_refused_in_a_suite(
    tmp_path: Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(
        "icl_suite: 1\nname: x\nmeasure:\n  r: {probe: induction}\nchecks:\n"
        f"  - {{id: a, on: r, metric: induction_max, {line}}}\n"
    )
    with pytest.raises(SuiteError) as refused:
        load_suite("x.yaml")
    assert message in str(refused.value)


def test_a_score_that_is_no_name_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "icl_suite: 1\nname: x\nmeasure:\n  r: {probe: induction}\n"
        "  a: {probe: ablation, heads: {from: r, top: 2, by: [x]}}\n"
    )
    with pytest.raises(SuiteError, match="by"):
        load_suite(path)


@pytest.mark.parametrize("text", ["9" * 400 + "GB", "1" * 19 + "t"])
def test_a_size_beyond_any_disk_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="more than any disk holds"):
        read_size(text, "--cache-limit")


def test_a_spec_that_no_path_can_be_is_one_message() -> None:
    for text, why in {
        "./" + "/a" * 3000: "6,002 characters",
        "model\ud800": "control character",
        "n\ud800=org/name": "control character",
    }.items():
        with pytest.raises(SpecError, match=why):
            parse_spec(text)


@pytest.mark.parametrize("text", ["./{}", "~/{}/x", "./{}.gguf", "./{}@*", "./{}@step1"])
def test_a_name_that_no_file_system_takes_is_one_message(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_spec(parse_spec(text.format("m" * 400)))
    assert "\n" not in str(refused.value)
