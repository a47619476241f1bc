"""Kill rate and false alarms of suites on planted edits, and what an edit costs.

Times are those of the processor, so that other work on the machine does not count: of each edit its
planting, checks on opening, true change and suite, over one run of the suite on the unedited model.

    python benchmarks/circuit_edits.py builtin:induction-2l --suite gate
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean

from icl_bench.mutating.edits import choose_edits
from icl_bench.mutating.mutation import mutate
from icl_bench.mutating.outcome import Mutation
from icl_bench.mutating.report import verdict_lines, write_mutation
from icl_bench.options import RunOptions
from icl_bench.progress.bars import command_progress
from icl_bench.running.job import Job
from icl_bench.running.request import Request
from icl_bench.suite import find_suite


def main() -> None:
    """Plant the edits in each model and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="SPEC")
    parser.add_argument("--suite", default="gate")
    parser.add_argument("--edits", default="", metavar="NAME,...")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--cache-dir", type=Path, default=None, help="lets a run continue")
    parser.add_argument("--report-dir", type=Path, default=None)
    given = parser.parse_args()
    wall, time.perf_counter = time.perf_counter, time.process_time
    try:
        _measure(given)
    finally:
        time.perf_counter = wall


def _measure(given: argparse.Namespace) -> None:
    names = [name for name in given.edits.split(",") if name]
    for spec in given.models:
        options = RunOptions(
            cache=given.cache_dir is not None, cache_dir=given.cache_dir, seed=given.seed
        )
        job = Job(Request(models=[spec], suites=[find_suite(given.suite)], options=options))
        job.check()
        found = mutate(
            job,
            choose_edits(names),
            named=bool(names),
            watch=lambda models, earlier: command_progress(models, earlier=earlier),
        )
        if given.report_dir is not None:
            write_mutation(found, given.report_dir / job.names[0])
        _tell(found)


def _tell(found: Mutation) -> None:
    print(f"\n{found.model}, suite {', '.join(found.suites)}\n")
    print("| edits | number | cost of one, in runs of the suite |")
    print("|---|---|---|")
    groups = {
        "killed": found.of("killed"),
        "survived": found.of("survived"),
        "neutral": found.harmless,
        "all": [one for one in found.outcomes if one.change],
    }
    for name, outcomes in groups.items():
        times = [one.seconds or 0.0 for one in outcomes]
        cost = f"{mean(times) / found.baseline_seconds:.2f}" if times else ""
        print(f"| {name} | {len(times)} | {cost} |")
    print()
    for line in verdict_lines(found):
        print(f"- {line}")
    for one in found.outcomes:
        if one.verdict in ("survived", "false alarm", "not planted"):
            print(f"- {one.verdict}: {one.name}: {one.reason or ', '.join(one.killed_by)}")


if __name__ == "__main__":
    main()
