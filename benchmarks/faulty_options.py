"""Mutated options, specs and limits, alone and as whole command lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faulty_records import SAMPLE
from mutations import Hang, Outcome, explain_message, patience

from icl_bench.cli import main
from icl_bench.comparing import compare, parse_limit
from icl_bench.errors import InputError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.naming import explain_name, name_models
from icl_bench.options import read_int, read_size
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_text
from icl_bench.reports.files import folder_name
from icl_bench.running.request import Request

SPECS = [
    *("builtin:induction-2l", "builtin:induction-2l@*", "builtin:control-1l@100,200", "runs@*"),
    *("org/name", "org/name@main", "org/name@step*", "name=org/name", "model", "./model", "~/m"),
    *("file.gguf", "json:loads", "os.path:join", "mine=builtin:handwired", "runs@step10", "a=b=c"),
    *("https://huggingface.co/org/name/tree/main", "s3://bucket/x", "file.gguf@2", "/nowhere/m"),
]
LIMITS = ["induction_max=0.05", "repeated_loss=5%", "gain=noise", "*=-0.1", "core/repeats.x=+2%"]
NUMBERS = [
    "0",
    "1",
    "8",
    "-1",
    "1e3",
    "0x10",
    "1_000",
    "²",
    "٣",
    "9" * 30,
    "9" * 5000,
    "nan",
    "1.5",
]
SIZES = ["500MB", "1.5GiB", "2Mi", "0", "1e9", "9" * 400 + "GB", "-1", "5 kB", "MB", "1.2.3GB"]
PATHS = ["out", "a/b", "x" * 300, "../out", ".", "", "s3://b/x", "file:/x", "plain.txt", "ä\u202e"]
WORDS = ["auto", "cpu", "cuda:99", "float32", "bfloat16", "x", "", "inline", "fail", "warn", "yes"]
SIGNS = [
    "@",
    "*",
    ",",
    "=",
    "+",
    "%",
    ":",
    "/",
    "\\",
    "..",
    "\x00",
    "\x1b[1m",
    "\u202e",
    "\ud800",
    " ",
]
SUITE = """\
icl_suite: 1
name: tiny
measure: {r: {probe: induction, sequences: 2, period: 6, control: false}}
checks: [{id: c, on: r, metric: induction_max, at_least: -1, models: ["*"]}]
"""


def mutate_text(text: str, draw: random.Random) -> str:
    """Return a text with one or two characters or parts of it changed.

    Args:
        text: what is sound.
        draw: where, and into what.
    """
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        at, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        match draw.randrange(5):
            case 0:
                text = text[:at] + text[end:]
            case 1 | 2:
                text = text[:at] + draw.choice(SIGNS) + text[at:]
            case 3:
                text = text[:at] + text[at:end] * draw.choice([2, 50, 3000]) + text[end:]
            case _:
                text = text[:at] + draw.choice([*NUMBERS, *WORDS]) + text[end:]
    return text


def mutate_options(count: int, folder: Path, seed: int = 0, longest: int = 0) -> Outcome:
    """Mutate specs, limits and values of options, and read each as a run would.

    Args:
        count: how many.
        folder: an empty one; the working directory meanwhile.
        seed: of the mutations.
        longest: seconds that one may take; 0 for no limit.
    """
    draw, outcome = random.Random(seed), Outcome()
    record = read_record(SAMPLE)
    record.measurements = {
        key: taken for key, taken in record.measurements.items() if key.startswith("gate/")
    }
    readers: list[tuple[list[str], Callable[[str], object]]] = [
        (SPECS, _read_spec),
        (SPECS, _read_spec),
        (LIMITS, lambda text: _read_limit(text, record)),
        (SIZES, lambda text: read_size(text, "--cache-limit")),
        (NUMBERS, lambda text: read_int(text, "--seed")),
        ([*WORDS, *NUMBERS, *SIZES, *PATHS], lambda text: _read_request(text, draw)),
    ]
    with _within(folder):
        for number in range(count):
            sound, read = draw.choice(readers)
            text = mutate_text(draw.choice(sound), draw)
            outcome.tried += 1
            try:
                with patience(longest):
                    read(text)
                outcome.accepted += 1
            except InputError as error:
                outcome.refused(number, error)
            except (Exception, Hang) as error:
                outcome.fault(number, repr(text)[:80], error)
    return outcome


def _read_spec(text: str) -> None:
    spec = parse_spec(text)
    (name,) = name_models([spec])
    if name != folder_name(name) or explain_name(name) or explain_message(name):
        raise AssertionError(f"{name!r} is no name of a folder")
    told = spec.describe(name)
    RunRecord.model_validate({**_EMPTY, "model": json.loads(json.dumps(told))}).to_json()
    if spec.kind != "callable":  # opened in a process of its own, by code of the user's
        check_spec(spec)


_EMPTY = {
    **{"schema": 1, "icl_bench": "0", "created": "x", "suites": []},
    "environment": {"python": "3", "platform": "x"},
}


def _read_limit(text: str, record: RunRecord) -> None:
    found = compare(record, record, [parse_limit(text)])
    comparison_text(found)
    json.dumps(found.as_data(), allow_nan=False)


def _read_request(text: str, draw: random.Random) -> None:
    from icl_bench.options import OPTIONS

    values: dict[str, Any] = {option.dest: option.default for option in OPTIONS.values()}
    values[draw.choice([key for key in values if key != "model"])] = text
    values["limit"] = [values["limit"]] if values["limit"] else []
    request = Request.read(values.get, [], prefix="--icl-")
    for option in ("code-quality", "openmetrics"):
        request.file(option)


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Work in a folder with a suite, a record and a broken checkpoint, away from home and hub."""
    from huggingface_hub import constants

    before = Path.cwd(), os.environ.copy(), constants.HF_HUB_OFFLINE
    home = folder / "home"
    home.mkdir(exist_ok=True)
    os.environ.update(HOME=str(home), ICL_BENCH_CACHE=str(home / "cache"), HF_HUB_OFFLINE="1")
    constants.HF_HUB_OFFLINE = True
    work = folder / "work" / "here"
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    try:
        yield
    finally:
        os.chdir(before[0])
        os.environ.clear()
        os.environ.update(before[1])
        constants.HF_HUB_OFFLINE = before[2]


def mutate_commands(count: int, folder: Path, seed: int = 0, longest: int = 0) -> Outcome:
    """Run command lines with mutated words: each ends in a message and exit code 4, or does it.

    Args:
        count: how many.
        folder: an empty one; the working directory meanwhile.
        seed: of the mutations.
        longest: seconds that one may take; 0 for no limit.
    """
    draw, outcome = random.Random(seed), Outcome()
    with _within(folder):
        for number in range(count):
            _furnish(Path.cwd())
            words = _command(draw)
            outcome.tried += 1
            try:
                with patience(longest):
                    code, printed, told = run_command(words)
            except (Exception, Hang) as error:
                outcome.fault(number, repr(words)[:200], error)
                continue
            if code == 4:
                outcome.told += 1
            else:
                outcome.accepted += 1
            if why := _explain(words, code, printed, told):
                outcome.fault(number, repr(words)[:200], why)
    return outcome


def _furnish(folder: Path) -> None:
    """Put what commands are about into an empty working directory."""
    for path in (*folder.parent.iterdir(), *folder.iterdir()):
        if path != folder:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "tiny.yaml").write_text(SUITE)
    (folder / "plain.txt").write_text("text")
    (folder / "runs" / "a").mkdir(parents=True)
    record = folder / "runs" / "a" / "results.json"
    record.symlink_to(SAMPLE.parents[1] / "builtin-control-1l--" / "results.json")


def _command(draw: random.Random) -> list[str]:
    """A command line; most have one wrong word."""

    def some(texts: Sequence[str], odds: float = 0.3) -> str:
        text = draw.choice(texts)
        return mutate_text(text, draw) if draw.random() < odds else text

    options: dict[str, Sequence[str]] = {
        **dict.fromkeys(("--report-dir", "--save-baseline", "--cache-dir"), PATHS),
        **dict.fromkeys(("--code-quality", "--openmetrics"), PATHS),
        **dict.fromkeys(("--device", "--dtype", "--inconclusive", "--plotly", "--color"), WORDS),
        **dict.fromkeys(("--batch-size", "--seed"), NUMBERS),
        "--cache-limit": SIZES,
        "--limit": LIMITS,
        "--baseline": ["runs/a", "plain.txt", "nowhere.json", "."],
    }
    good = {"--device": "cpu", "--dtype": "float32", "--seed": "3", "--report-dir": "out"}
    match draw.randrange(6):
        case 0 | 1:
            words = ["run", "builtin:handwired" if draw.random() < 0.6 else some(SPECS)]
            words.append("--suite=" + some(["tiny.yaml"] * 4 + ["gate", "plain.txt"], 0.1))
            for name in draw.sample(list(options), draw.choice([0, 1, 1, 2])):
                words.append(f"{name}={some(options[name])}")
            given = {word.partition("=")[0] for word in words}
            words += [f"{name}={value}" for name, value in good.items() if name not in given]
        case 2:
            words = ["compare", some(["runs/a", "plain.txt"], 0.1), some(["runs/a", "."], 0.1)]
            words += draw.choice([[], [f"--limit={some(LIMITS)}"], [f"--md={some(PATHS)}"]])
        case 3:
            words = ["leaderboard", some(["runs", "runs/a", "plain.txt", "nowhere"], 0.1)]
            words += draw.choice([[], [f"--score={some(LIMITS)}"], [f"--suite={some(WORDS)}"]])
            words.append(f"--output={some(PATHS)}")
        case 4:
            words = ["report", some(["runs/a", "runs", "plain.txt"], 0.1)]
            words.append(f"--output={some(PATHS)}")
        case _:
            words = [draw.choice(["validate", "list", "cache", "run", "x", "schema", "compare"])]
            words += draw.sample(
                ["tiny.yaml", "suites", "--json", "--clear", "-x", "--", "-", "--limit"], 1
            )
    if draw.random() < 0.15:
        at = draw.randrange(len(words))
        words[at] = mutate_text(words[at], draw)
    return words


def run_command(words: Sequence[str]) -> tuple[int, str, str]:
    """Run `icl-bench` in this process; return exit code, standard output and standard error.

    Args:
        words: after the program's name.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            code = main(list(words))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, texts[0], texts[1]


def _explain(words: Sequence[str], code: int, printed: str, told: str) -> str | None:
    """Return what is wrong with how a command ended; None if nothing is."""
    if code not in (0, 1, 4):
        return f"exit code {code}: {told[-300:]!r}"
    if "Traceback" in told + printed:
        return f"a traceback: {told[-300:]!r}"
    if code == 4 and words[:1] != []:
        if printed and "usage" not in printed:
            return f"exit code 4 after {printed[:100]!r}"
        if why := explain_message(told.rstrip("\n"), lines=21):
            return None if printed else why
    if code == 1 and not (printed + told).strip():
        return "exit code 1 without a word"
    if code == 0 and words[0] == "run" and "--help" not in words:
        found = [json.loads(path.read_bytes()) for path in Path.cwd().parent.rglob("results.json")]
        own = [one for one in found if any(suite["name"] == "tiny" for suite in one["suites"])]
        verdicts = [check["verdict"] for one in own for check in one["checks"]]
        if not {"pass", "inconclusive"} & {*verdicts} and "--suite=gate" not in words:
            return f"green, and nothing was decided: {printed[-200:]!r}"
    return None
