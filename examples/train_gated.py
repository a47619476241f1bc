"""A hand-written training loop with a gate: is there an induction head by step 1,200?

    python examples/train_gated.py              # two layers: the circuit forms
    python examples/train_gated.py --layers 1   # one layer cannot: stops at step 1,200, exit 1

A few minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import torch
from torch import nn

from icl_bench.errors import TrainingGateError
from icl_bench.integrations import Keeps, Reaches, TrainingGate
from icl_bench.reference.architecture import IclReferenceConfig, IclReferenceForCausalLM
from icl_bench.reference.training_data import SequenceSource

GATES = [
    Reaches("induction_max", above=0.4, by_step=1200),
    Keeps("induction_max", within=0.1),
]


def fresh_model(layers: int, seed: int) -> IclReferenceForCausalLM:
    """Return an attention-only model of width 128 with four heads a layer."""
    torch.manual_seed(seed)
    return IclReferenceForCausalLM(
        IclReferenceConfig(
            num_hidden_layers=layers,
            hidden_size=128,
            num_attention_heads=4,
            head_dim=32,
            max_position_embeddings=64,
        )
    )


def main() -> int:
    """Train, measure every 200 steps, stop when a gate says so."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the records; a temporary one if not given")
    given = parser.parse_args()

    folder = given.folder or tempfile.mkdtemp(prefix="train_gated-")
    model = fresh_model(given.layers, given.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    source = SequenceSource(given.seed)  # repeated random blocks, and a chain of likely successors
    gate = TrainingGate(model, ["gate"], GATES, every=200, folder=folder)

    print(" step    loss  induction  previous token")
    for step in range(1, given.steps + 1):
        tokens = source.batch(32, 64)
        logits = model(tokens).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if gate.is_due(step):
            try:
                found = gate.check(step).scalars()
            except TrainingGateError as error:
                print(error)
                return 1
            scores = [found[f"icl/gate/repeats/{n}_max"] for n in ("induction", "previous_token")]
            print(f"{step:5}  {loss:6.3f}  {scores[0]:9.3f}  {scores[1]:14.3f}", flush=True)
    for verdict in gate.history[-1].gates:
        print(f"{verdict.verdict}: {verdict.gate} ({verdict.reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
