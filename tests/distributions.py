"""Packages with entry points, put on the path as an installation would leave them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icl_bench.models.sources import table

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package's entry points, and a module of its name if there is code, on the path."""
    # What is installed is looked up once in a process.
    table._find.cache_clear()

    def add(package: str, group: str, entries: str, code: str | None = None) -> Path:
        module = package.replace("-", "_")
        site = tmp_path / f"site-{package}"
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
        monkeypatch.syspath_prepend(site)
        if code is not None:
            (site / f"{module}.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
        return site / f"{module}.py"

    yield add
    table._find.cache_clear()
