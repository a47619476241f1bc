"""The parts of a RunRecord: metrics, measurements, checks, the model, the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from icl_bench.records.display import shorten
from icl_bench.records.rows import check_heads, check_plain, is_number, refuse_number
from icl_bench.records.tables import check_tables

DESELECTED = "deselected"
"""Reason of a check that the user left out of the run."""

Verdict = Literal["pass", "fail", "inconclusive", "skipped", "error"]
Plain = AfterValidator(check_plain)
"""Any data that JSON can say, all numbers of it finite."""


class Part(BaseModel):
    """A part of a record: fields of later versions are ignored, NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        # The default is null, which would be read as "not measured".
        ser_json_inf_nan="constants",
        protected_namespaces=(),
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if value not in (None, [], {}):
                yield name, shorten(value)


class Metric(Part):
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


class Numbers(Part):
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
    tables: Annotated[dict[str, list[dict[str, Any]]], Plain, AfterValidator(check_tables)] = Field(
        default_factory=dict
    )
    """Further rows: null draws, curves, answers to single questions."""

    def __repr__(self) -> str:
        state = self.status if self.status == "measured" else f"{self.status}: {self.reason}"
        told = f"{len(self.metrics)} metrics, {len(self.heads)} heads, tables {[*self.tables]}"
        return f"<Measurement {self.probe} ({shorten(state)}): {shorten(told, 120)}>"

    def __str__(self) -> str:
        return repr(self)

    @property
    def method(self) -> str:
        """How heads were switched off, in words; "" where the settings do not say."""
        method = str(self.settings.get("method", "")).replace("_", " ")
        return method + (", patterns frozen" if self.settings.get("patterns") == "frozen" else "")


_TOLERATED = {"value", "tolerance"}


class Check(Part):
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

    @field_validator("threshold")
    @classmethod
    def _fits_the_rule(cls, threshold: Any, info: ValidationInfo) -> Any:
        rule = info.data.get("rule")
        if rule == "between" and not (isinstance(threshold, list) and len(threshold) == 2):
            raise ValueError("'between' has two numbers")
        if isinstance(threshold, dict) and rule == "equals" and _TOLERATED - threshold.keys():
            raise ValueError("'equals' has a number, or a value and a tolerance")
        return threshold


class ModelInfo(Part):
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
    """Kind and size of the adapters that are applied, in their order."""
    base: str | None = None
    """The model that the adapters are applied to, named like `spec`; None for weights without
    adapters, or with one beside them."""
    base_revision: str | None = None
    """Commit of that model, when it came from a hub."""
    quantization: str | None = None
    """Method and bits of quantized weights, such as `bitsandbytes nf4, 4 bits`."""
    remarks: list[str] = Field(default_factory=list)
    """What else must be known of the model to read its numbers."""
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
    """Number of parameters; quantized weights count as many as they stand for."""
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


class Environment(Part):
    """Where the numbers were made."""

    python: str
    torch: str | None = None
    transformers: str | None = None
    platform: str
    device: str | None = None
    threads: int | None = None
    git: str | None = None
    """Commit of the working directory, with `+dirty` when it has changes."""


class BaseRef(Part):
    """Which suite another one extends."""

    name: str
    sha256: str
    version: int = 1
    shipped: bool = False
    """Whether it is one of those that come with icl_bench."""


class SuiteRef(Part):
    """Which suite was run."""

    name: str
    sha256: str
    """Digest of the parsed suite with what it takes from those that it extends, so that comments
    and layout do not change it."""
    version: int = 1
    """Of the suite, as its file says."""
    shipped: bool | None = None
    """Whether it is one of those that come with icl_bench; None where a record does not say."""
    description: str | None = None
    extends: list[BaseRef] = Field(default_factory=list)
    """The suites that it extends, the nearest first."""
    own: list[str] = Field(default_factory=list)
    """Of a suite that extends others, ids of checks and quiz items and names of measurements that
    files give or remove which do not come with icl_bench."""


class GateVerdict(Part):
    """One gate of a training run as it stood at one step."""

    gate: str
    """What must hold, in words."""
    verdict: Verdict
    """`skipped`: not due yet."""
    reason: str
    """By what numbers."""


def settle(measurement: Measurement) -> Measurement:
    """Return a measurement as it will be read again: plain data, every number of it finite.

    Args:
        measurement: what a probe returned, and may have changed after it was made.

    Raises:
        ValidationError: it holds NaN, infinity, or what is no data; `rows.explain` tells it.
    """
    return Measurement.model_validate(measurement.model_dump(warnings=False))
