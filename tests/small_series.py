"""A small training run on disk, and what measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints

import icl_bench
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions
from icl_bench.progress import RunProgress
from icl_bench.records.record import RunRecord
from icl_bench.running.cache import open_cache
from icl_bench.running.series_run import start_run
from icl_bench.running.setup import Setup
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

SUITE = """\
icl_suite: 1
name: small
defaults: {sequences: 4, period: 8}
measure:
  repeats: {probe: induction, control: false}
  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 0}
  change: {probe: toy, scores: repeats}
checks:
  - {id: low, on: repeats, metric: induction_max, below: 0.9}
  - {id: rises, on: change, metric: rise, above: -1}
  - {id: whole, on: off, metric: gain, above: -9}
"""


def write_series(count: int = 4, place: str = "runs") -> list[Path]:
    return [
        checkpoints.write_llama(Path(place, f"step{step}"), seed=step)
        for step in range(1, count + 1)
    ]


def run(text: str = "runs@*", **options: Any) -> RunRecord:
    return icl_bench.run(["small.yaml"], text, **options)


def make_run(text: str = "runs@*", progress: RunProgress | None = None) -> Any:
    spec, options = parse_spec(text), RunOptions()
    plan = make_plan([load_suite("small.yaml")])
    setup = Setup(plan, options, progress or RunProgress(), open_cache(options))
    return start_run(spec, "slug", setup, check_spec(spec))


def spoil(folder: Path) -> None:
    """Cut a checkpoint's weights short."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
