"""A package on disk that adds to this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icl_bench import probes, provenance

PROBE = """
'''What it is for.'''
from icl_bench.probes import MetricInfo
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.records.parts import Measurement, Metric

class Settings(StrictSettings):
    colour: str = "red"

METRICS = {"size": MetricInfo("how large it is", "up", "m")}

def measure(model, settings, context):
    return Measurement(probe="its own name", metrics={"size": Metric(value=1, exact=True)})
"""

AddPackage = Callable[..., None]


def forget() -> None:
    """Let the next look-up find what is installed by then."""
    for cached in (probes._added, probes._added_probe, provenance.package_version):
        cached.cache_clear()
    provenance.module_version.cache_clear()
    sys.modules.pop("their_package", None)


@pytest.fixture
def add_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddPackage]:
    """Put a package of one module, with one entry point, on the path."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def add(code: str, name: str = "theirs", group: str = "probes", at: str = "") -> None:
        info = site / "their_package-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")
        entry = f"[icl_bench.{group}]\n{name} = their_package{at}\n"
        (info / "entry_points.txt").write_text(entry)
        (site / "their_package.py").write_text(code)
        forget()

    yield add
    forget()
