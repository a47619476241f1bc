"""Suites: what to measure and what must hold, read from YAML with errors at line and column.

The names are loaded when they are first used: pytest asks `is_suite` about every YAML file
it meets, also in projects that have no suite, and that must not cost them pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from icl_bench.suite.catalog import is_suite, shipped_suites

if TYPE_CHECKING:
    from icl_bench.suite.completion import json_schema
    from icl_bench.suite.loading import find_suite, load_suite
    from icl_bench.suite.specs import CheckSpec, MeasureSpec, QuizSpec, Suite, Support

__all__ = [
    "CheckSpec",
    "MeasureSpec",
    "QuizSpec",
    "Suite",
    "Support",
    "find_suite",
    "is_suite",
    "json_schema",
    "load_suite",
    "shipped_suites",
]

_HOMES = {
    "CheckSpec": "specs",
    "MeasureSpec": "specs",
    "QuizSpec": "specs",
    "Suite": "specs",
    "Support": "specs",
    "find_suite": "loading",
    "json_schema": "completion",
    "load_suite": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
