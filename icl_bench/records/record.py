"""The RunRecord: everything that one run measured, as versioned JSON.

Reports, comparisons and leaderboards are made from records alone, so this module
imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import os
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from icl_bench.errors import RecordError, defuse
from icl_bench.records.digests import FIELD, sign
from icl_bench.records.display import count_verdicts, describe_model, shorten, show_record
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

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of the format; `upgrades` says when it is raised."""
WRITER = "icl_bench.reports.files:write_record"
"""What `RunRecord.report` calls. Known by name only: what writes reports reads records, and records
import nothing of it."""


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

    def __repr__(self) -> str:
        suites = ", ".join(suite.name for suite in self.suites)
        what = shorten(f"{describe_model(self)}; {suites}: {count_verdicts(self)}", 300)
        return f"<RunRecord {what}; {len(self.measurements)} measurements, {self.status}>"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return show_record(self)

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each metric: measurement, metric, value, stderr, ci_low, ci_high, n.

        Missing where it is exact, or one sample cannot give it.
        """
        import pandas as pd

        columns = ["value", "stderr", "ci_low", "ci_high", "n"]
        rows = [
            (key, name, *(getattr(metric, column) for column in columns))
            for key, taken in self.measurements.items()
            for name, metric in taken.metrics.items()
        ]
        frame = pd.DataFrame(rows, columns=["measurement", "metric", *columns])
        kinds = {**dict.fromkeys(columns[:-1], "float64"), "n": "Int64"}
        return frame.astype(kinds)

    @property
    def heads(self) -> pd.DataFrame:
        """A row for each head of each measurement that scores heads: measurement, layer, head and
        its scores; missing where the measurement has no such score."""
        import pandas as pd

        rows = [
            {"measurement": key, **row}
            for key, taken in self.measurements.items()
            for row in taken.heads
        ]
        first = ["measurement", "layer", "head"]
        frame = pd.DataFrame(rows, columns=None if rows else first)
        return frame[[*first, *(name for name in frame if name not in first)]]

    def report(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the record's reports.

        Args:
            path: `NAME.html` or `NAME.md` for that page alone; else a report folder, in which one
                of the model's name gets the record and all reports, as in a run.

        Returns:
            the files that were written.

        Raises:
            SettingsError: it cannot be written.
        """
        written: list[Path] = pkgutil.resolve_name(WRITER)(self, Path(path))
        return written

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
