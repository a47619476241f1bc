"""The probes: one file per kind of measurement, and the table that names them.

A probe's file holds three things: `Settings` (a pydantic model: what a suite may set),
`METRICS` (every metric name it can report) and `measure(model, settings, context)`. A series
probe reads what others measured at every checkpoint of a training run: it has
`measure_series(series, settings, context)` instead, its settings a property `sources` (role -> name
of a measurement of the suite), and it may say in `SOURCES` which probe each role is read from.
A new probe is a new file and one row of `PROBES`. Importing a probe's file does not
import torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from pydantic import BaseModel

from icl_bench.errors import SettingsError, nearest

PROBES: dict[str, str] = {
    "induction": "icl_bench.probes.heads.induction",
    "ablation": "icl_bench.probes.ablations.ablation",
    "sweep": "icl_bench.probes.ablations.sweep",
    "minimal_set": "icl_bench.probes.ablations.minimal_set",
    "composition": "icl_bench.probes.heads.composition",
    "attention_attribution": "icl_bench.probes.heads.attention_attribution",
    "logit_attribution": "icl_bench.probes.heads.logit_attribution",
    "offset_profile": "icl_bench.probes.heads.offset_profile",
    "copying": "icl_bench.probes.heads.copying",
    "weight_composition": "icl_bench.probes.heads.weight_composition",
    "choice": "icl_bench.probes.texts.choice",
    "fewshot": "icl_bench.probes.texts.fewshot",
    "icl_score": "icl_bench.probes.texts.icl_score",
    "function_vectors": "icl_bench.probes.texts.function_vectors",
    "fuzzy": "icl_bench.probes.texts.fuzzy",
    "example": "icl_bench.probes.example.example",
    "losses": "icl_bench.probes.ablations.losses",
    "phase_change": "icl_bench.probes.training.phase_change",
}


@dataclass(frozen=True)
class MetricInfo:
    """What one metric name means.

    Args:
        meaning: one sentence.
        direction: `up` when more is better, `down` when less is, None when neither.
        unit: nats, probability, ratio, heads ...
        exact: True when the value has no sampling error and needs no interval.
    """

    meaning: str
    direction: Literal["up", "down"] | None = None
    unit: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Probe:
    """A probe as found in the table: its name, settings model, metrics and module."""

    name: str
    settings: type[BaseModel]
    metrics: dict[str, MetricInfo]
    module: ModuleType

    @property
    def reads_heads(self) -> bool:
        """Whether the settings can name another measurement to take heads from."""
        return "heads" in self.settings.model_fields

    @property
    def is_series(self) -> bool:
        """Whether it measures a series of checkpoints, by what others measured at each."""
        return hasattr(self.module, "measure_series")

    @property
    def source_probes(self) -> dict[str, str]:
        """Role -> probe of the measurement that a series probe reads in it, where it says so."""
        found: dict[str, str] = getattr(self.module, "SOURCES", {})
        return found


def get_probe(name: str) -> Probe:
    """Return the probe called `name`.

    Raises:
        SettingsError: there is no such probe; the message names the nearest one.
    """
    if name not in PROBES:
        raise SettingsError(f"unknown probe {name!r}; {nearest(name, PROBES)}")
    module = importlib.import_module(PROBES[name])
    return Probe(name, module.Settings, module.METRICS, module)
