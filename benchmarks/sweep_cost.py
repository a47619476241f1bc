"""What a sweep over every head costs, in plain forward passes, and what an adaptive one finds.

    python benchmarks/sweep_cost.py SPEC
    python benchmarks/sweep_cost.py SPEC --seeds 0 --lens-heads all

A sweep switches each of the N heads off on its own and measures the loss on repeats; by brute
force that is N forward passes over the same tokens. Printed for each seed (of the tokens) are
exact and adaptive sweep, each divided by N plain forwards, and the share of the exact sweep's
ten largest effects that are among the adaptive one's ten. The plain forward is timed just before
and after every sweep. TransformerLens' loop over heads is measured on some of them, spread over
the layers, and scaled to all. Run it alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from contenders import boot_bridge
from rounds import clock, row, table
from torch.nn import functional

import icl_bench
from icl_bench.errors import SettingsError
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.tokens import RepeatedTokens

TOP = 10
WITHIN = 1e-3


def time_plain(model: icl_bench.Model, tokens: RepeatedTokens, rounds: int) -> list[float]:
    """Return the seconds of plain forward passes over all sequences, one after a first one."""

    def plain() -> None:
        with torch.no_grad():
            model.model(tokens.input_ids, use_cache=False)

    plain()
    return [clock(plain) for _ in range(rounds)]


def time_beside(
    model: icl_bench.Model, tokens: RepeatedTokens, rounds: int, work: Callable[[], Any]
) -> tuple[Any, float]:
    """Return what `work` gives, and its time in plain forwards, measured around it."""
    before = time_plain(model, tokens, rounds)
    found: list[Any] = []
    seconds = clock(lambda: found.append(work()))
    return found[0], seconds / statistics.median(before + time_plain(model, tokens, rounds))


def largest(frame: pd.DataFrame) -> set[tuple[int, int]]:
    """Return the heads with the largest effect on the loss."""
    top = frame.nlargest(TOP, "delta")
    return set(zip(top["layer"].tolist(), top["head"].tolist()))


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` heads in even steps, so that all depths are among them."""
    step = max(1, len(frame) // count)
    return frame.iloc[step // 2 :: step]


def loop_lens(bridge: Any, tokens: RepeatedTokens, heads: pd.DataFrame) -> list[float]:
    """Switch heads off one by one with TransformerLens; return their losses on repeats."""
    targets = repeated_targets(tokens)
    answers = tokens.input_ids[:, targets]
    losses = []
    for layer, head in zip(heads["layer"].tolist(), heads["head"].tolist()):

        def cut(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:
            z[:, :, head] = 0
            return z

        with torch.no_grad():
            logits = bridge.run_with_hooks(
                tokens.input_ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", cut)]
            )
        picked = logits[:, targets - 1].float()
        losses.append(float(functional.cross_entropy(picked.flatten(0, 1), answers.flatten())))
    return losses


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--period", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5, help="plain forwards on either side")
    parser.add_argument("--lens-heads", default="12", metavar="N|all", help="0 leaves it out")
    given = parser.parse_args()

    model = icl_bench.load_model(given.model)
    count = sum(model.heads.values())
    shape = f"{given.sequences} sequences of 2 x {given.period} tokens"
    print(f"{given.model}: {count} heads, {shape}, {torch.get_num_threads()} threads\n")
    header = ["seed", "exact / N forwards", "adaptive / N forwards", f"largest {TOP} found"]
    print(table(header, []), flush=True)
    for seed in given.seeds:
        tokens = icl_bench.repeated_tokens(model, given.sequences, given.period, seed=seed)

        def sweep(exact: bool, tokens: RepeatedTokens = tokens) -> pd.DataFrame:
            return icl_bench.ablation_sweep(model, tokens, method="zero", exact=exact)

        exact, cost = time_beside(model, tokens, given.rounds, lambda: sweep(True))
        line = [str(seed), f"{cost / count:.2f}"]
        try:
            quick, less = time_beside(model, tokens, given.rounds, lambda: sweep(False))
            share = len(largest(exact) & largest(quick)) / min(TOP, count)
            line += [f"{less / count:.2f}", f"{share:.0%}"]
        except SettingsError as error:
            line += [f"not run: {error}", ""]
        print(row(*line), flush=True)

    if given.lens_heads == "0":
        return
    print()
    try:
        bridge = boot_bridge(model, False)
    except (ImportError, ValueError) as error:
        print(f"TransformerLens: not run: {str(error).splitlines()[0][:80]}")
        return
    heads = exact if given.lens_heads == "all" else spread(exact, int(given.lens_heads))
    loop_lens(bridge, tokens, heads.head(1))
    losses, loop = time_beside(
        model, tokens, given.rounds, lambda: loop_lens(bridge, tokens, heads)
    )
    apart = max(abs(a - b) for a, b in zip(losses, heads["repeated_loss"]))
    scaled = loop / len(heads)
    print(f"TransformerLens, {len(heads)} of {count} heads, scaled to all: ", end="")
    print(f"{scaled:.2f} of N forwards, {scaled * count / cost:.1f} x the exact sweep; ", end="")
    print(f"its losses are within {apart:.1g} nats" + ("" if apart <= WITHIN else ": NOT the same"))


if __name__ == "__main__":
    main()
