"""A suite that extends another is that one with what it gives itself, and says what is wrong."""

from __future__ import annotations

import fnmatch
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from icl_bench.errors import SuiteError
from icl_bench.suite import find_suite, json_schema, load_suite, shipped_suites
from icl_bench.suite.document import parse
from icl_bench.suite.printout import resolved_text

BASE = """\
icl_suite: 1
name: base
version: 3
description: The base.
defaults: {sequences: 40, seed: 1}
measure:
  repeats: {probe: induction, period: 20}
  copying: {probe: losses, varied: false}
checks:
  - {id: one, on: repeats, metric: induction_max, above: 0.4}
  - {id: two, on: repeats, metric: induction_max, above: 0.5}
  - {id: three, on: copying, metric: gain, above: 1}
quiz:
  - {id: four, prompt: P, choices: [" a", " b"], answer: " b"}
"""
HEAD = "icl_suite: 1\nname: mine\nextends: ./base.yaml\n"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    if not (folder / "base.yaml").exists():
        (folder / "base.yaml").write_text(BASE)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def ids(path: Path) -> list[str]:
    return [one.id for one in load_suite(path).assertions]


def wrong(path: Path) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_settings_merge_by_key_and_checks_by_id(tmp_path: Path) -> None:
    more = (
        "defaults: {sequences: 50}\n"
        "measure: {repeats: {period: 30}, copying: {probe: induction}, new: {probe: losses}}\n"
        "checks:\n"
        "  - {id: five, on: new, metric: gain, above: 2}\n"
        "  - {id: two, on: repeats, metric: induction_max, above: 0.6}\n"
        "  - {id: four, on: repeats, metric: induction_median, below: 0.6}\n"
        "remove: [three]\n"
    )
    suite = load_suite(write(tmp_path, HEAD + more))
    assert (suite.name, suite.version, suite.description) == ("mine", 1, None)
    settings: dict[str, Any] = {name: one.settings for name, one in suite.measure.items()}
    assert list(settings) == ["repeats", "copying", "new"]
    repeats = settings["repeats"]
    assert (repeats.sequences, repeats.seed, repeats.period) == (50, 1, 30)
    assert suite.measure["copying"].probe == "induction"  # its `varied` went with the other probe
    assert [(one.id, one.threshold) for one in suite.checks] == [
        ("one", 0.4),
        ("two", 0.6),
        ("five", 2.0),
        ("four", 0.6),
    ]
    assert suite.quiz == ()


def test_a_suite_is_where_it_says_and_what_it_takes_over_at_its_extends(tmp_path: Path) -> None:
    more = "checks:\n  - {id: two, on: repeats, metric: induction_max, above: 0.6}\n"
    suite = load_suite(write(tmp_path, HEAD + more))
    assert suite.lines == {"one": 3, "two": 5, "three": 3, "four": 3}
    (base,) = suite.extends
    shown = load_suite(tmp_path / "base.yaml")
    assert (base.name, base.version, base.sha256) == ("base", 3, shown.sha256)
    assert not base.shipped and suite.own == ("copying", "four", "one", "repeats", "three", "two")


def test_suites_can_be_extended_in_a_row(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "remove: [one]\n", "below/middle.yaml")
    (tmp_path / "below" / "base.yaml").write_text(BASE)
    path = write(
        tmp_path, "icl_suite: 1\nname: top\nextends: below/middle.yaml\nremove: [two, four]\n"
    )
    assert ids(path) == ["three"]
    assert [base.name for base in load_suite(path).extends] == ["mine", "base"]


def test_a_shipped_suite_is_extended_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "icl_suite: 1\nname: mine\nextends: core\nremove: [harry-potter]\n")
    suite, core = load_suite(path), find_suite("core")
    left = [one for one in core.assertions if one.id != "harry-potter"]
    assert list(suite.assertions) == left and suite.extends[0].shipped
    assert suite.own == ("harry-potter",)


def test_the_digest_is_that_of_the_resolved_suite(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "defaults: {sequences: 50}\nremove: [three, copying]\n")
    whole = (
        BASE.replace("name: base\nversion: 3\ndescription: The base.", "name: mine")
        .replace("sequences: 40", "sequences: 50")
        .replace("  - {id: three, on: copying, metric: gain, above: 1}\n", "")
        .replace("  copying: {probe: losses, varied: false}\n", "")
    )
    before = load_suite(path).sha256
    assert before == load_suite(write(tmp_path, whole, "whole.yaml")).sha256
    (tmp_path / "base.yaml").write_text(BASE.replace("above: 0.4", "above: 0.3"))
    assert load_suite(path).sha256 != before


def test_a_suite_can_be_written_out_resolved(tmp_path: Path) -> None:
    odd = '{"on": "yes", b: "1e3", c: "0o17", d: "null", e: "# x", f: " y", g: "12"}'
    more = (
        "quiz:\n  - {id: q, question: 'a: b', options: "
        f"{odd}, on: repeats, metric: induction_max, "
        "supports: [{option: b, above: 1.0e-7}, {option: 'on', below: 0.5}], expected: b}\n"
    )
    for path in [write(tmp_path, HEAD + more), *shipped_suites().values()]:
        suite = load_suite(path)
        again = load_suite(write(tmp_path, resolved_text(suite), "again.yaml"))
        assert again.sha256 == suite.sha256 and again.assertions == suite.assertions


def test_files_that_settings_name_are_found_from_where_they_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "text.txt").write_text("A text.\n" * 99)
    text = "measure: {text: {probe: icl_score, text: text.txt}}\n"
    (folder / "base.yaml").write_text("icl_suite: 1\nname: base\n" + text)
    path = write(tmp_path, "icl_suite: 1\nname: mine\nextends: below/base.yaml\n")
    assert load_suite(path).measure["text"].settings.text_sha256  # type: ignore[attr-defined]
    path.write_text(path.read_text() + text)
    (line,) = wrong(path)
    assert line.startswith("mine.yaml:4:") and "text.txt" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "icl_suite: 1\nname: x\nextends: cor\n",
            "mine.yaml:3:10: extends: no shipped suite and no file is called 'cor'; "
            "did you mean 'core'?",
        ),
        (
            "icl_suite: 1\nname: x\nextends: ./bse.yaml\n",
            "mine.yaml:3:10: extends: ./bse.yaml: no such suite file; did you mean 'base.yaml'?",
        ),
        ("icl_suite: 1\nname: x\nextends: .\n", "mine.yaml:3:10: extends: *: a folder; *"),
        ("icl_suite: 1\nname: x\nextends: [core]\n", "mine.yaml:3:10: extends (a list) is not *"),
        (
            "icl_suite: 1\nname: x\nextends: mine.yaml\n",
            "mine.yaml:3:10: extends goes in a circle: *mine.yaml -> *mine.yaml",
        ),
        (HEAD + "remove: [one, thre]\n", "mine.yaml:4:15: 'base' has no *; did you mean 'three'?"),
        (HEAD + "remove: [one, one]\n", "mine.yaml:4:15: 'one' is listed twice"),
        (HEAD + "remove: one\n", "mine.yaml:4:9: remove 'one' is not a list; write e.g. *"),
        (
            "icl_suite: 1\nname: x\nremove: [one]\n",
            "mine.yaml:3:1: 'remove' goes with 'extends' only",
        ),
        (
            HEAD + "remove: [repeats]\n",
            "mine.yaml:4:10: 'repeats' is removed, and *base.yaml:10 reads it: remove that too, *",
        ),
        (HEAD + "measure: {repeats: {perod: 3}}\n", "mine.yaml:4:21: unknown key 'perod'; *"),
        (HEAD + "measure: {new: {period: 3}}\n", "mine.yaml:4:16: 'probe' is missing; *"),
        (HEAD + "defaults: {perod: 3}\n", "mine.yaml:4:12: no probe has the setting 'perod'; *"),
        (
            HEAD + "checks:\n  - {id: a, on: new, metric: gain, above: 1}\n"
            "  - {id: two, on: repeats, metric: gain, above: 1}\n",
            "mine.yaml:5:17: no measurement 'new' in this suite; *|"
            "mine.yaml:6:36: probe 'induction' has no metric 'gain'; *",
        ),
        (
            HEAD + "checks:\n  - {id: a, on: copying, metric: gain, above: 1}\n"
            "  - {id: a, on: copying, metric: gain, above: 1}\n",
            "mine.yaml:6:10: id 'a' is taken by line 5",
        ),
        (
            HEAD + "defaults: {sequences: 4}\nremove: [two]\n",
            "base.yaml:10:58: induction_max can never pass * (extended by mine.yaml)",
        ),
    ],
)
def test_a_mistake_is_named_in_the_file_where_it_is(
    tmp_path: Path, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = wrong(write(tmp_path, text))
    patterns = [pattern.replace("[", "[[]") for pattern in says.split("|")]
    assert len(found) == len(patterns), found
    for line, pattern in zip(found, patterns):
        assert fnmatch.fnmatchcase(line, pattern), line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_extended_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (line,) = wrong(write(tmp_path, "icl_suite: 1\nname: x\nextends: pipe.yaml\n"))
    assert "no regular file" in line


def test_mistakes_of_the_base_are_named_there(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD)
    base = tmp_path / "base.yaml"
    base.write_text(BASE.replace("metric: gain", "metric: gian").replace("period: 20", "perod: 2"))
    first, second = wrong(path)
    assert first.startswith("base.yaml:7:31: unknown key 'perod'")
    assert second.startswith("base.yaml:12:") and second.endswith("(extended by mine.yaml)")
    base.write_text(BASE + "check: []\n")
    assert wrong(path)[0].startswith("base.yaml:15:1: unknown key 'check'")
    base.write_text(BASE + "x: [\n")
    assert wrong(path)[0].startswith("base.yaml:16:1: YAML: ")
    base.write_text("a: 1\n")
    assert wrong(path)[0].startswith("base.yaml:1:1: not a suite: ")
    base.write_text(BASE + "extends: mine.yaml\n")
    (line,) = wrong(path)
    assert line.startswith("base.yaml:15:10: extends goes in a circle: ")


def test_the_schema_knows_extends_and_remove(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    top = {"icl_suite": 1, "name": "mine", "extends": "core"}
    good = [
        top,
        top | {"remove": ["harry-potter"]},
        top | {"measure": {"repeats": {"sequences": 64}}},
        {"icl_suite": 1, "name": "mine", "measure": {"repeats": {"probe": "induction"}}},
    ]
    bad = [
        top | {"extends": ["core"]},
        top | {"remove": []},
        top | {"measure": {"repeats": {"sequencs": 64}}},
        {"icl_suite": 1, "name": "mine"},
        {"icl_suite": 1, "name": "mine", "measure": {}},
        {"icl_suite": 1, "name": "mine", "checks": [], "quiz": []},
        {"icl_suite": 1, "name": "mine", "measure": {"repeats": {"sequences": 64}}},
        good[-1] | {"remove": ["repeats"]},
    ]
    for data in [*good, *bad]:
        taken = True
        try:
            load_suite(write(tmp_path, json.dumps(data)))
        except SuiteError:
            taken = False
        assert taken == (data in good) == validator.is_valid(data), data


CHANGES: list[Any] = [
    *(None, True, -1, 1.5, "", "x", "one", "repeats", [], {}, [1], [[]], ["one"], {"a": 1}),
    *([{"id": "one"}], [{"id": ["x"]}], {"probe": "induction"}, {"repeats": None}),
]


def damage(data: Any, source: random.Random) -> str:
    """Data with up to two of its pieces dropped or replaced, as JSON."""
    data = json.loads(json.dumps(data))
    for _ in range(source.randint(0, 2)):
        inside, key = data, source.choice(list(data))
        while isinstance(inside[key], (dict, list)) and inside[key] and source.random() < 0.8:
            inside = inside[key]
            key = source.choice(list(inside if isinstance(inside, dict) else range(len(inside))))
        if source.random() < 0.3:
            del inside[key]
        else:
            inside[key] = source.choice(CHANGES)
        if not data:
            break
    return json.dumps(data, indent=1)


def test_randomly_damaged_pairs_load_or_say_where_they_are_wrong(tmp_path: Path) -> None:
    more = (
        "defaults: {sequences: 50}\nmeasure: {repeats: {period: 30}, new: {probe: losses}}\n"
        "checks:\n  - {id: two, on: new, metric: gain, above: 1}\nremove: [one, four]\n"
    )
    base, child = parse(BASE).data, parse(HEAD + more).data
    source, loaded = random.Random(1), 0
    for _ in range(120):
        (tmp_path / "base.yaml").write_text(damage(base, source))
        path = write(tmp_path, damage(child, source))
        try:
            suite = load_suite(path)
        except SuiteError as error:
            assert all(".yaml" in line for line in str(error).splitlines())
            continue
        loaded += 1
        again = load_suite(write(tmp_path, resolved_text(suite), "again.yaml"))
        assert again.sha256 == suite.sha256 and again.assertions == suite.assertions
    assert 20 < loaded < 100
