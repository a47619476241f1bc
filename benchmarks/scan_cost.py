"""What a scan of every head costs, beside other ways to the same scores on the same tokens.

    python benchmarks/scan_cost.py SPEC
    python benchmarks/scan_cost.py SPEC --tokens 101 501 2001 --rounds 7 --contenders plain scan
    python benchmarks/scan_cost.py SPEC --up-to eager=2001 lens=2001

Each round runs every contender once, one after the other (`contenders.py` says what they are);
printed are medians of the rounds' ratios, with their range, and how far the scores of each are
from the scan's. A contender that needs more memory than there is, or that `--up-to` leaves out,
is listed as not run. Run it alone: a busy machine makes even ratios worth less.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from functools import partial

import torch
from contenders import CONTENDERS, GIB, Run, draw
from rounds import alternate, free_bytes, ratio, row, table

import icl_bench

LENGTHS = [101, 501, 1001, 2001, 4001, 8001]
WITHIN = 1e-4


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=2048, help="tokens of all sequences")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--up-to",
        nargs="+",
        default=[],
        metavar="NAME=TOKENS",
        help="leave a contender out above this length",
    )
    parser.add_argument("--memory", type=float, metavar="GIB", help="default: what is free")
    given = parser.parse_args()
    limits = {name: int(most) for name, _, most in (text.partition("=") for text in given.up_to)}
    if unknown := limits.keys() - CONTENDERS.keys():
        parser.error(f"--up-to: no contender {', '.join(unknown)}")

    model = icl_bench.load_model(given.model)
    print(f"{given.model}: attention {model.attention}, {torch.get_num_threads()} threads\n")
    print("seconds and ratios are medians; in brackets the range over rounds\n")
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}
    for name in given.contenders:
        try:
            runs[name] = CONTENDERS[name].build(model, False)
        except (ImportError, ValueError) as error:
            absent[name] = f"not run: {str(error).splitlines()[0][:80]}"
    header = ["tokens", "contender", "/ plain", "/ scan", "seconds", "off from scan"]
    print(table(header, []), flush=True)
    for length in given.tokens:
        if model.context is not None and length > model.context:
            print(row(str(length), "all", f"not run: the context is {model.context}", "", "", ""))
            continue
        tokens = draw(model, length, given.per_round)
        count = tokens.input_ids.shape
        free = free_bytes() if given.memory is None else given.memory * GIB
        notes = dict(absent)
        works = {}
        for name, run in runs.items():
            need = CONTENDERS[name].need(model, *count)
            if length > limits.get(name, length):
                notes[name] = "not run: left out by --up-to"
            elif need > free:
                notes[name] = f"not run: would need {need / GIB:.1f} GiB, {free / GIB:.1f} free"
            else:
                works[name] = partial(run, tokens)
        times = alternate(works, given.rounds)
        scan = works["scan"]() if "scan" in works else None
        for name in given.contenders:
            first = (f"{count[0]} x {count[1]}", name)
            if name in notes:
                print(row(*first, notes[name], "", "", ""))
                continue
            ratios = [
                ("1" if base == name else ratio(times[name], times[base])) if base in times else "-"
                for base in ("plain", "scan")
            ]
            scores = works[name]() if scan is not None else None
            off = "-"
            if scores is not None:
                apart = float((scores.double() - scan.double()).abs().max())
                off = f"{apart:.1g}" if apart <= WITHIN else f"{apart:.1g}: not the same scores"
            print(row(*first, *ratios, f"{statistics.median(times[name]):.3f}", off), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
