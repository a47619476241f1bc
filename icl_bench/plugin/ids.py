"""By which keys and ids the parts of the plugin find each other's things.

Nothing here is heavy: pytest loads it in every project that has icl_bench installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession

SESSION: pytest.StashKey[IclSession] = pytest.StashKey()
"""Where pytest's configuration keeps the state of the run."""
BEFORE = "icl_bench_baseline"
"""Key under which a worker of xdist is told the record of a baseline that is a model."""
NAMES = "icl_bench_names"
"""Key under which xdist's workers are told what the models are called."""
PAYLOAD = "icl_bench_payload"
"""Attribute of a test report that carries results from a worker to the process that reports."""
REASON = "icl_bench_reason"
"""Attribute of a test report: what the record says of a check that gave no result."""


def node_id(path: Path, rootdir: Path) -> str:
    """Return the id of a suite file: `suites/NAME.yaml` for shipped ones, wherever they are.

    Args:
        path: the file.
        rootdir: pytest's root folder.
    """
    from icl_bench.suite.catalog import is_shipped

    if is_shipped(path):
        return f"suites/{path.name}"
    try:
        return path.relative_to(rootdir).as_posix()
    except ValueError:
        # pytest would leave the id of a file outside its root folder empty.
        return f"{path.parent.name}/{path.name}"


def item_name(check_id: str, slug: str) -> str:
    """Return the name of the item of one check on one model."""
    return f"{check_id}[{slug}]"
