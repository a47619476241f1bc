"""How often a comparison with a baseline fails without a cause, and which damage it catches.

    python benchmarks/baseline_noise.py
    python benchmarks/baseline_noise.py --model SPEC --pairs 2 --seeds 0

First, pairs of runs of one model that differ by what matters to nobody: other tokens, weights
rounded to bfloat16, another batch size, or weights each multiplied by 1 + .0001 z with z standard
normal. Printed is how many of them fail with the default limits, how many fail with `*=noise`
(every change beyond noise counts), and what failed.

Then one head's output is scaled down step by step, in the weights of its output projection, and the
run on the same tokens is compared with that of the whole model. Printed is for every head above the
threshold and every scale in how many of the seeds that was caught, to the first scale at which it
always was (with --every-scale to the last). A scale that is never caught in the first 8 seeds is
not tried with more.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator

import torch
from rounds import row, table

import icl_bench
from icl_bench.comparing import Comparison, compare, parse_limit
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import describe_check, describe_head

KINDS = ("tokens", "bfloat16", "batch", "noise")
SCALES = (*(round(1 - step / 50, 2) for step in range(1, 26)), 0.4, 0.3, 0.2, 0.1, 0.0)
NOISE = 1e-4
OTHER_TOKENS = 10_000
"""Added to a seed for other tokens."""
HOPELESS = 8
"""Seeds after which a scale that was never caught is left."""


def measure(model: icl_bench.Model, suite: str, seed: int) -> RunRecord:
    """Return the record of one suite."""
    return icl_bench.run([suite], model, seed=seed, cache=False)


@torch.no_grad()
def edited(
    model: icl_bench.Model,
    edit: Callable[[icl_bench.Model], object],
    batch_size: int | None = None,
) -> icl_bench.Model:
    """Return a copy of a model with other weights or another batch size."""
    wrapped = icl_bench.wrap(copy.deepcopy(model.model), model.tokenizer, batch_size=batch_size)
    edit(wrapped)
    return wrapped


def disturbed(model: icl_bench.Model, kind: str, seed: int) -> icl_bench.Model:
    """Return the model as the second run of a pair has it."""
    generator = torch.Generator().manual_seed(seed)

    def edit(made: icl_bench.Model) -> None:
        for weight in made.model.parameters():
            if kind == "bfloat16":
                weight.copy_(weight.to(torch.bfloat16))
            elif kind == "noise":
                z = torch.randn(weight.shape, generator=generator)
                weight.mul_((1 + NOISE * z).to(weight))

    return edited(model, edit, batch_size=3 if kind == "batch" else None)


def scaled(model: icl_bench.Model, layer: int, head: int, scale: float) -> icl_bench.Model:
    """Return the model with one head's output scaled."""

    def edit(made: icl_bench.Model) -> None:
        found = made.anatomy.layers[layer]
        matrix = found.output_matrix()  # a view of the weights
        matrix[:, head * found.width : (head + 1) * found.width] *= scale

    return edited(model, edit)


def failures(found: Comparison) -> list[str]:
    """What fails a comparison, in words."""
    told = [describe_head(head, with_key=True) for head in found.died]
    bad = ("regressed", "vanished", "unclear")
    told += [describe_check(check) for check in found.checks if check.state in bad]
    told += [
        f"{one.key}.{one.metric} {one.state}: {one.baseline:.4g} -> {one.value}, {one.reason}"
        for one in found.metrics
        if one.state in bad
    ]
    return told


def count_false_alarms(model: icl_bench.Model, suite: str, pairs: int, kinds: list[str]) -> None:
    """Print how many pairs without a cause fail."""
    print(table(["what differs", "pairs", "fail", "fail with `*=noise`"], []))
    why, noise = [], [parse_limit("*=noise")]
    baselines = [measure(model, suite, seed) for seed in range(pairs)]
    for kind in kinds:
        alarms = strict = 0
        for seed, before in enumerate(baselines):
            other = seed + (OTHER_TOKENS if kind == "tokens" else 0)
            after = measure(disturbed(model, kind, seed), suite, other)
            found = compare(before, after)
            alarms += not found.passes()
            strict += not compare(before, after, noise).passes()
            why += [f"{kind}, seed {seed}: {line}" for line in failures(found)]
        print(row(kind, str(pairs), str(alarms), str(strict)), flush=True)
    print()
    print("\n".join(why) or "nothing failed")


def circuit(record: RunRecord) -> Iterator[tuple[str, int, int]]:
    """Yield kind, layer and head of the heads whose loss a comparison names."""
    for measurement in record.measurements.values():
        for kind in ("induction", "previous_token"):
            for one in measurement.heads:
                if one.get(kind, 0) > 0.4:
                    yield kind, one["layer"], one["head"]


def count_catches(
    model: icl_bench.Model, suite: str, seeds: int, scales: list[float], every: bool
) -> None:
    """Print in how many runs damage to one head is caught."""
    baselines = [measure(model, suite, seed) for seed in range(seeds)]
    print(table(["head", "scale", "gain lost", "caught"], []))
    for kind, layer, head in circuit(baselines[0]):
        for scale in scales:
            damaged, lost, caught = scaled(model, layer, head, scale), [], 0
            for seed, before in enumerate(baselines):
                after = measure(damaged, suite, seed)
                caught += not compare(before, after).passes()
                lost.append(1 - gain(after) / gain(before))
                if not caught and len(lost) == HOPELESS:
                    break
            name, share = f"{kind} {layer}.{head}", sum(lost) / len(lost)
            counted = f"{caught} of {len(lost)}"
            print(row(name, f"{scale:g}", f"{share:.1%}", counted), flush=True)
            if caught == seeds and not every:
                break


def gain(record: RunRecord) -> float:
    """The gain from repetition, in nats."""
    found = [one.metrics["gain"] for one in record.measurements.values() if "gain" in one.metrics]
    return found[0].value


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="SPEC", default="builtin:induction-2l")
    parser.add_argument("--suite", default="gate")
    parser.add_argument("--pairs", type=int, default=25, help="of each kind; 0 for none")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=59, help="for damage; 0 for none")
    parser.add_argument("--scales", nargs="+", type=float, default=list(SCALES))
    parser.add_argument("--every-scale", action="store_true", help="do not stop when caught")
    given = parser.parse_args()
    model = icl_bench.load_model(given.model)
    if given.pairs:
        count_false_alarms(model, given.suite, given.pairs, given.kinds)
        print()
    if given.seeds:
        count_catches(model, given.suite, given.seeds, given.scales, given.every_scale)


if __name__ == "__main__":
    main()
