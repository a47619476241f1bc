"""The `checks` and `quiz` sections of a suite."""

from __future__ import annotations

import string
from typing import Any, cast

from icl_bench.errors import nearest
from icl_bench.suite.document import PathKey
from icl_bench.suite.error_messages import keys_at, validate
from icl_bench.suite.measuring import Measurements
from icl_bench.suite.notes import Notes
from icl_bench.suite.schema import (
    RULES,
    CheckEntry,
    MeasuredItem,
    PromptItem,
)
from icl_bench.suite.specs import CheckSpec, QuizSpec, Support

SHARED_KEYS = keys_at(PromptItem) & keys_at(MeasuredItem)
PROMPT_KEYS = keys_at(PromptItem) - SHARED_KEYS
MEASURED_KEYS = keys_at(MeasuredItem) - SHARED_KEYS


def build_checks(notes: Notes, measurements: Measurements) -> tuple[CheckSpec, ...]:
    """Return the suite's checks; problems go to `notes`."""
    checks = []
    for index, data in enumerate(notes.section("checks", list)):
        path: PathKey = ("checks", index)
        entry = _validate(notes, CheckEntry, data, path)
        rule = _check_rule(notes, data, path)
        _check_target(notes, measurements, data, path)
        if entry is None or rule is None:
            continue
        check = cast(CheckEntry, entry)
        spec = CheckSpec(
            id=check.id,
            on=check.on,
            metric=check.metric,
            rule=rule,
            threshold=getattr(check, rule),
            tolerance=check.tolerance,
            models=_globs(check.models),
            description=check.description,
        )
        measurements.check_reach(check.on, check.metric, spec, (*path, rule))
        checks.append(spec)
    return tuple(checks)


def build_quiz(notes: Notes, measurements: Measurements) -> tuple[QuizSpec, ...]:
    """Return the suite's quiz items, of both forms; problems go to `notes`."""
    items = []
    for index, data in enumerate(notes.section("quiz", list)):
        path: PathKey = ("quiz", index)
        if not isinstance(data, dict):
            continue  # said by the schema of the whole file
        prompt, measured = PROMPT_KEYS & set(data), MEASURED_KEYS & set(data)
        if bool(prompt) == bool(measured):
            start = "this item mixes two forms" if prompt else "this item lacks its question"
            notes.add(path, f"{start}: {_describe_forms()}")
        elif prompt:
            items.append(_build_prompt(notes, measurements, data, index))
        else:
            items.append(_build_measured(notes, measurements, data, path))
    return tuple(item for item in items if item is not None)


def _describe_forms() -> str:
    def names(model: Any, keys: set[str]) -> str:
        fields = model.model_fields.items()
        return ", ".join(key for key, field in fields if key in keys and field.is_required())

    return (
        f"give {names(PromptItem, PROMPT_KEYS)} (the model answers) "
        f"or {names(MeasuredItem, MEASURED_KEYS)} (a measurement answers)"
    )


def _build_prompt(
    notes: Notes, measurements: Measurements, data: dict[str, Any], index: int
) -> QuizSpec | None:
    path: PathKey = ("quiz", index)
    measurements.reserve_question(data.get("id"))
    item = cast("PromptItem | None", _validate(notes, PromptItem, data, path))
    if item is None:
        return None
    twice = [i for i, choice in enumerate(item.choices) if choice in item.choices[:i]]
    for place in twice:
        message = f"choice {item.choices[place]!r} is given twice"
        notes.add((*path, "choices", place), message)
    if item.answer not in item.choices:
        hint = nearest(item.answer, item.choices)
        notes.add(
            (*path, "answer"),
            f"answer {item.answer!r} is not one of the choices; {hint}",
        )
    if twice or item.answer not in item.choices:
        return None
    options = {_letter(i): choice for i, choice in enumerate(item.choices)}
    expected = _letter(item.choices.index(item.answer))
    return QuizSpec(
        id=item.id,
        question=item.prompt,
        options=options,
        on=measurements.add_question(index, data),
        metric="margin",
        supports=(Support(expected, "above", 0.0),),
        expected=expected,
        models=_globs(item.models),
        description=item.description,
    )


def _build_measured(
    notes: Notes, measurements: Measurements, data: dict[str, Any], path: PathKey
) -> QuizSpec | None:
    item = cast("MeasuredItem | None", _validate(notes, MeasuredItem, data, path))
    _check_target(notes, measurements, data, path)
    written = data.get("supports")
    rules = [
        _check_rule(notes, support, (*path, "supports", i))
        for i, support in enumerate(written if isinstance(written, list) else [])
    ]
    _check_options(notes, data, path)
    beside = data.get("beside")
    for i, metric in enumerate(beside if isinstance(beside, list) else []):
        if isinstance(metric, str) and isinstance(data.get("on"), str):
            measurements.check_name(data["on"], metric, (*path, "beside", i))
    if item is None or None in rules:
        return None
    supports = tuple(
        Support(support.option, str(rule), getattr(support, str(rule)), support.tolerance)
        for support, rule in zip(item.supports, rules)
    )
    for i, support in enumerate(supports):
        if support.option == item.expected:
            place = (*path, "supports", i, support.rule)
            measurements.check_reach(item.on, item.metric, support, place)
    spec = QuizSpec(
        id=item.id,
        question=item.question,
        options=item.options,
        on=item.on,
        metric=item.metric,
        supports=supports,
        expected=item.expected,
        beside=tuple(item.beside or ()),
        models=_globs(item.models),
        description=item.description,
    )
    measurements.check_supports(spec, path)
    return spec


def _check_options(notes: Notes, data: dict[str, Any], path: PathKey) -> None:
    """Check that `supports` and `expected` name options, whatever else is wrong with the item."""
    options, expected = data.get("options"), data.get("expected")
    written = data.get("supports")
    supports = written if isinstance(written, list) else []
    named = [one.get("option") if isinstance(one, dict) else None for one in supports]
    if not isinstance(options, dict):
        return
    for i, option in enumerate(named):
        if isinstance(option, str) and option not in options:
            message = f"option {option!r} is not one of the options; {nearest(option, options)}"
            notes.add((*path, "supports", i, "option"), message)
    if not isinstance(expected, str):
        return
    if expected not in options:
        message = f"expected {expected!r} is not one of the options; {nearest(expected, options)}"
        notes.add((*path, "expected"), message)
    elif expected not in named:
        message = f"nothing in 'supports' can speak for the expected option {expected!r}"
        notes.add((*path, "expected"), message)


def _validate(notes: Notes, model: type[Any], data: Any, path: PathKey) -> Any:
    if not isinstance(data, dict):
        return None  # said by the schema of the whole file
    entry, findings = validate(model, data)
    for one in findings:
        notes.add((*path, *one.path), one.message, one.at_key)
    return entry


def _check_target(notes: Notes, measurements: Measurements, data: Any, path: PathKey) -> None:
    """Check `on` and `metric` of an entry, whatever else is wrong with it."""
    if isinstance(data, dict) and isinstance(data.get("on"), str) and data["on"]:
        metric = data.get("metric")
        if isinstance(metric, str) and metric:
            measurements.check_metric(data["on"], metric, path)
        else:
            measurements.probe_of(data["on"], (*path, "on"))


def _check_rule(notes: Notes, data: Any, path: PathKey) -> str | None:
    """Return the one rule of an entry; None, and a problem noted, when it has none or several."""
    if not isinstance(data, dict):
        return None
    rules = [key for key in data if key in RULES]
    if not rules:
        notes.add(path, f"no rule; give one of {', '.join(RULES)}, e.g. above: 0.4")
        return None
    for extra in rules[1:]:
        message = f"{extra!r} is a second rule beside {rules[0]!r}; give exactly one"
        notes.add((*path, extra), message, at_key=True)
    if "tolerance" in data and "equals" not in rules:
        message = f"'tolerance' goes with 'equals' only, not with {rules[0]!r}"
        notes.add((*path, "tolerance"), message, at_key=True)
    bounds = data.get("between")
    if isinstance(bounds, list) and len(bounds) == 2:
        numbers = [b for b in bounds if isinstance(b, (int, float)) and not isinstance(b, bool)]
        if len(numbers) == 2 and numbers[0] >= numbers[1]:
            message = f"between [{bounds[0]}, {bounds[1]}]: the first must be the lower number"
            notes.add((*path, "between"), message)
    return str(rules[0])


def _globs(models: list[str] | None) -> tuple[str, ...] | None:
    return None if models is None else tuple(models)


def _letter(index: int) -> str:
    """Return the key of a choice: a to z, then aa, ab ..."""
    first, last = divmod(index, 26)
    return (_letter(first - 1) if first else "") + string.ascii_lowercase[last]
