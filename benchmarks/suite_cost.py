"""What a whole suite costs on a model, in plain forward passes of one sequence.

    python benchmarks/suite_cost.py SPEC
    python benchmarks/suite_cost.py SPEC --suite core quiz

Hooks count the tokens that go through each decoder layer and through the language-modelling
head: layers that are passed over count nothing. Work is both, weighted by their parameters. The
time is that of the suite, loading left out, over the median of plain forwards of one sequence
before and after it. Run it alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from rounds import clock, row, table
from torch import nn

import icl_bench
from icl_bench.models.module.families import find_decoder_layers


def first_weights(layer: nn.Module) -> nn.Module:
    """Return the first innermost module with weights: it runs if and only if the layer does."""
    for module in layer.modules():
        if not any(module.children()) and any(True for _ in module.parameters()):
            return module
    raise ValueError(f"{type(layer).__name__} has no weights")


@contextmanager
def counted(model: Any) -> Iterator[Counter]:
    """Count the tokens that go through each layer (by its index) and through the `head`."""
    tokens: Counter = Counter()

    def count(key: int | str) -> Any:
        def hook(module: nn.Module, arguments: tuple, output: Any) -> None:
            tokens[key] += arguments[0].shape[:-1].numel()

        return hook

    layers = find_decoder_layers(model)
    assert layers is not None
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            handle = first_weights(layer).register_forward_hook(count(index))
            stack.callback(handle.remove)
        head = model.get_output_embeddings()
        stack.callback(head.register_forward_hook(count("head")).remove)
        yield tokens


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--suite", nargs="+", default=["core"], metavar="NAME|PATH")
    parser.add_argument("--period", type=int, default=50, help="of the plain forward's sequence")
    parser.add_argument("--rounds", type=int, default=7, help="plain forwards on either side")
    given = parser.parse_args()

    model = icl_bench.load_model(given.model)
    module = model.model
    ids = icl_bench.repeated_tokens(model, sequences=1, period=given.period).input_ids

    def plain() -> None:
        with torch.no_grad():
            module(ids, use_cache=False)

    layers = find_decoder_layers(module)
    assert layers is not None
    in_layers = sum(p.numel() for p in layers.parameters())
    in_head = sum(p.numel() for p in module.get_output_embeddings().parameters())
    print(f"{given.model}: sequence of {ids.shape[1]} tokens, {torch.get_num_threads()} threads\n")
    print(table(["suite", "layers", "head", "work", "time", "seconds"], []), flush=True)
    for suite in given.suite:
        plain()
        forwards = [clock(plain) for _ in range(given.rounds)]
        with counted(module) as tokens:
            seconds = clock(lambda suite=suite: icl_bench.run([suite], model, cache=False))
        forwards += [clock(plain) for _ in range(given.rounds)]
        head = tokens.pop("head", 0) / ids.shape[1]
        body = sum(tokens.values()) / len(layers) / ids.shape[1]
        work = (body * in_layers + head * in_head) / (in_layers + in_head)
        time = seconds / statistics.median(forwards)
        counts = [f"{number:.0f}" for number in (body, head, work, time)]
        print(row(suite, *counts, f"{seconds:.1f}"), flush=True)


if __name__ == "__main__":
    main()
