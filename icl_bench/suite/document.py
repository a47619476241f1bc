"""YAML text -> plain data, with the line and column of every key and value.

The reader takes the part of YAML that a suite needs and reads scalars as YAML 1.2 does:
only `true` and `false` are booleans (YAML 1.1 would make the key `on` one), `1e-3` is a
number, dates stay text. Nothing is constructed but dicts, lists, strings, numbers,
booleans and None.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from icl_bench.suite.problems import Problem, show_value

MAX_BYTES = 1_000_000
"""Largest file read."""
MAX_DEPTH = 32
"""Deepest nesting; a suite needs about 8."""
MAX_EXPANDED = 4_000_000
"""Characters, plus `NODE_COST` a node, once every alias is written out."""
NODE_COST = 20
MAX_NUMBER = 1e100
"""Largest number, as in records, which hold every threshold and setting."""

PathKey = tuple[str | int, ...]
"""Keys and list indices from the top of the file to a value."""

_TAG = "tag:yaml.org,2002:"


class BrokenDocument(Exception):
    """The text cannot be read as data at all; carries the one problem that stopped it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class Document:
    """Data of one file, where each piece of it stands, and what was wrong on the way."""

    data: Any = None
    keys: dict[PathKey, tuple[int, int]] = field(default_factory=dict)
    values: dict[PathKey, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    file: Path | None = None
    """The file, where it is from one that is known."""
    origins: dict[PathKey, Path] = field(default_factory=dict)
    """Of several files put together: the file of each piece that is from another one."""
    removed: dict[str, Problem] = field(default_factory=dict)
    """Of several files put together: name of what one leaves out -> where it says so."""

    def locate(self, path: PathKey, at_key: bool = False) -> tuple[int, int]:
        """Return (line, column) of the value at `path`, or of its key; of its parent if absent."""
        places = self.keys if at_key else self.values
        while path and path not in places:
            path, places = path[:-1], self.values
        return places.get(path, (1, 1))

    def file_of(self, path: PathKey) -> Path | None:
        """Return the file of the piece that `locate` finds; None where it is not known."""
        while path and path not in self.values and path not in self.keys:
            path = path[:-1]
        return self.origins.get(path, self.file)


def decode(raw: bytes) -> str:
    """Return the text of a suite file.

    Args:
        raw: the file's bytes; a UTF-8 byte order mark is dropped.

    Raises:
        BrokenDocument: the file is too large or not UTF-8.
    """
    if len(raw) > MAX_BYTES:
        message = f"the file is too large for a suite ({len(raw)} bytes; at most {MAX_BYTES})"
        raise BrokenDocument(Problem(1, 1, message))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        message = f"not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
        raise BrokenDocument(Problem(*_line_column(before), message)) from None


def parse(text: str) -> Document:
    """Read YAML text.

    Duplicate keys, foreign tags and the like are listed in the result's `problems`.

    Args:
        text: the whole file; an empty one gives None as data.

    Raises:
        BrokenDocument: not YAML, nested too deeply, or too large once aliases are expanded.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        message = f"control character U+{ord(text[error.position]):04X} is not allowed in YAML"
        place = _line_column(text[: error.position])
        raise BrokenDocument(Problem(*place, message)) from None
    except yaml.MarkedYAMLError as error:
        raise BrokenDocument(_explain(error)) from None
    document = Document()
    if node is not None:
        document.data = _Reader(document).read(node, ())
    return document


def _line_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _start(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _explain(error: yaml.MarkedYAMLError) -> Problem:
    problem = error.problem or str(error)
    mark: Any = error.problem_mark or error.context_mark
    context = error.context or ""
    if "expected a single document" in context:
        message = "a suite file holds one YAML document; a second one begins here"
    elif "'\\t'" in problem:
        message = "a tab cannot indent in YAML; use spaces"
    elif "mapping values are not allowed" in problem:
        message = f"YAML: {problem} (put text that contains ': ' in quotes)"
    else:
        message = f"YAML: {context}: {problem}" if context else f"YAML: {problem}"
    return Problem(mark.line + 1, mark.column + 1, " ".join(message.split()))


class _Loader(yaml.SafeLoader):
    """Composes nodes; never constructs objects."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth >= MAX_DEPTH:
            raise BrokenDocument(Problem(*_start(event), f"nested more than {MAX_DEPTH} deep"))
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and isinstance(event, yaml.AliasEvent):
            node = copy.copy(node)  # the same content, but problems point at the alias
            node.start_mark = event.start_mark
        return node


for _tag, _pattern, _first in [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"""(?x: [-+]? (?: \.[0-9]+ | [0-9]+ (?:\.[0-9]*)? ) (?: [eE][-+]?[0-9]+ )?
               | [-+]? \.(?: inf|Inf|INF ) | \.(?: nan|NaN|NAN ) )""",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
]:
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))

SCALARS = _Loader.yaml_implicit_resolvers
"""How plain scalars are read, as PyYAML has it."""


class _Reader:
    """Turns nodes into data and notes where each key and value stands."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.spent = 0
        self.open: list[int] = []

    def read(self, node: yaml.Node, path: PathKey) -> Any:
        self._spend(node)
        self.document.values.setdefault(path, _start(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if len(self.open) >= MAX_DEPTH or id(node.value) in self.open:
            # An alias shares its content with the anchor, so that content marks a cycle.
            what = "an alias inside of what it stands for" if id(node.value) in self.open else None
            message = what or f"nested more than {MAX_DEPTH} deep once aliases are expanded"
            raise BrokenDocument(Problem(*_start(node), message))
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _TAG + kind:
            self._complain(node, f"tag {_show_tag(node.tag)} is not allowed in a suite")
        self.open.append(id(node.value))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        finally:
            self.open.pop()

    def _mapping(self, node: yaml.MappingNode, path: PathKey) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[yaml.MappingNode] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.extend(self._merge_sources(value_node))
                continue
            key = self._key(key_node)
            if key is None:
                continue
            here = (*path, key)
            if key in data:
                line, column = self.document.keys[here]
                self._complain(
                    key_node,
                    f"duplicate key {key!r}; it was given on line {line}:{column} before",
                )
                continue
            self.document.keys[here] = _start(key_node)
            data[key] = self.read(value_node, here)
        for source in merged:
            self._merge(source, data, path)
        return data

    def _key(self, node: yaml.Node) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._complain(node, "a key must be plain text, not a list or a mapping")
            return None
        # Whatever a key looks like (on, yes, 1), it is a name.
        return self._text(node)

    def _merge_sources(self, node: yaml.Node) -> list[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            self._spend(source)
            if not isinstance(source, yaml.MappingNode):
                self._complain(source, "'<<' takes a mapping or a list of mappings")
        return [source for source in sources if isinstance(source, yaml.MappingNode)]

    def _merge(self, source: yaml.MappingNode, data: dict[str, Any], path: PathKey) -> None:
        """Add the keys of a `<<` mapping that `data` does not have itself."""
        if id(source.value) in self.open:
            message = "an alias inside of what it stands for"
            raise BrokenDocument(Problem(*_start(source), message))
        inner: list[yaml.MappingNode] = []
        for key_node, value_node in source.value:
            self._spend(key_node)
            if key_node.tag == _TAG + "merge":
                inner.extend(self._merge_sources(value_node))
                continue
            key = self._key(key_node)
            if key is not None and key not in data:
                self.document.keys[(*path, key)] = _start(key_node)
                data[key] = self.read(value_node, (*path, key))
        self.open.append(id(source.value))
        for one in inner:
            self._merge(one, data, path)
        self.open.pop()

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool" and node.value.lower() in ("true", "false"):
                return node.value.lower() == "true"
            if kind == "int":
                return self._integer(node)
            if kind == "float":
                return self._float(node)
            if kind in ("str", "merge"):
                return self._text(node)
        except ValueError:
            self._complain(node, f"{show_value(node.value)} does not fit the tag !!{kind}")
            return None
        self._complain(node, f"tag {_show_tag(node.tag)} is not allowed in a suite")
        return None

    def _integer(self, node: yaml.ScalarNode) -> int:
        text = node.value.lower()
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Python refuses to read very long integers, and no setting takes more than 64 bits.
        number = int(text, base) if len(text) <= 30 else 2**64
        if not -(2**63) <= number < 2**63:
            self._complain(node, f"the integer {text[:20]}{'...' * (len(text) > 20)} is too large")
            return 0
        return number

    def _float(self, node: yaml.ScalarNode) -> float:
        number = float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))
        written_out = node.value.lower().lstrip("+-").startswith(".inf")
        if abs(number) > MAX_NUMBER and not written_out:
            self._complain(node, f"{node.value:.40} is too large; at most {MAX_NUMBER:g}")
            return 0.0
        return number

    def _text(self, node: yaml.ScalarNode) -> str:
        try:
            # "\ud83d\ude00" in quotes is one character written as JSON does, in two halves.
            text: str = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            return text
        except UnicodeDecodeError:
            self._complain(node, "half of a surrogate pair (\\ud800 to \\udfff) is not a character")
            return ""

    def _spend(self, node: yaml.Node) -> None:
        self.spent += NODE_COST
        if isinstance(node, yaml.ScalarNode):
            self.spent += len(node.value)
        if self.spent > MAX_EXPANDED:
            message = "the file is too large for a suite once its aliases are expanded"
            raise BrokenDocument(Problem(*_start(node), message))

    def _complain(self, node: yaml.Node, message: str) -> None:
        self.document.problems.append(Problem(*_start(node), message))


def _show_tag(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
