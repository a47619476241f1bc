"""`icl-bench list probes` tells every setting, and its examples are suites that load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from icl_bench.cli import main
from icl_bench.probes import Probe, get_probe, probe_names
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.suite import json_schema, load_suite
from icl_bench.suite.guide import example_of, settings_of


@pytest.mark.parametrize("name", probe_names())
def test_every_setting_is_told_and_the_example_loads(name: str, tmp_path: Path) -> None:
    probe = get_probe(name)
    settings = settings_of(probe)
    assert [one.name for one in settings] == [
        field.alias or name for name, field in probe.settings.model_fields.items()
    ]
    assert all(one.meaning for one in settings)
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"icl_suite": 1, "name": "x", "measure": example_of(probe)}, sort_keys=False)
    )
    assert load_suite(path).measure["mine"].probe == name
    # What is told of a default is what it is.
    given = {one.name: yaml.safe_load(one.default) for one in settings if one.default}
    needed = {name for name, value in given.items() if value == "required"}
    assert needed == {n for n, f in probe.settings.model_fields.items() if f.is_required()}


def test_words_that_a_setting_may_be_are_told() -> None:
    told = {one.name: one.values for one in settings_of(get_probe("sweep"))}
    assert told["method"] == ("zero", "mean", "resample") and told["period"] == ()


def test_a_probe_of_another_package_is_told_as_far_as_it_says() -> None:
    class Settings(StrictSettings):
        secret: int
        size: int = 3

    probe = Probe("theirs", Settings, {})
    assert [(one.name, one.default) for one in settings_of(probe)] == [
        ("secret", "required"),
        ("size", "3"),
    ]
    assert example_of(probe) == {"mine": {"probe": "theirs", "secret": "..."}}


def test_the_list_shows_settings_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "probes", "composition"]) == 0
    text = capsys.readouterr().out
    assert "    period = 50\n        Tokens in a block.\n" in text
    assert "    heads = required\n" in text and "(zero, mean)" in text
    assert "        mine: {probe: composition, heads: {from: repeats, " in text
    assert main(["list", "probes", "composition", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "composition" and row["settings"][0]["name"] == "sequences"
    assert main(["list", "metrics", "losses"]) == 0
    assert "gain" in capsys.readouterr().out
    assert main(["list", "probes", "compositon"]) == 4
    assert "did you mean 'composition'?" in capsys.readouterr().err


def test_editors_are_told_too() -> None:
    definitions = json_schema()["$defs"]
    for name in probe_names():
        for key, part in definitions[f"measure.{name}"]["properties"].items():
            assert part.get("description"), f"{name}.{key}"
