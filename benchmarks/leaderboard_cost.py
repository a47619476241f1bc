"""What a leaderboard of many records costs: time and peak memory of reading, ranking and writing.

    python benchmarks/leaderboard_cost.py [--records 1000] [--suite core ...] [--sample FILE]

Records are copies of a real one with noise on every metric and its samples; twenty tokenizers give
as many sets of tokens. `--suite` leaves only these suites of the sample in the copies. Everything
is measured in a process of its own; the peak includes Python and the libraries.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icl_bench.records.digests import sign

SAMPLE = "reports/samples/SmolLM2-135M-Instruct.Q4_1/results.json"
TOKENIZERS = 20
BOUNDS = ("value", "ci_low", "ci_high")


def only(record: dict[str, Any], suites: list[str]) -> dict[str, Any]:
    """The record with the measurements and checks of some suites."""
    record = copy.deepcopy(record)
    record["suites"] = [one for one in record["suites"] if one["name"] in suites]
    record["checks"] = [one for one in record["checks"] if one["suite"] in suites]
    record["measurements"] = {
        key: one for key, one in record["measurements"].items() if key.partition("/")[0] in suites
    }
    return record


def vary(record: dict[str, Any], index: int, rng: np.random.Generator) -> None:
    """Make another model of a record, in place: another name and size, other numbers."""
    name = f"organization-{index % 37}/model-{index:04}"
    record["model"] |= {
        "spec": name,
        "slug": name.replace("/", "-"),
        "fingerprint": f"{index:064x}",
    }
    record["model"]["parameters"] = int(10 ** rng.uniform(6, 11))
    for key, one in record["measurements"].items():
        if one.get("tokens_sha256"):
            one["tokens_sha256"] = f"{key} {index % TOKENIZERS}"
        for metric in one["metrics"].values():
            if metric["exact"]:
                continue
            shift = float(rng.normal(0, 0.2)) * (abs(metric["value"]) or 1)
            for bound in BOUNDS:
                if metric[bound] is not None:
                    metric[bound] += shift
            if metric["samples"]:
                spread = 0.05 * (abs(metric["value"]) or 1)
                noise = shift + rng.normal(0, spread, len(metric["samples"]))
                metric["samples"] = (np.array(metric["samples"]) + noise).tolist()
                metric["value"] = float(np.mean(metric["samples"]))


def make(folder: Path, sample: dict[str, Any], count: int) -> int:
    """Write the records; return their size in bytes."""
    rng = np.random.default_rng(0)
    size = 0
    metrics = {key: copy.deepcopy(one["metrics"]) for key, one in sample["measurements"].items()}
    for index in range(count):
        for key, one in sample["measurements"].items():
            one["metrics"] = copy.deepcopy(metrics[key])
        vary(sample, index, rng)
        path = folder / sample["model"]["slug"] / "results.json"
        path.parent.mkdir()
        sample["digest"] = sign(sample)
        size += path.write_text(json.dumps(sample, indent=1), encoding="utf-8")
    return size


def measure(folder: Path) -> list[tuple[str, float, float, float]]:
    """Return (what, seconds, of them on the processor, peak GiB so far) of every step."""
    from icl_bench.ranking import rank, read_entries
    from icl_bench.render.leaderboard import leaderboard_text
    from icl_bench.reports.leaderboard import write_leaderboard

    found: list[tuple[str, float, float, float]] = []

    def step(name: str, work: Callable[[], Any]) -> Any:
        start, busy = time.perf_counter(), time.process_time()
        result = work()
        spent = time.perf_counter() - start, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found.append((name, *spent, peak))
        return result

    entries = step("reading", lambda: read_entries([folder]).read)
    board = step("ranking", lambda: rank(entries))
    step("terminal", lambda: leaderboard_text(board))
    for name in ("md", "html", "csv", "json"):
        [path] = step(name, lambda name=name: write_leaderboard(board, folder, [name]))
        size = path.stat().st_size / 2**20
        found[-1] = (f"{name} ({size:.1f} MiB)", *found[-1][1:])
    return found


def main() -> None:
    """Make the records, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--sample", default=SAMPLE)
    parser.add_argument("--suite", nargs="+", help="default: all of the sample")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.one))))
        return
    sample = json.loads(Path(given.sample).read_text(encoding="utf-8"))
    if given.suite:
        sample = only(sample, given.suite)
    with tempfile.TemporaryDirectory() as name:
        size = make(Path(name), sample, given.records) / 2**20
        done = subprocess.run(
            [sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True
        )
    steps = json.loads(done.stdout)
    header = ["step", "seconds", "on the processor", "peak GiB"]
    print(f"{given.records} records, {size:.0f} MiB\n\n| {' | '.join(header)} |\n|---|---|---|---|")
    whole = [sum(step[place] for step in steps) for place in (1, 2)]
    for what, seconds, busy, peak in [*steps, ("all", *whole, steps[-1][3])]:
        print(f"| {what} | {seconds:.1f} | {busy:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
