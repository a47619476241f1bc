"""The RunRecord: everything that one run measured, as versioned JSON.

Reports, comparisons and leaderboards are made from records alone, so this module
imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from icl_bench.errors import RecordError
from icl_bench.naming import RECORD
from icl_bench.options import refuse_url
from icl_bench.records.rows import check_heads, check_plain, is_number, refuse_number
from icl_bench.records.upgrades import upgrade

SCHEMA = 1
"""Version of the format; `upgrades` says when it is raised."""
DESELECTED = "deselected"
"""Reason of a check that the user left out of the run."""

Verdict = Literal["pass", "fail", "inconclusive", "skipped", "error"]
Plain = AfterValidator(check_plain)
"""Any data that JSON can say, all numbers of it finite."""


class _Part(BaseModel):
    """A part of a record: fields of later versions are ignored, NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        # The default is null, which would be read as "not measured".
        ser_json_inf_nan="constants",
        protected_namespaces=(),
    )


class Metric(_Part):
    """One number with its uncertainty.

    It may be NaN or infinite only until it becomes part of a measurement, which knows its name.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    value: float
    """The estimate, in the unit that the probe's table of metrics states."""
    stderr: float | None = None
    """Standard error; None when the metric is exact or when one sample cannot give one."""
    ci_low: float | None = None
    """Lower end of the 95% interval."""
    ci_high: float | None = None
    """Upper end of the 95% interval."""
    n: int | None = None
    """Number of independent samples (sequences, items, draws) behind the value."""
    samples: list[float] | None = None
    """Per-sample values, for pairing with another record on the same tokens."""
    exact: bool = False
    """True when the value has no sampling error: p-values, counts given a set, one question."""


class Numbers(_Part):
    """What one probe measured on one model, without rows of heads and tables."""

    probe: str
    """Name of the probe."""
    package: str | None = None
    """Name, version and digest of the code of the package that the probe is from; None for
    icl_bench itself."""
    status: Literal["measured", "skipped", "error"] = "measured"
    """`skipped` and `error` carry a reason and no metrics."""
    reason: str | None = None
    """Why it was skipped or failed, or a remark on what was measured."""
    settings: Annotated[dict[str, Any], Plain] = Field(default_factory=dict)
    """Every setting that could change a number, defaults included."""
    tokens_sha256: str | None = None
    """Digest of all token ids that were fed to the model."""
    seconds: float | None = None
    """Wall time of the measurement."""
    cached: bool = False
    """True when an earlier run measured it; `seconds` is the time that it took then."""
    cached_steps: list[int] | None = None
    """Of a series the steps at which an earlier run measured it; None for a single model."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Metric name -> metric; a name that could not be measured is absent."""
    unmeasured: dict[str, str] = Field(default_factory=dict)
    """Metric name -> why this one metric is absent although the rest was measured."""
    remarks: dict[str, str] = Field(default_factory=dict)
    """Metric name -> what to know of it where a check on it does not pass."""
    vacuous: dict[str, str] = Field(default_factory=dict)
    """Metric name -> why its value says nothing for the model, as when nothing was switched off:
    a check that it fails fails, one that it would pass is skipped."""

    @field_validator("metrics")
    @classmethod
    def _are_finite(cls, metrics: dict[str, Metric]) -> dict[str, Metric]:
        for name, metric in metrics.items():
            numbers = (metric.value, metric.stderr, metric.ci_low, metric.ci_high)
            for field, number in zip(("value", "stderr", "ci_low", "ci_high"), numbers):
                if not (is_number(number) or (number is None and field != "value")):
                    refuse_number((name, field), number)
            for place, number in enumerate(metric.samples or ()):
                if not is_number(number):
                    refuse_number((name, "samples", place), number)
        return metrics


class Measurement(Numbers):
    """What one probe measured on one model."""

    heads: Annotated[list[dict[str, Any]], AfterValidator(check_heads)] = Field(
        default_factory=list
    )
    """One row per attention head: layer, head and its scores, all of them finite numbers."""
    tables: Annotated[dict[str, list[dict[str, Any]]], Plain] = Field(default_factory=dict)
    """Further rows: null draws, curves, answers to single questions."""

    @property
    def method(self) -> str:
        """How heads were switched off, in words; "" where the settings do not say."""
        method = str(self.settings.get("method", "")).replace("_", " ")
        return method + (", patterns frozen" if self.settings.get("patterns") == "frozen" else "")


class Check(_Part):
    """One assertion of a suite and its verdict."""

    id: str
    """The check's id within its suite."""
    suite: str
    """Name of the suite."""
    kind: Literal["check", "quiz"] = "check"
    """`quiz` for quiz items."""
    measurement: str
    """Key into the record's measurements."""
    metric: str
    """Name of the metric that decides."""
    direction: Literal["up", "down"] | None = None
    """Which way is better, for the report's arrow."""
    value: float | None = None
    """The metric's value; None when it was not measured."""
    stderr: float | None = None
    """Its standard error."""
    ci_low: float | None = None
    """Lower end of its 95% interval."""
    ci_high: float | None = None
    """Upper end of its 95% interval."""
    rule: str
    """above, below, between, equals, at_least, at_most, or supports (quiz)."""
    threshold: Annotated[Any, Plain] = None
    """The rule's number or numbers."""
    verdict: Verdict
    """The result; `error` when the measurement failed."""
    reason: str | None = None
    """Why, in words."""
    description: str | None = None
    """What the check asks, from the suite."""
    question: str | None = None
    """Quiz: the question or the prompt."""
    options: dict[str, str] | None = None
    """Quiz: option key -> text."""
    expected: str | None = None
    """Quiz: key of the expected option."""
    supports: str | None = None
    """Quiz: key of the option that the measurement supports; None when it supports none."""
    beside: list[str] | None = None
    """Quiz: other metrics of the measurement that are shown with the one that decides."""


class ModelInfo(_Part):
    """Which model was measured, and how it was run."""

    spec: str
    """The spec as given; of a local path only its last component."""
    slug: str
    """The model's name in ids, folders and tables: the user's own, or one made of the spec."""
    origin: str | None = None
    """12 hex digits of the SHA-256 of the resolved path, hub id or callable, to tell models of one
    name apart; None for a model that was open already."""
    plain: str | None = None
    """The name that it has where no other model has it; None where that is `slug`."""
    revision: str | None = None
    """Revision or commit, when the model has one."""
    adapter: str | None = None
    """Kind and size of the adapter that is merged into the weights."""
    tokenizer_note: str | None = None
    """Why there is no tokenizer, or in what it is another than the class that it names."""
    fingerprint: str | None = None
    """SHA-256 over every weight."""
    architecture: str | None = None
    """Class name of the transformers model."""
    layers: int | None = None
    """Number of decoder layers."""
    heads: int | list[int] | None = None
    """Query heads per layer; a list when layers differ."""
    kv_heads: int | list[int] | None = None
    """Key/value heads per layer; a list when layers differ."""
    parameters: int | None = None
    """Number of parameters."""
    dtype: str | None = None
    """Data type of the weights while measuring."""
    attention: Literal["fused", "chunked", "eager", "none"] | None = None
    """How attention probabilities were obtained."""
    attention_note: str | None = None
    """Why the fused path was not used, when it was not."""
    bos: int | None = None
    """Id put before every probe sequence; None when nothing is."""
    steps: list[int] | None = None
    """Of a series the optimizer steps that were measured, ascending; all else here is about the
    last of them. None for a single model."""

    @property
    def names(self) -> list[str]:
        """All that `models:` of a check may call the model: what others are called is no matter."""
        return list(filter(None, (self.spec, self.slug, self.plain)))

    @property
    def label(self) -> str:
        """How tables call the model: its spec, where its name says no more than that."""
        if self.origin is None:
            return self.spec
        spec = self.spec[: -len(".gguf")] if self.spec.lower().endswith(".gguf") else self.spec
        same = re.sub(r"\W", "", spec) == re.sub(r"\W", "", self.slug)
        return self.spec if same else self.slug


class Environment(_Part):
    """Where the numbers were made."""

    python: str
    torch: str | None = None
    transformers: str | None = None
    platform: str
    device: str | None = None
    threads: int | None = None
    git: str | None = None
    """Commit of the working directory, with `+dirty` when it has changes."""


class SuiteRef(_Part):
    """Which suite was run."""

    name: str
    sha256: str
    """Digest of the parsed suite, so that comments and layout do not change it."""
    version: int = 1
    """Of the suite, as its file says."""
    shipped: bool | None = None
    """Whether it is one of those that come with icl_bench; None where a record does not say."""
    description: str | None = None


class GateVerdict(_Part):
    """One gate of a training run as it stood at one step."""

    gate: str
    """What must hold, in words."""
    verdict: Verdict
    """`skipped`: not due yet."""
    reason: str
    """By what numbers."""


class RunRecord(_Part):
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

    def to_json(self) -> str:
        """Return the record as JSON text.

        Raises:
            RecordError: `read_record` would refuse it, as after a field was set to NaN.
        """
        record = _validate(self.model_dump(by_alias=True, warnings=False))
        data = record.model_dump(by_alias=True)
        for measurement in data["measurements"].values():
            if measurement["package"] is None:
                del measurement["package"]  # as in records of before there were others
        try:
            return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
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


class RecordNumbers(_Part):
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

    @field_validator("schema_version")
    @classmethod
    def _is_present(cls, version: int) -> int:
        if version != SCHEMA:
            raise ValueError("another schema")
        return version


def read_numbers(path: str | os.PathLike[str]) -> RecordNumbers:
    """Read the numbers of a `results.json` file, many times faster than the whole record.

    Everything that is returned is validated as `read_record` does; heads and tables are passed
    over.

    Args:
        path: the file.

    Raises:
        RecordError: the file is missing, is not JSON, or does not fit the schema.
    """
    try:
        return RecordNumbers.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValidationError:
        # The whole reader upgrades an older schema, and says what is wrong with any other file.
        return RecordNumbers.model_validate(read_record(path).model_dump(by_alias=True))


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Read a RunRecord, of this schema or an older one.

    Args:
        path: a `results.json` file, or the folder that holds it.

    Raises:
        RecordError: the file is missing, is not JSON, or does not fit the schema.
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
    try:
        return _validate(data)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None


def settle(measurement: Measurement) -> Measurement:
    """Return a measurement as it will be read again: plain data, every number of it finite.

    Args:
        measurement: what a probe returned, and may have changed after it was made.

    Raises:
        ValidationError: it holds NaN, infinity, or what is no data; `rows.explain` tells it.
    """
    return Measurement.model_validate(measurement.model_dump(warnings=False))


def _validate(data: dict[str, Any]) -> RunRecord:
    """The record that parsed JSON stands for; RecordError names the field that is wrong."""
    try:
        return RunRecord.model_validate(upgrade(data, SCHEMA))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"field {place}: {first['msg']}") from None
    except RecursionError:
        raise RecordError("not a run record: it is nested too deep") from None


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part.

    Args:
        path: the file to write; missing parent folders are made.
        text: the new content.

    Raises:
        OSError: it cannot be written; `filename` is `path`, whatever failed on the way.
        SettingsError: `path` is a URL.
    """
    refuse_url(path, "file ")
    path = Path(path)
    try:
        _replace(path, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    return path


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # Half of a surrogate pair, as a byte-level tokenizer may leave, has no UTF-8.
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as stream:
            stream.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
