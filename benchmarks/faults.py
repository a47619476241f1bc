"""Breaks inputs on purpose, by seeded generators, and counts what is not noticed.

`--flips N` flips N single bits in a record, an entry of the cache and a baseline each: every one
must be noticed, unless the values in the file are the same afterwards. The others mutate inputs:
each must be refused by one message that names the place, or be used to the end. `--models N`
mutates model files (config, index, headers), `--records N` records, which are rendered in every
format, `--suites N` suites, which are planned, judged on made-up numbers and shown, `--options N`
specs, limits and values of options, `--commands N` whole command lines, which are run.
Exit code 1 where something was not noticed or escaped: a traceback, more than a minute, a green run
that decided nothing, a message with control characters or without the place.

    python benchmarks/faults.py --seed 7 --flips 300 --models 6000 --suites 8000 --options 6000 \\
        --commands 1000 --records 2000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from faulty_models import mutate_models
from faulty_options import mutate_commands, mutate_options
from faulty_records import SAMPLE, mutate_records
from faulty_suites import mutate_suites
from mutations import Outcome, show_error

from icl_bench.errors import RecordError
from icl_bench.records.parts import Measurement
from icl_bench.records.reading import read_numbers, read_record
from icl_bench.running.cache import Cache, CacheWarning

LONGEST = 60
"""Seconds after which a case counts as a hang."""
GENERATORS = {
    "models": ("model files", mutate_models),
    "records": ("records", mutate_records),
    "suites": ("suites", mutate_suites),
    "options": ("options, specs and limits", mutate_options),
    "commands": ("command lines", mutate_commands),
}
"""Option -> what it mutates, and the generator."""


def flip_bits(count: int, folder: Path, seed: int = 0) -> dict[str, Outcome]:
    """Flip single bits in a record, as rankings read it too, and in an entry of the cache.

    Args:
        count: bits per file.
        folder: an empty one.
        seed: of the places.
    """
    record = read_record(SAMPLE)
    path = record.write(folder / "results.json")
    key, cache = "0" * 64, Cache(folder / "cache")
    cache.keep(key, next(iter(record.measurements.values())))
    entry = folder / "cache" / "measurements" / f"{key}.json"
    readers: dict[str, tuple[Path, Callable[[], object]]] = {
        "record or baseline": (path, lambda: read_record(path)),
        "record in a ranking": (path, lambda: read_numbers(path)),
        "entry of the cache": (entry, lambda: _find(folder / "cache", key)),
    }
    found = {}
    for name, (file, read) in readers.items():
        draw, outcome = random.Random(seed), Outcome()
        content = file.read_bytes()
        values = json.loads(content)
        for _ in range(count):
            place, bit = draw.randrange(len(content)), draw.randrange(8)
            broken = bytearray(content)
            broken[place] ^= 1 << bit
            file.write_bytes(broken)
            outcome.tried += 1
            try:
                read()
            except RecordError:
                outcome.told += 1
            except Exception as error:
                outcome.escaped.append(f"{name}: byte {place}, bit {bit}: {show_error(error)}")
            else:
                if json.loads(broken) == values:
                    outcome.same += 1
                else:
                    outcome.escaped.append(f"{name}: byte {place}, bit {bit}: not noticed")
        file.write_bytes(content)
        read()
        found[name] = outcome
    return found


def _find(folder: Path, key: str) -> Measurement:
    """An entry of the cache; RecordError where it is told to be measured anew."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = Cache(folder).find(key)
    if found is None:
        if not any(issubclass(one.category, CacheWarning) for one in told):
            raise LookupError("measured anew without a word")
        raise RecordError("measured anew")
    return found


def main() -> int:
    """Break as many inputs as asked, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=0, help="bits to flip in each kind of file")
    for name, (what, _) in GENERATORS.items():
        parser.add_argument(f"--{name}", type=int, default=0, help=f"{what} to mutate")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| inputs | broken | refused | same values | accepted | escaped | seconds |")
    print("|---|---|---|---|---|---|---|")
    escaped = 0
    for name, one, seconds in _tries(given):
        print(
            f"| {name} | {one.tried:,} | {one.told:,} | {one.same} | {one.accepted:,} "
            f"| {len(one.escaped)} | {seconds:.0f} |",
            flush=True,
        )
        print(*(f"{name}: {line}" for line in one.escaped[:100]), sep="\n", file=sys.stderr)
        escaped += len(one.escaped)
    return 1 if escaped else 0


def _tries(given: argparse.Namespace) -> Iterator[tuple[str, Outcome, float]]:
    """What was broken, what became of it, and the seconds that took."""
    with tempfile.TemporaryDirectory() as folder:
        if given.flips:
            start = time.monotonic()
            found = flip_bits(given.flips, Path(folder), given.seed)
            for name, outcome in found.items():
                yield name, outcome, (time.monotonic() - start) / len(found)
    for name, (what, generate) in GENERATORS.items():
        if count := getattr(given, name):
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                outcome = generate(count, Path(folder), given.seed, LONGEST)
            yield what, outcome, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
