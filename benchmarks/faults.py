"""Breaks files on purpose, by a seeded generator, and counts what is not noticed.

`--flips N` flips N single bits in a record, an entry of the cache and a baseline each: every one
must be noticed, unless the values in the file are the same afterwards. `--models N` mutates model
files (config, index, headers): each must be refused by one message, or be left to loading.
`--records N` mutates records: each must be refused by one message, or be rendered in every format.
Exit code 1 where something was not noticed or escaped.

    python benchmarks/faults.py --flips 300 --models 20000 --records 2000
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import random
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_bench.ci.findings import of_comparison, of_records
from icl_bench.ci.github import annotate
from icl_bench.ci.gitlab import code_quality, openmetrics
from icl_bench.ci.junit import file_properties
from icl_bench.comparing import compare
from icl_bench.errors import InputError, RecordError, SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.ranking import rank, read_entries
from icl_bench.records.parts import Measurement
from icl_bench.records.reading import read_numbers, read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown, comparison_text
from icl_bench.render.html.report import report_page
from icl_bench.render.leaderboard import leaderboard_text
from icl_bench.render.terminal import summary
from icl_bench.reports.files import REPORTS, SERIES_REPORTS
from icl_bench.reports.leaderboard import write_leaderboard
from icl_bench.running.cache import Cache, CacheWarning

SAMPLES = Path(__file__).parents[1] / "reports" / "samples"
SAMPLE = SAMPLES / "builtin-induction-2l" / "results.json"
SERIES = SAMPLES / "builtin-induction-2l--" / "results.json"
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**70, -0.5, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "0", "../x", "/x", "\x1b[31m", "a\n::error::b", "<script>", "ä" * 3, "\ud800"),
    *([], {}, [[]], [0], ["x"], [None], {"a": 1}, {"": []}),
]
"""Values that stand where something else is expected."""


@dataclass
class Outcome:
    """What became of broken files.

    Args:
        tried: how many there were.
        told: refused by a message, or measured anew with one.
        same: their values were what they had been.
        accepted: taken for sound, where that is no fault.
        escaped: what was neither, in words.
    """

    tried: int = 0
    told: int = 0
    same: int = 0
    accepted: int = 0
    escaped: list[str] = field(default_factory=list)


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
                outcome.escaped.append(f"{name}: byte {place}, bit {bit}: {_show(error)}")
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


def mutate_models(count: int, folder: Path, seed: int = 0) -> Outcome:
    """Mutate config, index and headers of model files, and check each as a run would.

    Args:
        count: how many.
        folder: an empty one.
        seed: of the mutations.
    """
    draw, outcome = random.Random(seed), Outcome()
    sound = dict(_model_files())
    for number in range(count):
        file = draw.choice(list(sound))
        target = folder / "model"
        target.mkdir(exist_ok=True)
        for name, content in sound.items():
            (target / name).write_bytes(content)
        (target / file).write_bytes(_mutate_file(sound[file], file, draw))
        spec = target / file if file.endswith(".gguf") else target
        outcome.tried += 1
        try:
            check_spec(parse_spec(str(spec)))
        except SpecError as error:
            if len(str(error).splitlines()) > 1:
                outcome.escaped.append(f"{number}: {file}: several lines: {error}")
            outcome.told += 1
        except Exception as error:
            outcome.escaped.append(f"{number}: {file}: {_show(error)}")
        else:
            outcome.accepted += 1
    return outcome


def _model_files() -> Iterator[tuple[str, bytes]]:
    """A checkpoint of two shards and a GGUF file, as small as they can be."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 8),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 2),
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "auto_map": {"AutoModel": "code.Model"},
        "text_config": {"hidden_size": 8, "model_type": "llama"},
    }
    yield "config.json", json.dumps(config).encode()
    names = ("a.safetensors", "b.safetensors")
    index = {"metadata": {"total_size": 16}, "weight_map": dict(zip("ab", names))}
    yield "model.safetensors.index.json", json.dumps(index).encode()
    for name in names:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        header = json.dumps({name[0]: entry, "__metadata__": {"format": "pt"}}).encode()
        yield name, struct.pack("<Q", len(header)) + header + bytes(8)
    yield "model.gguf", _gguf()


def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("llama.block_count") + struct.pack("<II", 4, 2),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("scores") + struct.pack("<IIQff", 9, 6, 2, 0.0, 1.0),
    ]
    tensor = text("w") + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32 + 16)


def _mutate_file(content: bytes, name: str, draw: random.Random) -> bytes:
    if name.endswith(".json") and draw.random() < 0.7:
        return _dump(mutate(json.loads(content), draw))
    if name.endswith(".safetensors") and draw.random() < 0.7:
        (length,) = struct.unpack("<Q", content[:8])
        header = _dump(mutate(json.loads(content[8 : 8 + length]), draw))
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    broken = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(broken) + 1) - 1
        match draw.randrange(4):
            case 0:
                broken[place : place + 1] = draw.randbytes(1)
            case 1:
                broken[place : place + 1] = draw.randbytes(draw.randint(0, 9))
            case 2:
                broken[place : place + 8] = draw.choice([b"\xff" * 8, bytes(8), b"[" * 5000])
            case _:
                del broken[max(place, 1) :]
    return bytes(broken)


def mutate(data: Any, draw: random.Random) -> Any:
    """Return parsed JSON with one to three places of it changed.

    Args:
        data: it stays as it is.
        draw: where, and into what.
    """
    data = copy.deepcopy(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place = data
        while isinstance(place, (dict, list)) and place:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw.random() < 0.9:
                place = inner
                continue
            match draw.randrange(6):
                case 0:
                    del place[key]
                case 1 if isinstance(place, dict):
                    place[str(draw.choice(ODD))] = place.pop(key)
                case 2 if type(inner) in (int, float):
                    place[key] = inner * draw.choice([-1, 0, 1e6, 1e300, 2**40])
                case _:
                    place[key] = copy.deepcopy(draw.choice(ODD))
            break
    return data


def mutate_record(data: Any, draw: random.Random) -> Any:
    """Return a record's data with something changed, mostly where its types say least.

    Args:
        data: it stays as it is.
        draw: where, and into what.
    """
    if draw.random() < 0.2:
        return mutate(data, draw)
    data = copy.deepcopy(data)
    taken = draw.choice(list(data["measurements"].values()))
    rows = draw.choice([taken["heads"], *taken["tables"].values(), data["checks"]])
    values = [*ODD, 1e308, -1e308, 5e-324, 2**53, -3, 10**400, "midpoint", ["a", "b"]]
    if not rows or draw.random() < 0.15:
        part = draw.choice([taken["settings"], taken["metrics"], taken["tables"], data["model"]])
        if part:
            part[draw.choice(list(part))] = copy.deepcopy(draw.choice(values))
        return data
    some = rows if draw.random() < 0.5 else [draw.choice(rows)]
    name, value = draw.choice(list(draw.choice(rows))), draw.choice(values)
    match draw.randrange(6):
        case 0:
            for row in some:
                row.pop(name, None)
        case 1:
            del rows[draw.randrange(2) :]
        case 2:
            rows[:] = draw.choice([rows * 2, rows[::-1], [{} for _ in rows]])
        case 3 if type(some[0].get(name)) in (int, float):
            for row in some:
                if type(row.get(name)) in (int, float):
                    row[name] = draw.choice([-1, 1e300, 0, 1e-300]) * row[name]
        case _:
            for row in some:
                row[name] = copy.deepcopy(value)
    return data


def _dump(data: Any) -> bytes:
    return json.dumps(data).encode()


def mutate_records(
    count: int, folder: Path, seed: int = 0, samples: Sequence[Path] = (SAMPLE, SERIES)
) -> Outcome:
    """Mutate records, and render in every format each that is accepted.

    Args:
        count: how many.
        folder: an empty one.
        seed: of the mutations.
        samples: sound records.
    """
    draw, outcome = random.Random(seed), Outcome()
    sound = {path: json.loads(path.read_bytes()) for path in samples}
    records = {path: read_record(path) for path in samples}
    for name, path in zip("ab", samples):
        (folder / name).mkdir()
        (folder / name / "results.json").write_bytes(path.read_bytes())
    odd = folder / "odd" / "results.json"
    odd.parent.mkdir()
    for number in range(count):
        path = draw.choice(samples)
        data = mutate_record(sound[path], draw)
        data.pop("digest", None)
        odd.write_bytes(_dump(data))
        outcome.tried += 1
        try:
            record = read_record(odd)
        except RecordError as error:
            outcome.told += 1
            if "\n" in str(error):
                outcome.escaped.append(f"{number}: several lines: {error}")
            continue
        except Exception as error:
            outcome.escaped.append(f"{number}: reading: {_show(error)}")
            continue
        outcome.accepted += 1
        for name, render in _renderings(record, records[path], folder).items():
            try:
                render()
            except (InputError, UnicodeEncodeError) as error:
                if isinstance(error, UnicodeEncodeError):
                    outcome.escaped.append(f"{number}: {name}: {_show(error)}")
            except Exception as error:
                outcome.escaped.append(f"{number}: {name}: {_show(error)}")
    return outcome


def _renderings(
    record: RunRecord, other: RunRecord, folder: Path
) -> dict[str, Callable[[], object]]:
    """Every form that a record is shown in, by name."""

    def compared(before: RunRecord, now: RunRecord) -> None:
        found = compare(before, now)
        comparison_text(found)
        comparison_markdown(found)
        json.dumps(found.as_data(), allow_nan=False)
        annotate(of_comparison(found, {}))

    def ranked() -> None:
        board = rank(read_entries([folder]).read)
        leaderboard_text(board)
        write_leaderboard(board, folder / "board")

    def told() -> None:
        code_quality(of_records([record], {}))
        openmetrics([record])
        file_properties([record])

    made: dict[str, Callable[[], object]] = {
        name: functools.partial(make, record) for name, make in (REPORTS | SERIES_REPORTS).items()
    }
    made["report.html"] = lambda: report_page(record, "plotly.js")
    made["terminal"] = lambda: summary([record, other])
    made["comparison"] = lambda: compared(other, record)
    made["comparison, as a baseline"] = lambda: compared(record, other)
    made["leaderboard"] = ranked
    made["CI"] = told
    return made


def _show(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "icl_bench" in Path(one.filename).parts] or frames
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__}: {error} ({at})"[-300:]


def main() -> int:
    """Break as many files as asked, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=0, help="bits to flip in each kind of file")
    parser.add_argument("--models", type=int, default=0, help="model files to mutate")
    parser.add_argument("--records", type=int, default=0, help="records to mutate")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        if given.flips:
            found |= flip_bits(given.flips, Path(folder), given.seed)
        if given.models:
            found["model files"] = mutate_models(given.models, Path(folder), given.seed)
        if given.records:
            empty = Path(folder, "records")
            empty.mkdir()
            found["records"] = mutate_records(given.records, empty, given.seed)
    print("| files | broken | told | same values | accepted | escaped |")
    print("|---|---|---|---|---|---|")
    for name, one in found.items():
        print(
            f"| {name} | {one.tried} | {one.told} | {one.same} | {one.accepted} "
            f"| {len(one.escaped)} |"
        )
    escaped = [line for one in found.values() for line in one.escaped]
    print(*escaped[:100], sep="\n", file=sys.stderr)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
