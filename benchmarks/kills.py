"""Runs that are ended from outside in the middle of something: is anything lost?

    python benchmarks/kills.py --terminate 20 --cold 25 --series 25

Each run is a process of its own with an empty cache. It stops at a drawn place, in a forward pass
or in the middle of writing a file, and gets its signal there: SIGTERM, or SIGKILL (`kill -9`) on
one model or on a series of checkpoints. After SIGTERM the record has to hold what was measured by
then; after either, a second run has to take it from the cache, measure the rest, and come to the
numbers of a run that nobody ended. Needs fork (not on Windows).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from icl_bench.api import load_model
from icl_bench.cli import main as icl_bench
from icl_bench.models.attention.paths import Runner
from icl_bench.records import writing
from icl_bench.records.reading import read_record
from icl_bench.running.model_cache import ModelCache

SUITE = """\
icl_suite: 1
name: kills
defaults: {sequences: 8, period: 8}
measure:
  repeats: {probe: induction, control: false}
  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 2}
  longer: {probe: induction, control: false, period: 12}
checks:
  - {id: first, on: repeats, metric: induction_max, above: -1}
  - {id: second, on: off, metric: gain, above: -99}
  - {id: third, on: longer, metric: induction_max, above: -1}
"""
MODEL, SERIES = "builtin:induction-2l", "builtin:induction-2l@*"
INTERRUPTED = 2
"""Exit code of a run that SIGTERM ended."""


@dataclass
class Outcome:
    """What became of runs that were ended.

    Args:
        ended: how many there were.
        finished: measurements that they had finished by then, all together.
        kept: those that the next run took from the cache.
        lost: what went wrong, in words.
    """

    ended: int = 0
    finished: int = 0
    kept: int = 0
    lost: list[str] = field(default_factory=list)


class Places:
    """Where a run may be ended: before each forward pass, and within each write.

    Args:
        log: file that gets a line for each measurement that is kept.
        stop_at: number of the place at which to wait for the signal; None for nowhere.
        mark: file that says that the run waits.
    """

    def __init__(self, log: Path, stop_at: int | None, mark: Path) -> None:
        self.count, self._log, self._stop_at, self._mark = 0, log, stop_at, mark

    def visit(self) -> None:
        """Wait here for the signal if this is the place."""
        if self.count == self._stop_at:
            self._stop_at = None  # reports are written after SIGTERM
            self._mark.touch()
            while True:
                time.sleep(0.01)
        self.count += 1

    def install(self) -> None:
        """Watch this process for the rest of its life."""
        forward, replace, keep = Runner.forward, os.replace, ModelCache.keep

        def watched(runner: Runner, *given: Any, **more: Any) -> Any:
            self.visit()
            return forward(runner, *given, **more)

        def replaced(source: Any, target: Any) -> None:
            self.visit()
            replace(source, target)

        def kept(cache: ModelCache, *given: Any) -> None:
            keep(cache, *given)
            with self._log.open("a") as stream:
                stream.write("kept\n")

        Runner.forward = watched  # type: ignore[method-assign]
        writing.os.replace = replaced  # type: ignore[assignment]
        ModelCache.keep = kept  # type: ignore[method-assign]


def start(folder: Path, spec: str, stop_at: int | None = None) -> tuple[int, Path]:
    """Start a run in a child process; return its id and the file that says that it waits.

    Args:
        folder: with the suite; gets cache, reports and logs.
        spec: the model.
        stop_at: where the run waits to be ended; None for nowhere.
    """
    mark = folder / "waiting"
    mark.unlink(missing_ok=True)
    if child := os.fork():
        return child, mark
    code = 3
    try:
        with (folder / "output").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(folder)
        places = Places(folder / "log", stop_at, mark)
        places.install()
        given = ["run", spec, "--suite=./kills.yaml", "--report-dir=reports", "--cache-dir=cache"]
        code = icl_bench(given)
        (folder / "places").write_text(str(places.count))
    finally:
        os._exit(code)


def finish(child: int) -> int:
    """Wait until a process ends; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_runs(count: int, spec: str, number: signal.Signals, draw: random.Random) -> Outcome:
    """End as many runs, each at a drawn place, and see what is left of them.

    Args:
        count: how many.
        spec: the model.
        number: the signal.
        draw: of the places.
    """
    outcome = Outcome()
    if not count:
        return outcome
    with tempfile.TemporaryDirectory() as name:
        whole = _prepare(Path(name))
        assert finish(start(whole, spec)[0]) == 0, (whole / "output").read_text()
        expected, places = _read(whole), int((whole / "places").read_text())
    for trial in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder, place = _prepare(Path(name)), draw.randrange(places)

            def lose(what: str, place: int = place, trial: int = trial) -> None:
                outcome.lost.append(f"{number.name} {trial} at {place} of {places}: {what}")

            _end_one(folder, spec, place, number, expected, outcome, lose)
    return outcome


def _end_one(
    folder: Path,
    spec: str,
    place: int,
    number: signal.Signals,
    expected: dict[str, Any],
    outcome: Outcome,
    lose: Callable[[str], None],
) -> None:
    child, mark = start(folder, spec, place)
    while not mark.exists():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            lose(f"it ended by itself: {status}")
            return
        time.sleep(0.01)
    os.kill(child, number)
    code = finish(child)
    log = folder / "log"
    done = log.read_text().count("kept") if log.exists() else 0
    outcome.ended += 1
    outcome.finished += done
    if code != (INTERRUPTED if number == signal.SIGTERM else -number):
        lose(f"exit code {code}: {(folder / 'output').read_text()[-300:]}")
    if number == signal.SIGTERM and done:
        record = read_record(_record_of(folder))
        if record.status not in ("interrupted", "complete"):
            lose(f"its record is {record.status}")
        if (held := _count(record)) < done:
            lose(f"{held} of {done} measurements are in the record")
    again = finish(start(folder, spec)[0])
    if again != 0:
        lose(f"the next run ends {again}: {(folder / 'output').read_text()[-300:]}")
        return
    record = read_record(_record_of(folder))
    kept = _count(record, cached=True)
    outcome.kept += kept
    if kept < done:
        lose(f"{kept} of {done} measurements were kept")
    if _read(folder) != expected:
        lose("the numbers are others")


def _prepare(folder: Path) -> Path:
    (folder / "kills.yaml").write_text(SUITE)
    return folder


def _record_of(folder: Path) -> Path:
    [path] = folder.glob("reports/*/results.json")
    return path


def _count(record: Any, cached: bool = False) -> int:
    """Measurements of a record, those of a series at each step; with `cached` the kept ones."""
    count = 0
    for taken in record.measurements.values():
        steps = taken.tables.get("steps")
        if steps is None:
            count += taken.status == "measured" and (taken.cached or not cached)
        else:
            count += len(taken.cached_steps if cached else steps)
    return count


def _read(folder: Path) -> dict[str, Any]:
    """Everything that was measured, without how long it took and whether it was kept."""
    record = read_record(_record_of(folder))
    left_out = {"seconds", "cached", "cached_steps"}
    return {key: taken.model_dump(exclude=left_out) for key, taken in record.measurements.items()}


def main() -> int:
    """End as many runs as asked, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--terminate", type=int, default=0, help="runs to end by SIGTERM")
    parser.add_argument("--cold", type=int, default=0, help="runs of one model to end by kill -9")
    parser.add_argument("--series", type=int, default=0, help="runs of a series, by kill -9")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # what is forked has no other threads
    load_model(MODEL)
    assert transformers.__version__  # imported once, for all that are forked
    draw = random.Random(given.seed)
    kinds = {
        "SIGTERM": (given.terminate, MODEL, signal.SIGTERM),
        "kill -9": (given.cold, MODEL, signal.SIGKILL),
        "kill -9, a series": (given.series, SERIES, signal.SIGKILL),
    }
    print("| ended by | runs | finished by then | kept | lost |")
    print("|---|---|---|---|---|", flush=True)
    lost: list[str] = []
    for name, kind in kinds.items():
        one = end_runs(*kind, draw)
        print(
            f"| {name} | {one.ended} | {one.finished} | {one.kept} | {len(one.lost)} |", flush=True
        )
        print(*one.lost, sep="\n", end="", file=sys.stderr)
        lost += one.lost
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
