"""How much memory a scan of every head takes, beside other ways to the same scores.

    python benchmarks/memory.py SPEC
    python benchmarks/memory.py SPEC --tokens 101 2001 --contenders plain scan eager

Every contender runs each length in a process of its own, after a pass over few tokens, so that
libraries are loaded and the weights read. Peak is the most that the process held at once (of it
the weights), `above` what the run added to what was there before it. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

from rounds import free_bytes, row, table

LENGTHS = [101, 501, 1001, 2001, 4001, 8001]
GIB = 2**30


def read_status(name: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def reset_peak() -> bool:
    """Let VmHWM start anew; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure(spec: str, name: str, length: int, per_round: int) -> dict[str, int | str | bool]:
    """Run one contender in this process and return bytes before, at the peak, and the need."""
    from contenders import CONTENDERS, draw

    import icl_bench

    model = icl_bench.load_model(spec)
    if model.context is not None and length > model.context:
        return {"why": f"the context is {model.context}"}
    contender = CONTENDERS[name]
    tokens = draw(model, length, per_round)
    need = contender.need(model, *tokens.input_ids.shape)
    if need > free_bytes():
        free = free_bytes() / GIB
        return {"why": f"would need {need / GIB:.1f} GiB, {free:.1f} free"}
    few = draw(model, 32, 32)
    tokens = draw(model, length, per_round)
    try:
        run = contender.build(model, True)
    except (ImportError, ValueError) as error:
        return {"why": str(error).splitlines()[0][:80]}
    run(few)
    gc.collect()
    # Freed memory that the allocator keeps would hide what the run takes.
    ctypes.CDLL(None).malloc_trim(0)
    fresh = reset_peak()
    before = read_status("VmRSS")
    run(tokens)
    return {"before": before, "peak": read_status("VmHWM"), "fresh": fresh}


def main() -> None:
    """Measure and print a table."""
    from contenders import CONTENDERS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--per-round", type=int, default=2048, help="tokens of all sequences")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        found = measure(given.model, given.contenders[0], given.tokens[0], given.per_round)
        print(json.dumps(found))
        return

    header = ["tokens", "contender", "above GiB", "peak GiB", "above / plain", "peak / plain"]
    print(f"{given.model}\n\n{table(header, [])}", flush=True)
    for length in given.tokens:
        plain: dict | None = None
        for name in given.contenders:
            command = [sys.executable, __file__, given.model, "--one", "--contenders", name]
            command += ["--tokens", str(length), "--per-round", str(given.per_round)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            line = [str(length), name]
            if done.returncode:
                # Out of memory, the kernel ends the process with signal 9.
                line += [f"not run: it ended with {done.returncode}", "", "", ""]
            else:
                found = json.loads(done.stdout.splitlines()[-1])
                plain = found if name == "plain" and "peak" in found else plain
                line += describe(found, plain)
            print(row(*line), flush=True)


def describe(found: dict, plain: dict | None) -> list[str]:
    """Return the last four columns of a row."""
    if "why" in found:
        return [f"not run: {found['why']}", "", "", ""]
    above = found["peak"] - found["before"]
    columns = [f"{above / GIB:.2f}", f"{found['peak'] / GIB:.2f}"]
    if not found["fresh"]:
        columns[0] += " (or less: the peak of loading is in it)"
    if plain is None:
        return [*columns, "-", "-"]
    base = max(1, plain["peak"] - plain["before"])
    return [*columns, f"{above / base:.2f}", f"{found['peak'] / plain['peak']:.2f}"]


if __name__ == "__main__":
    main()
