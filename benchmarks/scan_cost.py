"""What a scan of every head costs, beside one plain forward pass of the same tokens.

    python benchmarks/scan_cost.py builtin:induction-2l
    python benchmarks/scan_cost.py SPEC --tokens 101 501 2001 --rounds 7

Each round runs the plain forward (logits of every position, the model's own attention), the
scan, and the forward with `output_attentions=True`, one after the other; printed are medians of
the per-round ratios. Run it alone: the numbers are ratios, but not of a machine that is busy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import icl_bench
from icl_bench.measures.tokens import RepeatedTokens


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--tokens", type=int, nargs="+", default=[101, 501, 1001, 2001])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--per-round", type=int, default=2048, help="tokens in one measurement")
    given = parser.parse_args()

    model = icl_bench.load_model(given.model)
    module = model.model
    print(f"{given.model}: {model.attention}, {torch.get_num_threads()} threads")
    print("tokens  rows  plain s  scan/plain  eager attentions/scan")
    for length in given.tokens:
        prefix = 0 if model.bos is None else 1
        period = min((length - prefix) // 2, len(model.vocabulary))
        rows = max(1, given.per_round // length)
        tokens = icl_bench.repeated_tokens(model, sequences=rows, period=period)
        model.batch_size = rows

        def plain(tokens: RepeatedTokens = tokens) -> None:
            with torch.no_grad():
                module(tokens.input_ids, use_cache=False)

        def scan(tokens: RepeatedTokens = tokens) -> None:
            icl_bench.head_scores(model, tokens)

        def eager(tokens: RepeatedTokens = tokens) -> None:
            before = module.config._attn_implementation
            module.config._attn_implementation = "eager"
            with torch.no_grad():
                module(tokens.input_ids, output_attentions=True, use_cache=False)
            module.config._attn_implementation = before

        for work in (plain, scan):
            work()
        times = [(clock(plain), clock(scan), clock(eager)) for _ in range(given.rounds)]
        base = statistics.median(a for a, _, _ in times)
        ratio = statistics.median(b / a for a, b, _ in times)
        gain = statistics.median(c / b for _, b, c in times)
        count = tokens.input_ids.shape[1]
        print(f"{count:6}  {rows:4}  {base:7.3f}  {ratio:10.2f}  {gain:21.2f}", flush=True)


if __name__ == "__main__":
    main()
