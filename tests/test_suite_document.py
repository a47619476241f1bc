"""YAML is read as plain data with places, and hostile or odd files end in one clear problem."""

from __future__ import annotations

import math
from typing import Any

import pytest

from icl_bench.suite import document
from icl_bench.suite.document import BrokenDocument, decode, parse


def broken(text: str) -> str:
    """Return the one problem that stops the reading of `text`."""
    with pytest.raises(BrokenDocument) as caught:
        parse(text)
    problem = caught.value.problem
    return f"{problem.line}:{problem.column}: {problem.message}"


def complaints(text: str) -> list[str]:
    """Return the problems in `text` that do not stop the reading."""
    return [f"{p.line}:{p.column}: {p.message}" for p in parse(text).problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("1", 1),
        ("-7", -7),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+2.5e+1", 25.0),
        ("-.inf", float("-inf")),
        ("e3", "e3"),
        ("1e", "1e"),
        (".", "."),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("''", ""),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("=", "="),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_does(text: str, value: Any) -> None:
    read = parse(f"key: {text}\n")
    assert read.problems == []
    assert read.data == {"key": value}
    assert type(read.data["key"]) is type(value)


def test_not_a_number_is_read_as_such() -> None:
    assert math.isnan(parse("key: .nan").data["key"])


def test_keys_are_names_whatever_they_look_like() -> None:
    assert list(parse("{on: a, true: b, 1: c, 2.5: d, null: e}").data) == [
        "on",
        "true",
        "1",
        "2.5",
        "null",
    ]


def test_keys_and_values_know_their_places() -> None:
    read = parse("a: 1\nb:\n  - {c: 2}\n  - x\n")
    assert read.locate(("b",), at_key=True) == (2, 1)
    assert read.locate(("b", 0)) == (3, 5)
    assert read.locate(("b", 0, "c"), at_key=True) == (3, 6)
    assert read.locate(("b", 0, "c")) == (3, 9)
    assert read.locate(("b", 1)) == (4, 5)
    assert read.locate(("b", 0, "absent", "deeper")) == (3, 5)


def test_an_alias_stands_at_its_own_place() -> None:
    read = parse("a: &x 1\nb: *x\n")
    assert read.data == {"a": 1, "b": 1}
    assert read.locate(("b",)) == (2, 4)


def test_merge_keys_add_what_a_mapping_does_not_have_itself() -> None:
    read = parse(
        "base: &b {x: 1, y: 2}\n"
        "other: &o {<<: *b, y: 3, z: 4}\n"
        "own: {y: 9, <<: *o}\n"
        "both: {<<: [*o, *b]}\n"
    )
    assert read.problems == []
    assert read.data["own"] == {"x": 1, "y": 9, "z": 4}
    assert read.data["both"] == {"x": 1, "y": 3, "z": 4}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\na: 2\n", "2:1: duplicate key 'a'; it was given on line 1:1 before"),
        ("{a: 1, 'a': 2}", "1:8: duplicate key 'a'; it was given on line 1:2 before"),
        ("? [a]\n: 1\n", "1:3: a key must be plain text, not a list or a mapping"),
        ("a: {<<: 3}", "1:9: '<<' takes a mapping or a list of mappings"),
        ("a: {<<: [3]}", "1:10: '<<' takes a mapping or a list of mappings"),
        ("a: !!python/object/apply:os.system [x]", "1:4: tag !!python/object/apply:os.system is"),
        ("a: !!python/name:os.system x", "1:4: tag !!python/name:os.system is not allowed"),
        ("a: !thing x", "1:4: tag !thing is not allowed in a suite"),
        ("a: !!set {x}", "1:4: tag !!set is not allowed in a suite"),
        ("a: !!binary aGk=", "1:4: tag !!binary is not allowed in a suite"),
        ("a: !!int x", "1:4: 'x' does not fit the tag !!int"),
        ("a: !!bool on", "1:4: tag !!bool is not allowed in a suite"),
        ("a: 9223372036854775808", "1:4: the integer 9223372036854775808 is too large"),
        ("a: " + "9" * 5000, "1:4: the integer 99999999999999999999... is too large"),
        ('a: "\\ud800"', "1:4: half of a surrogate pair"),
    ],
)
def test_what_a_suite_may_not_hold_is_named_with_its_place(text: str, complaint: str) -> None:
    assert [one[: len(complaint)] for one in complaints(text)] == [complaint]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1, 2\nb: 3\n", "2:2: YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("a: 'x\n", "2:1: YAML: while scanning a quoted scalar: found unexpected end of stream"),
        ("a:\n\t- 1\n", "2:1: a tab cannot indent in YAML; use spaces"),
        ("a: b: c\n", "1:5: YAML: mapping values are not allowed here (put text that contains"),
        ("a: *x\n", "1:4: YAML: found undefined alias 'x'"),
        ("a: !x!y z\n", "1:4: YAML: while parsing a node: found undefined tag handle"),
        ("a: 1\n---\nb: 2\n", "2:1: a suite file holds one YAML document; a second one begins"),
        ("a: x\0y\n", "1:5: control character U+0000 is not allowed in YAML"),
        ("a: 1\r\nb: \x07\r\n", "2:4: control character U+0007 is not allowed in YAML"),
        ("a: &x [*x]\n", "1:8: an alias inside of what it stands for"),
        ("a: &x {b: *x}\n", "1:11: an alias inside of what it stands for"),
        ("a: &x {<<: *x}\n", "1:12: an alias inside of what it stands for"),
        ("a: " + "[" * 40 + "]" * 40, "1:35: nested more than 32 deep"),
        ("a: " + "[" * 100_000, "1:35: nested more than 32 deep"),
        ("- " * 5_000 + "x", "1:65: nested more than 32 deep"),
    ],
)
def test_what_is_not_yaml_ends_in_one_problem_with_its_place(text: str, problem: str) -> None:
    assert broken(text)[: len(problem)] == problem


def test_aliases_cannot_deepen_the_nesting_without_end() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [[[*a{i - 1}]]]" for i in range(1, 20)]
    assert "nested more than 32 deep once aliases are expanded" in broken("\n".join(lines))


@pytest.mark.parametrize(
    "line", ["a{i}: &a{i} [{many}]", "a{i}: &a{i} {{b: [{many}]}}", "a{i}: &a{i} {{<<: [{many}]}}"]
)
def test_a_billion_laughs_are_not_expanded(line: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 12):
        lines.append(line.format(i=i, many=", ".join([f"*a{i - 1}"] * 10)))
    assert "too large for a suite once its aliases are expanded" in broken("\n".join(lines))


def test_a_long_text_repeated_by_aliases_is_not_expanded() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]\n"
    assert "too large for a suite once its aliases are expanded" in broken(text)


@pytest.mark.parametrize(
    "raw", [b"\xef\xbb\xbfa: 1\n", b"a: 1\r\n", b"a: 1\r", b"--- \na: 1\n...\n"]
)
def test_byte_order_mark_and_any_line_ends_are_read(raw: bytes) -> None:
    assert parse(decode(raw)).data == {"a": 1}


def test_an_empty_text_has_no_data() -> None:
    assert parse("").data is None
    assert parse("# only a comment\n").data is None


@pytest.mark.parametrize(
    ("raw", "place", "part"),
    [
        ("a: 1\nb: é".encode("latin-1"), (2, 4), "not UTF-8 text (byte 0xe9); save it as UTF-8"),
        ("a: 1".encode("utf-16"), (1, 1), "not UTF-8 text"),
        (b"\x1f\x8b\x08\x00", (1, 2), "not UTF-8 text (byte 0x8b)"),
        (b"a" * (document.MAX_BYTES + 1), (1, 1), "the file is too large for a suite"),
    ],
)
def test_bytes_that_are_no_text_are_refused(raw: bytes, place: tuple[int, int], part: str) -> None:
    with pytest.raises(BrokenDocument) as caught:
        decode(raw)
    problem = caught.value.problem
    assert (problem.line, problem.column) == place
    assert part in problem.message


def test_columns_count_characters_not_bytes() -> None:
    assert parse("{é: 1, b: 2}").locate(("b",), at_key=True) == (1, 8)
