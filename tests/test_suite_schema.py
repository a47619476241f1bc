"""The JSON Schema takes what the loader takes, and refuses what an editor should mark."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from icl_bench.errors import SuiteError
from icl_bench.probes import PROBES, get_probe
from icl_bench.suite import json_schema, load_suite, shipped_suites
from icl_bench.suite.document import decode, parse

jsonschema = pytest.importorskip("jsonschema")

SUITE: dict[str, Any] = {
    "icl_suite": 1,
    "name": "core",
    "description": "Induction circuit present, causal, and used.",
    "defaults": {"sequences": 32, "period": 50},
    "measure": {
        "repeats": {"probe": "induction"},
        "collapse": {
            "probe": "ablation",
            "heads": {"from": "repeats", "where": {"induction": {"above": 0.4}}},
            "method": "mean",
            "null_draws": 99,
        },
    },
    "checks": [
        {"id": "has-heads", "on": "repeats", "metric": "induction_max", "above": 0.4},
        {"id": "collapses", "on": "collapse", "metric": "loss_ratio", "above": 2},
        {"id": "beyond-random", "on": "collapse", "metric": "null_p_value", "below": 0.05},
    ],
    "quiz": [
        {
            "id": "harry-potter",
            "prompt": "Harry Potter met Ron. Harry",
            "choices": [" Ron", " Potter"],
            "answer": " Potter",
        },
        {
            "id": "low-score",
            "question": "What does a low score mean?",
            "options": {"a": "it has the circuit", "b": "it has not"},
            "on": "repeats",
            "metric": "induction_max",
            "supports": [{"option": "a", "above": 0.4}, {"option": "b", "below": 0.2}],
            "expected": "b",
        },
    ],
}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def loads(data: Any, folder: Path) -> bool:
    """Tell whether the loader takes the data; JSON is YAML."""
    path = folder / "x.yaml"
    path.write_text(json.dumps(data))
    try:
        load_suite(path)
    except SuiteError:
        return False
    return True


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checks": SUITE["checks"][:1], "quiz": []},
        {"checks": [], "defaults": {}},
        {"version": 2},
        {"checks": [{"id": "c", "on": "repeats", "metric": "induction_max", "between": [0, 1]}]},
        {
            "checks": [
                {
                    "id": "c",
                    "on": "repeats",
                    "metric": "induction_max",
                    "equals": 1,
                    "tolerance": 0.2,
                    "models": ["gpt2"],
                    "description": "D",
                }
            ]
        },
        {
            "defaults": {"heads": [[0, 1]], "score": "mean"},
            "measure": {"repeats": {"probe": "induction"}, "a": {"probe": "ablation"}},
            "checks": [],
        },
    ],
)
def test_the_schema_takes_suites_that_load(
    validator: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    data = SUITE | changes
    assert loads(data, tmp_path)
    assert [error.message for error in validator.iter_errors(data)] == []


def test_the_schema_takes_every_shipped_suite(validator: Any) -> None:
    for path in shipped_suites().values():
        data = parse(decode(path.read_bytes())).data
        assert [error.message for error in validator.iter_errors(data)] == [], path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("icl_suite",), 2),
        (("icl_suite",), None),
        (("name",), "Core"),
        (("version",), 0),
        (("version",), "2"),
        (("version",), 1.5),
        (("unknown",), 1),
        (("checks",), 1),
        (("checks", 0, "above"), "high"),
        (("checks", 0, "above"), None),
        (("checks", 0, "below"), 1),
        (("checks", 0, "tolerance"), 1),
        (("checks", 0, "metric"), "nonsense"),
        (("checks", 0, "id"), "a b"),
        (("checks", 0, "models"), "gpt2"),
        (("checks", 0, "extra"), 1),
        (("defaults", "perod"), 1),
        (("defaults", "period"), 1),
        (("measure", "repeats", "probe"), "nonsense"),
        (("measure", "repeats", "heads"), [[0, 1]]),
        (("measure", "repeats", "period"), "50"),
        (("measure", "collapse", "method"), "zeros"),
        (("measure", "collapse", "heads"), {"from": 3}),
        (("measure", "collapse", "heads"), {"whre": 3}),
        (("measure", "a b"), {"probe": "induction"}),
        (("measure", "x"), {}),
        (("quiz", 0, "on"), "repeats"),
        (("quiz", 0, "choices"), ["a"]),
        (("quiz", 1, "supports"), []),
        (("quiz", 1, "supports", 0, "above"), "x"),
        (("quiz", 1, "supports", 0, "below"), 1),
        (("quiz", 1, "options", "b"), 1),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(
    validator: Any, tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    data = copy.deepcopy(SUITE)
    if path[0] == "checks":
        del data["quiz"]
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    assert not loads(data, tmp_path)
    assert list(validator.iter_errors(data))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "icl_suite"),
        ((), "name"),
        (("checks", 0), "id"),
        (("checks", 0), "on"),
        (("checks", 0), "above"),
        (("measure", "repeats"), "probe"),
        (("quiz", 0), "answer"),
        (("quiz", 1), "expected"),
        (("quiz", 1, "supports", 0), "option"),
    ],
)
def test_the_schema_notices_that_a_required_key_is_missing(
    validator: Any, tmp_path: Path, path: tuple[Any, ...], key: str
) -> None:
    data = copy.deepcopy(SUITE)
    parent = data
    for part in path:
        parent = parent[part]
    del parent[key]
    assert not loads(data, tmp_path)
    assert list(validator.iter_errors(data))


def test_the_schema_offers_every_probe_with_its_settings_and_every_metric() -> None:
    definitions = json_schema()["$defs"]
    offered = definitions["check"]["properties"]["metric"]["enum"]
    for name in PROBES:
        probe = get_probe(name)
        properties = definitions[f"measure.{name}"]["properties"]
        assert properties["probe"]["const"] == name
        aliases = {field.alias or key for key, field in probe.settings.model_fields.items()}
        assert set(properties) == aliases | {"probe"}
        assert set(probe.metrics) <= set(offered)


def test_the_schema_describes_its_keys() -> None:
    schema = json_schema()
    assert schema["properties"]["name"]["description"]
    for name in ("check", "prompt_item", "measured_item", "SupportEntry"):
        for key, part in schema["$defs"][name]["properties"].items():
            assert part.get("description"), f"{name}.{key}"


def test_every_reference_of_the_schema_is_defined() -> None:
    schema = json_schema()

    def references(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*(references(one) for one in part))
        if not isinstance(part, dict):
            return set()
        own = {part["$ref"]} if "$ref" in part else set()
        return own.union(*(references(one) for one in part.values()))

    defined = {f"#/$defs/{name}" for name in schema["$defs"]}
    assert references(schema) == defined
