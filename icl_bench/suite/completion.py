"""JSON Schema (draft 2020-12) of the suite format, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from icl_bench.probes import Probe, get_probe, probe_names
from icl_bench.suite.guide import settings_of
from icl_bench.suite.schema import (
    ENTRY_NAME,
    RULES,
    VERSION,
    CheckEntry,
    MeasuredItem,
    PromptItem,
    SuiteFile,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a suite file, every probe's settings included.

    It accepts every suite that `load_suite` accepts; names that must exist elsewhere in
    the file are beyond it.
    """
    probes = [get_probe(name) for name in probe_names()]
    definitions: dict[str, Any] = {}
    schema = _describe(SuiteFile, definitions)
    check = _describe(CheckEntry, definitions)
    measured = _describe(MeasuredItem, definitions)
    prompt = _describe(PromptItem, definitions)
    settings = {probe.name: _describe(probe.settings, definitions, probe.name) for probe in probes}
    metrics = sorted({metric for probe in probes for metric in probe.metrics})
    for entry in (check, measured):
        entry["properties"]["metric"]["enum"] = metrics
    _restrict_rules(check)
    _restrict_rules(definitions["SupportEntry"])

    parts = schema["properties"]
    parts["icl_suite"]["const"] = VERSION
    every = _defaults(list(settings.values()))
    parts["defaults"].update(properties=every, additionalProperties=False)
    parts["measure"].update(
        propertyNames={"pattern": ENTRY_NAME},
        additionalProperties={
            "type": "object",
            "oneOf": [
                *({"$ref": f"#/$defs/measure.{probe.name}"} for probe in probes),
                {"$ref": "#/$defs/change"},
            ],
        },
    )
    parts["measure"].pop("patternProperties", None)
    parts["checks"]["items"] = {"$ref": "#/$defs/check"}
    parts["quiz"]["items"] = {
        "oneOf": [{"$ref": "#/$defs/prompt_item"}, {"$ref": "#/$defs/measured_item"}]
    }
    definitions.update(check=check, prompt_item=prompt, measured_item=measured)
    for probe in probes:
        definitions[f"measure.{probe.name}"] = _measurement(probe, settings[probe.name])
    definitions["change"] = {
        "title": "changed settings of a measurement of the suite that is extended",
        "type": "object",
        "properties": {key: part for key, part in every.items() if key != "probe"},
        "additionalProperties": False,
    }
    _require_content(schema)
    schema["title"] = "icl_bench suite"
    return {"$schema": DIALECT, **schema, "$defs": definitions}


def _require_content(schema: dict[str, Any]) -> None:
    """Require what a suite cannot do without, or another suite that it extends."""
    schema["anyOf"] = [
        {"required": ["extends"]},
        {"required": ["measure"], "properties": {"measure": {"minProperties": 1}}},
        *(
            {"required": [name], "properties": {name: {"minItems": 1}}}
            for name in ("checks", "quiz")
        ),
    ]
    # Only a suite that extends another one may leave out what that one says.
    schema["dependentRequired"] = {"remove": ["extends"]}
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = {
        "properties": {"measure": {"additionalProperties": {"required": ["probe"]}}},
    }


def _describe(
    model: type[BaseModel], definitions: dict[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return a model's schema; what it refers to goes to `definitions`, under the prefix."""
    prefix = prefix and prefix + "."
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions[prefix + name] = _drop_null_defaults(definition)
    return _drop_null_defaults(schema)


def _drop_null_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Take out `default: null`: editors would offer it, and the loader refuses it."""
    for part in schema.get("properties", {}).values():
        if part.get("default", ...) is None:
            del part["default"]
    return schema


def _restrict_rules(entry: dict[str, Any]) -> None:
    entry["oneOf"] = [{"required": [rule]} for rule in RULES]
    entry["dependentRequired"] = {"tolerance": ["equals"]}


def _measurement(probe: Probe, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a measurement with one probe, with a word on each setting."""
    for setting in settings_of(probe):
        if setting.meaning:
            settings["properties"][setting.name].setdefault("description", setting.meaning)
    name = {"const": probe.name, "description": probe.summary or probe.name}
    schema = dict(settings, title=f"measurement with probe {probe.name}")
    schema["properties"] = {"probe": name, **settings["properties"]}
    # A setting without a default may also stand in the suite's `defaults`.
    schema["required"] = ["probe"]
    return schema


def _defaults(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return setting -> schema over all probes; where probes differ, either will do."""
    ways: dict[str, list[dict[str, Any]]] = {}
    for schema in settings:
        for key, part in schema["properties"].items():
            part = {name: value for name, value in part.items() if name != "default"}
            if part not in ways.setdefault(key, []):
                ways[key].append(part)
    return {key: parts[0] if len(parts) == 1 else {"anyOf": parts} for key, parts in ways.items()}
