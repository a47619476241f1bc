"""The probes: one file per kind of measurement, the table that names them, and those of packages.

A probe's file holds `Settings` (a pydantic model: what a suite may set), `METRICS` (every metric
name it can report), `measure(model, settings, context)` and `PROBE`, which puts them together. A
series probe reads what others measured at every checkpoint of a training run: it has
`measure_series(series, settings, context)` instead, its settings a property `sources` (role -> name
of a measurement of the suite), and it may say which probe each role is read from. `report` gives
its part of reports. A new probe is a new file and one row of `PROBES`. Importing a probe's file
does not import torch.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace

from icl_bench import extensions
from icl_bench.errors import SettingsError, nearest
from icl_bench.probes.protocol import MetricInfo, Probe, adopt
from icl_bench.provenance import package_version
from icl_bench.records.blocks import Block, Text, tabulate
from icl_bench.records.parts import Measurement

__all__ = [
    "PROBES",
    "MetricInfo",
    "Probe",
    "get_probe",
    "kind_of",
    "known_probe",
    "probe_names",
    "report_of",
]

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


def probe_names() -> list[str]:
    """Return the names of all probes: of this package, then of installed ones."""
    return [*PROBES, *(name for name in _added() if name not in PROBES)]


def kind_of(name: str) -> str:
    """Return what a probe is about: heads, ablations, texts ...; "" for other packages' probes.

    Args:
        name: as a record has it.
    """
    return PROBES.get(name, "").rpartition(".")[0].rpartition(".")[2]


def get_probe(name: str) -> Probe:
    """Return the probe called `name`; what another package adds is imported now.

    Raises:
        SettingsError: there is no such probe, and the message names the nearest one; or a package
            adds one that cannot be used, or one of a name that this package has.
    """
    if name in PROBES and _added().isdisjoint(PROBES):
        return _own_probe(name)
    probe = _added_probe(name)
    if probe is None:
        raise SettingsError(f"unknown probe {name!r}; {nearest(name, probe_names())}")
    return probe


def known_probe(name: str) -> Probe | None:
    """Return the probe that a record names, None where it is not installed or cannot be used.

    Args:
        name: as the record has it.
    """
    try:
        return _own_probe(name) if name in PROBES else get_probe(name)
    except SettingsError:
        return None


def report_of(measurement: Measurement) -> list[Block]:
    """Return a measurement's part of reports: what its probe makes of it, else its tables.

    Args:
        measurement: of a probe that may be of an earlier version, or not installed.
    """
    probe = known_probe(measurement.probe)
    if measurement.status != "measured" or (probe and probe.report is None):
        return []
    if probe is None or probe.report is None:
        return tabulate(measurement)
    try:
        blocks = list(probe.report(measurement))
        if any(not isinstance(block, Block) for block in blocks):
            raise TypeError("it returned something that is no block of icl_bench.records.blocks")
    except Exception as error:
        told = f"The report of probe {probe.name!r} broke: {type(error).__name__}: {error}"
        return [Text(title=f"Tables of probe {probe.name}", text=told), *tabulate(measurement)]
    return blocks


def _own_probe(name: str) -> Probe:
    module = importlib.import_module(PROBES[name])
    own: Probe | None = vars(module).get("PROBE")
    if own:
        return replace(own, doc=module.__doc__)
    return replace(adopt(name, module, f"probe {name!r}"), code=package_version(PROBES[name]))


@functools.cache
def _added() -> frozenset[str]:
    """Names that other packages add; which are installed does not change in a run."""
    return frozenset(extensions.names(extensions.PROBES))


@functools.cache
def _added_probe(name: str) -> Probe | None:
    found = extensions.find(extensions.PROBES, name, PROBES)
    if found is None:
        return None
    where = f"probe {name!r} of package {found.package} {found.version}, {found.where},"
    code = package_version(found.where.partition(":")[0])
    probe = adopt(name, found.object, where)
    return replace(probe, package=f"{found.package} {found.version}", code=code)
