"""Hand-set models that lack the induction circuit, or do not copy by it, and may look as if.

A docstring says what a model does and what is right; `verdict_table` has it check by check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from handset import (
    COPIED,
    FIRST,
    ONE,
    OUTPUT,
    SINK,
    TOKEN,
    add_duplicate_token,
    add_induction,
    add_positional,
    add_previous_token,
    blank,
    textbook,
)
from torch import Tensor
from verdict_families import followed, seen_before
from verdict_models import matching_heads

from icl_bench import load_model
from icl_bench.reference import handwired as hw
from icl_bench.reference.architecture import IclReferenceForCausalLM

Built = IclReferenceForCausalLM


def positional_copier(period: int) -> Built:
    """Copies at one period only, with a weak matching head beside.

    Head 1.1 copies the token `period` - 1 places back. Head 1.0 matches, gives the match .36 of
    its attention and writes almost nothing. Right: fails; at any other distance nothing is
    copied, and the head that matches does not copy.
    """
    model = blank()
    add_previous_token(model)
    add_induction(model, attention=0.36, write=0.05)
    add_positional(model, period)
    return model


def shift_by_position(period: int) -> Built:
    """Copies what stands `period` - 1 places back by learned positions; nothing matches.

    Right: fails, at its own period too: its attention ignores the tokens.
    """
    model = blank()
    add_positional(model, period, index=0)
    return model


def positional_copies_beside_circuit(period: int) -> Built:
    """Adds to the textbook circuit a head that attends by position and copies what it finds.

    Right: fails; at its period copying remains when the induction heads are ablated. At other
    distances it is lost.
    """
    model = textbook()
    add_positional(model, period)
    return model


def duplicate_token_idle() -> Built:
    """Attends to earlier occurrences of the current token and writes nothing.

    Right: fails; the token that followed is neither attended nor copied.
    """
    model = blank()
    add_duplicate_token(model, write=0)
    return model


def duplicate_token_copied() -> Built:
    """Attends to earlier occurrences of the current token and predicts that token again.

    Right: fails; it copies the wrong token.
    """
    model = blank()
    add_duplicate_token(model, write=1)
    return model


def shift_by_two() -> Built:
    """Has the circuit with a head that looks two places back instead of one.

    Right: fails; it attends to and copies the token after the next.
    """
    model = blank()
    add_previous_token(model, distance=2)
    add_induction(model)
    return model


def idle_induction_alone() -> Built:
    """Has one head that attends as an induction head does and writes nothing.

    Right: fails; attention alone copies nothing.
    """
    return matching_heads(0)


def negative_alone() -> Built:
    """Has one head that attends as an induction head does and lowers the token's logit.

    Right: fails; the second copy costs more than the first.
    """
    return matching_heads(-1)


def backup_head() -> Built:
    """Has a second head, in a third layer, that copies where the first one has not.

    Head 1.0 marks where it copied; there head 2.0 rests. In the clean run only 1.0 attends by
    match. Right: fails; ablating the induction heads that are found does not stop copying, because
    2.0 takes over. With attention frozen to the clean run it cannot, so `olsson` passes.
    """
    model = textbook(layers=3)
    first = add_induction(model)
    first.value[SINK, ONE] = 1
    first.value[SINK, FIRST] = -1
    first.output[COPIED, SINK] = 1
    backup = add_induction(model, layer=2)
    backup.query[SINK, COPIED] = backup.scale
    return model


def previous_token_only() -> Built:
    """Has a previous-token head, and nothing that uses it.

    Right: fails; the check for that head passes.
    """
    model = blank()
    add_previous_token(model)
    return model


def unigram() -> Built:
    """Predicts the same everywhere: some words are more frequent, no head does anything.

    Right: fails; the loss on a token is the same the first and the second time.
    """
    model = blank()
    with torch.no_grad():
        model.model.embed_positions.weight[:, OUTPUT.start] = 1.0
        model.lm_head.weight[:, OUTPUT.start] = torch.linspace(-2, 2, model.config.vocab_size)
    return model


def bigram() -> Built:
    """Predicts from the current token alone, by a fixed table; no head does anything.

    Right: fails; its prediction after a token is the same the first and the second time.
    """
    model = blank()
    with torch.no_grad():
        codes = hw.token_codes()
        model.model.embed_tokens.weight[:, OUTPUT] = codes.roll(1, dims=0) / 3
    return model


def random_weights(seed: int = 0) -> Built:
    """Has random weights.

    Right: fails; nothing was learned.
    """
    config = blank().config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = IclReferenceForCausalLM(config)
    return model.eval()


def idle_circuit_with_cache() -> Built:
    """Attends as the circuit does and writes almost nothing; a cache raises all tokens seen.

    Right: fails. Attention is that of the circuit and repeats gain several nats, but a shuffled
    copy gains as much, and ablating the heads loses nothing.
    """
    return _add_state(matching_heads(_IDLE), lambda tokens, count: 6 * seen_before(tokens, count))


def idle_circuit_with_memory() -> Built:
    """Attends as the circuit does and writes almost nothing; a memory knows what followed.

    Right: fails. Attention is that of the circuit and tokens are copied in order, but ablating
    the heads loses nothing.
    """
    return _add_state(matching_heads(_IDLE), lambda tokens, count: 12 * followed(tokens, count))


_IDLE = 1e-3
"""What idle heads write. Not quite nothing: a model in which no head changes a logit is refused as
one that is not understood."""


def _add_state(model: Built, recall: Callable[[Tensor, int], Tensor]) -> Built:
    """Add to the logits what `recall` returns, (rows, length, vocabulary), of the tokens so far."""
    codes = hw.token_codes()

    def append(module: Any, arguments: Any, stream: Tensor) -> Tensor:
        tokens = (stream[..., TOKEN] @ codes.T).argmax(-1)
        return torch.cat([stream, recall(tokens, len(codes))], dim=-1)

    wide = torch.cat([model.lm_head.weight.data, torch.eye(len(codes))], dim=1)
    model.lm_head = torch.nn.Linear(wide.shape[1], len(codes), bias=False)
    model.lm_head.weight.data.copy_(wide)
    model.model.norm.register_forward_hook(append)
    return model


def trained_one_layer() -> Any:
    """Was trained in the same way with one layer (`builtin:control-1l`).

    Right: fails; one layer cannot match what came before a token.
    """
    return load_model("builtin:control-1l").model
