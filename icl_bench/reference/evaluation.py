"""A short look at a reference model after training: does it have the circuit?

Only what the training script reports. The probes measure the same things with care; this room
lies below them and may not use them.
"""

from __future__ import annotations

import torch
from torch import nn

from icl_bench.reference.architecture import IclReferenceForCausalLM
from icl_bench.reference.training_data import FIRST_WORD

_SEED = 20_000  # no training stream starts here


def evaluate(
    model: IclReferenceForCausalLM, sequences: int = 16, period: int = 50
) -> dict[str, float]:
    """Return the best head's scores and the losses on `<bos>` and two copies of random words.

    Scores are attention probabilities: `induction` A[i, i - n + 1] over copy 2, of any head;
    `previous_token` A[i, i - 1], of the heads of layer 0. Losses are in nats per token.

    Args:
        model: the model; its attention function and mode are put back afterwards.
        sequences: number of sequences.
        period: tokens in a block.
    """
    generator = torch.Generator().manual_seed(_SEED)
    words = model.config.vocab_size - FIRST_WORD
    blocks = [torch.randperm(words, generator=generator)[:period] for _ in range(sequences)]
    tokens = torch.stack(blocks).repeat(1, 2) + FIRST_WORD
    tokens = torch.cat([torch.full((sequences, 1), model.config.bos_token_id), tokens], dim=1)
    attentions, logits = _run(model, tokens)
    losses = nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    second = torch.arange(period + 1, 2 * period + 1)
    every = torch.arange(2, 2 * period + 1)
    induction = [layer[:, :, second, second - period + 1] for layer in attentions]
    previous = attentions[0][:, :, every, every - 1]
    return {
        "induction": max(float(layer.mean((0, 2)).max()) for layer in induction),
        "previous_token": float(previous.mean((0, 2)).max()),
        "first_loss": float(losses[:, 1:period].mean()),
        "repeated_loss": float(losses[:, period + 1 :].mean()),
    }


def _run(
    model: IclReferenceForCausalLM, tokens: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    attention, training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = model.eval()(tokens, output_attentions=True)
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
    return output.attentions, output.logits
