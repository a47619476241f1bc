"""The RunRecord: everything that one run measured, as versioned JSON.

Reports, comparisons and leaderboards are made from records alone, so this module
imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from icl_bench.errors import RecordError, defuse
from icl_bench.records.digests import FIELD, sign
from icl_bench.records.parts import (
    Check,
    Environment,
    GateVerdict,
    Measurement,
    ModelInfo,
    Part,
    SuiteRef,
)
from icl_bench.records.upgrades import upgrade
from icl_bench.records.writing import write_atomically

SCHEMA = 1
"""Version of the format; `upgrades` says when it is raised."""


class RunRecord(Part):
    """Everything one run measured on one model."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    icl_bench: str
    """Version of icl_bench."""
    created: str
    """ISO 8601 time, UTC."""
    status: Literal["complete", "partial", "interrupted"] = "complete"
    """`partial`: some checks were not run; `interrupted`: the run did not end by itself."""
    model: ModelInfo
    environment: Environment
    suites: list[SuiteRef]
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    """`SUITE/NAME` -> measurement."""
    checks: list[Check] = Field(default_factory=list)
    step: int | None = None
    """Optimizer steps that the model had behind it, where it was measured in training."""
    gates: list[GateVerdict] = Field(default_factory=list)
    """The training run's gates as they stood at that step."""

    model_config = ConfigDict(populate_by_name=True)

    doubt: ClassVar[str | None] = None
    """Why a change of its content would not be noticed: set where it was read from a file without
    a digest. It is no part of the content."""

    comparison: ClassVar[Any] = None
    """The comparison with a baseline (`icl_bench.comparing.Comparison`), of a record that
    `icl_bench.run(baseline=)` returned. It is no part of the content either."""

    def to_json(self) -> str:
        """Return the record as JSON text.

        Raises:
            RecordError: `read_record` would refuse it, as after a field was set to NaN.
        """
        record = validate(self.model_dump(by_alias=True, warnings=False))
        data = record.model_dump(by_alias=True)
        for measurement in data["measurements"].values():
            if measurement["package"] is None:
                del measurement["package"]  # as in records of before there were others
        try:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False)
            signed = {"schema": SCHEMA, FIELD: sign(json.loads(text)), **data}
            return json.dumps(signed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:  # a whole number of more digits than Python reads
            raise RecordError(str(error)) from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the record to `path` atomically and return the path.

        Raises:
            RecordError: `read_record` would refuse it; what stands at `path` stays.
            OSError: it cannot be written.
        """
        try:
            text = self.to_json()
        except RecordError as error:
            raise RecordError(f"{path}: not written: {error}") from None
        return write_atomically(path, text)


def validate(data: dict[str, Any]) -> RunRecord:
    """The record that parsed JSON stands for; RecordError names the field that is wrong."""
    try:
        return RunRecord.model_validate(upgrade(data, SCHEMA))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(defuse(f"field {place}: {first['msg']}")) from None
    except RecursionError:
        raise RecordError("not a run record: it is nested too deep") from None
