"""Records as they are read from files: whole, or the numbers alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic_core
from pydantic import Field, field_validator

from icl_bench.errors import RecordError
from icl_bench.naming import RECORD
from icl_bench.options import refuse_url
from icl_bench.records.digests import state_of
from icl_bench.records.parts import Check, Environment, ModelInfo, Numbers, Part, SuiteRef
from icl_bench.records.record import SCHEMA, RunRecord, validate

DOUBT = "no digest: whether it was changed after it was written cannot be told"
"""What is said of a file of an earlier version."""


class RecordNumbers(Part):
    """A record as rankings read it: no rows of heads and tables, which are most of a file."""

    schema_version: int = Field(alias="schema")
    icl_bench: str
    created: str
    status: Literal["complete", "partial", "interrupted"] = "complete"
    model: ModelInfo
    environment: Environment
    suites: list[SuiteRef]
    measurements: dict[str, Numbers] = Field(default_factory=dict)
    checks: list[Check] = Field(default_factory=list)

    doubt: ClassVar[str | None] = None
    """As of RunRecord."""

    @field_validator("schema_version")
    @classmethod
    def _is_present(cls, version: int) -> int:
        if version != SCHEMA:
            raise ValueError("another schema")
        return version


def read_numbers(path: str | os.PathLike[str]) -> RecordNumbers:
    """Read the numbers of a `results.json` file, about twice as fast as the whole record.

    Everything that is returned is validated as `read_record` does; heads and tables are passed
    over.

    Args:
        path: the file.

    Raises:
        RecordError: the file is missing, is not JSON, does not fit the schema, or was changed.
    """
    try:
        data = pydantic_core.from_json(Path(path).read_bytes())
        state = _state_of(data, path)
        record = RecordNumbers.model_validate(data)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        # The whole reader upgrades an older schema, and says what is wrong with any other file.
        whole = read_record(path)
        record = RecordNumbers.model_validate(whole.model_dump(by_alias=True))
        record.__dict__["doubt"] = whole.doubt
        return record
    record.__dict__["doubt"] = DOUBT if state == "unsigned" else None
    return record


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Read a RunRecord, of this schema or an older one.

    Args:
        path: a `results.json` file, or the folder that holds it.

    Raises:
        RecordError: the file is missing, is not JSON, does not fit the schema, or was changed.
        SettingsError: `path` is a URL.
    """
    refuse_url(path, "record ")
    path = Path(path)
    if path.is_dir():
        path /= RECORD
    try:
        # Editors on Windows put a mark in front of what they save.
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise RecordError(f"{path}: not a run record: it is nested too deep") from None
    except ValueError as error:
        where = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RecordError(f"{path}{where}: not a JSON file ({error})") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise RecordError(f"{path}: not a run record: it has no 'schema' field")
    state = _state_of(data, path)
    try:
        record = validate(data)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    record.__dict__["doubt"] = DOUBT if state == "unsigned" else None
    return record


def _state_of(data: Any, path: str | os.PathLike[str]) -> str:
    """What the digest says of a file's content; RecordError where the content was changed."""
    state = state_of(data) if isinstance(data, dict) else "unsigned"
    if state == "changed":
        raise RecordError(
            f"{path}: its content was changed after it was written (the digest does not fit): "
            "take the original, or measure again"
        )
    return state
